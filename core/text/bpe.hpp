// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <utility>

#include "core/text/subword_model.hpp"

namespace kerf::core {

/// Byte-pair encoding: characters, then the merge of lowest rank again and again.
class Bpe final : public SubwordModel {
public:
    struct Options {
        std::optional<std::int64_t>
            unknown;                 ///< the id of what the vocabulary lacks; such characters vanish without one
        bool fuse_unknown = false;   ///< a run of unknown characters is one unknown token
        bool byte_fallback = false;  ///< unknown characters as tokens <0x00> … <0xFF>
        bool ignore_merges = false;  ///< a word that is a token is that token, whatever the merges say
    };
    using MergeRule = std::pair<std::string, std::string>;

    /// `merges` by rank, best first. Error(input), which begins with `where`: a merge whose parts or whole the
    /// vocabulary lacks.
    Bpe(Vocabulary vocabulary, const std::vector<MergeRule>& merges, Options options, const std::string& where);

    const Vocabulary& vocabulary() const override { return vocabulary_; }
    std::unique_ptr<SubwordModel::Session> session() const override { return std::make_unique<Session>(*this); }

    class Session final : public SubwordModel::Session {
    public:
        explicit Session(const Bpe& model) : model_(model) {}
        /// n characters take O(n log n).
        void encode(std::string_view word, std::vector<std::int64_t>& out) override;
        /// Pairs of neighbours that were looked up so far: what a word costs, at most six a character.
        std::uint64_t lookups() const { return lookups_; }

    private:
        struct Symbol {
            std::int32_t id, previous, next;  // -1: none; id -1: merged into the one before
        };
        struct Candidate {
            std::int32_t rank, position, product;
            bool operator<(const Candidate& other) const {  // the top of the heap: lowest rank, then leftmost
                return rank != other.rank ? rank > other.rank : position > other.position;
            }
        };
        void encode_part(std::string_view part, std::vector<std::int64_t>& out);
        void read_symbols(std::string_view part);
        void add_symbol(std::int64_t id);
        void propose(std::int32_t left);
        void merge_all();

        const Bpe& model_;
        TextMap<std::vector<std::int64_t>> known_;
        std::vector<Symbol> symbols_;
        std::vector<Candidate> heap_;
        std::uint64_t lookups_ = 0;
    };

private:
    struct Merge {
        std::int32_t rank, product;
    };
    static std::uint64_t pair(std::int64_t left, std::int64_t right) {
        return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
    }
    std::optional<std::int64_t> character(std::string_view bytes) const;

    Vocabulary vocabulary_;
    std::unordered_map<std::uint64_t, Merge> merges_;
    Options options_;
    ByteTokens bytes_;
    std::array<std::int64_t, 512>
        short_characters_{};        // ids of U+0000 … U+01FF, all that byte-level text has; -1: none
    bool parts_at_spaces_ = false;  // no merge crosses from another character into U+2581
};

}  // namespace kerf::core
