// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/tokenizer.hpp"

namespace kerf::core {

/// Token ids that come one by one, as text that comes piece by piece. All pieces together are what decoding all ids at
/// once adds to the prompt's text; a piece ends where a character ends: bytes of one that more tokens must finish are
/// held back.
class TextStream {
public:
    /// `prompt`: the ids before the first; how a token reads may depend on those before it.
    TextStream(const Tokenizer& tokenizer, std::span<const std::int64_t> prompt);

    /// The text that this id adds, perhaps none.
    std::string add(std::int64_t id);
    /// What is still held back, when no more ids come.
    std::string finish();

private:
    std::string decoded(std::size_t first, std::size_t last) const;
    std::string told();

    const Tokenizer& tokenizer_;
    std::vector<std::int64_t> ids_;
    std::size_t from_ = 0, told_ = 0;  ///< ids [from_, told_) are context, those behind are not told yet
};

/// Text that comes piece by piece, up to the first of some stop texts. What may be the beginning of one is held back.
class StopTexts {
public:
    explicit StopTexts(std::vector<std::string> stops) : stops_(std::move(stops)) {}

    /// What of the text so far is certain to come before any stop text and was not given yet.
    std::string add(std::string_view piece);
    /// What is still held back, when no more comes; nothing once stopped().
    std::string finish();
    bool stopped() const noexcept { return stopped_; }

private:
    std::vector<std::string> stops_;
    std::string held_;
    bool stopped_ = false;
};

}  // namespace kerf::core
