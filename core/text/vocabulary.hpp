// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
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

}  // namespace kerf::core
