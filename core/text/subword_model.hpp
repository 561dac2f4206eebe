// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>

#include "core/text/vocabulary.hpp"

namespace kerf::core {

/// The last stage of a tokenizer: pieces of text that no pre-tokenizer cuts further, to ids.
class SubwordModel {
public:
    /// What one call of the tokenizer remembers: words that it has seen, and working memory. The model outlives it.
    class Session {
    public:
        virtual ~Session() = default;
        /// Appends the ids of a word, which is valid UTF-8.
        virtual void encode(std::string_view word, std::vector<std::int64_t>& out) = 0;
    };

    virtual ~SubwordModel() = default;
    virtual const Vocabulary& vocabulary() const = 0;
    virtual std::unique_ptr<Session> session() const = 0;
};

/// The ids of the tokens <0x00> … <0xFF>, which spell what a vocabulary lacks; -1 where one is missing.
class ByteTokens {
public:
    explicit ByteTokens(const Vocabulary& vocabulary);
    /// Appends the ids of all bytes, or nothing and false when one of them has no token.
    bool spell(std::string_view bytes, std::vector<std::int64_t>& out) const;
    std::int64_t operator[](unsigned char byte) const { return ids_[byte]; }

private:
    std::array<std::int64_t, 256> ids_{};
};

}  // namespace kerf::core
