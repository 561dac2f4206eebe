// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/text/stages.hpp"
#include "core/text/vocabulary.hpp"

namespace kerf::core {

/// A token that is looked for in the text before the model sees it.
struct AddedToken {
    std::string content;
    bool single_word = false;  ///< only where no word character touches it
    bool lstrip = false;       ///< takes the white space before it
    bool rstrip = false;       ///< takes the white space behind it
    bool normalized = false;   ///< looked for in the normalised text, by its normalised form
    bool special = true;       ///< dropped by decode(skip_special)
};

/// {"content": …, "lstrip": …}; as a text it is that special token.
AddedToken read_added_token(const JsonPart& part, bool special);

/// The added tokens of a tokenizer, and the first steps of encoding: find them, normalise the rest.
class AddedTokens {
public:
    /// The id is the vocabulary's, else the next free one. A token that is there already takes the new properties.
    /// Error(input), which begins with `where`, for contents that no tokenizer has (above 1024 bytes, 4 MiB in all).
    void add(const AddedToken& token, const Vocabulary& vocabulary, const Normalizer& normalizer,
             const std::string& where);

    bool contains(std::string_view content) const { return ids_.find(content) != ids_.end(); }
    std::optional<std::int64_t> find(std::string_view content) const;
    /// What stands for the id when decoding; nullptr when it is no added token.
    const std::string* text_of(std::int64_t id) const;
    bool is_special(std::string_view token) const { return special_.find(token) != special_.end(); }
    std::int64_t largest_id() const { return largest_id_; }  ///< -1 for none

    Pieces split(std::string_view text, const Normalizer& normalizer) const;

private:
    struct Known {
        AddedToken token;
        std::string pattern;  // as it is looked for
    };
    /// Finds the longest of some texts at a place, by its first byte and the lengths that begin with it.
    struct Finder {
        TextMap<std::int64_t> ids;
        std::array<std::vector<std::size_t>, 256> lengths;  // descending

        void add(const std::string& pattern, std::int64_t id);
        void remove(const std::string& pattern);
        std::optional<std::pair<std::int64_t, std::size_t>> longest_at(std::string_view text, std::size_t at) const;
    };
    void split_by(const Finder& finder, const Piece& piece, Pieces& out) const;

    std::unordered_map<std::int64_t, Known> known_;
    TextMap<std::int64_t> ids_;
    TextMap<bool> special_;
    Finder raw_, normalized_;
    std::int64_t largest_id_ = -1;
    std::size_t bytes_ = 0;
};

}  // namespace kerf::core
