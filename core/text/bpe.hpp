// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace kerf::core {

struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

/// Tokens and their ids, both ways.
class Vocabulary {
public:
    Vocabulary() = default;
    Vocabulary(Vocabulary&&) = default;
    Vocabulary& operator=(Vocabulary&&) = default;

    /// No model is near it; a larger id is a broken or hostile file.
    static constexpr std::int64_t largest_id = (std::int64_t{1} << 22) - 1;

    /// Error(input), which begins with `where`: an id out of range, a token or an id that is already there.
    void add(std::string token, std::int64_t id, const std::string& where);
    std::optional<std::int64_t> find(std::string_view token) const;
    const std::string* token(std::int64_t id) const;  ///< nullptr for an unknown id
    std::int64_t tokens() const { return static_cast<std::int64_t>(ids_.size()); }
    std::int64_t past_largest_id() const { return static_cast<std::int64_t>(names_.size()); }

private:
    TextMap<std::int64_t> ids_;
    std::vector<const std::string*> names_;  // by id; the keys of ids_ stay where they are
};

/// Byte-pair encoding: characters, then the merge of lowest rank again and again.
class Bpe {
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

    const Vocabulary& vocabulary() const { return vocabulary_; }

    /// What one call of the tokenizer remembers: words that it has seen, and working memory.
    class Session {
    public:
        explicit Session(const Bpe& model) : model_(model) {}
        /// Appends the ids of a word; n characters take O(n log n).
        void encode(std::string_view word, std::vector<std::int64_t>& out);

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
    std::array<std::int64_t, 256> bytes_{};  // ids of <0x00> … <0xFF>, -1 where missing
    std::array<std::int64_t, 512>
        short_characters_{};        // ids of U+0000 … U+01FF, all that byte-level text has; -1: none
    bool parts_at_spaces_ = false;  // no merge crosses from another character into U+2581
};

}  // namespace kerf::core
