// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::core {

/// Its arguments, written one after the other.
template <class... Pieces>
std::string text(const Pieces&... pieces) {
    std::ostringstream out;
    (out << ... << pieces);
    return std::move(out).str();
}

/// Shell-style match of a whole name: `*` any run (dots included), `?` one character, `[abc]` one of a set.
bool glob_match(std::string_view pattern, std::string_view name);

/// "6GiB", "512 MiB", "1e9", "2GB" → bytes. Bad input throws Error(input).
std::uint64_t parse_bytes(std::string_view text);

/// 1536 → "1.5 KiB".
std::string format_bytes(double bytes);
/// 75.3 → "1 min 15 s".
std::string format_seconds(double seconds);

/// `[2, 64]`
std::string format_shape(const std::vector<std::int64_t>& shape);

/// The known word nearest to `word` by edit distance, empty when none is near: for "did you mean".
std::string nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace kerf::core
