// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

/// Python's text methods on UTF-8.
namespace kerf::core::jinja {

/// Each character by itself.
std::vector<std::string> characters(std::string_view text);
std::size_t character_count(std::string_view text);
/// Without the characters of `which` (empty: white space) at its ends.
std::string stripped(std::string_view text, std::string_view which, bool left, bool right);
/// At white space, runs of it as one, or at `separator`; at most `most` cuts (-1: all).
std::vector<std::string> split(std::string_view text, const std::string* separator, std::int64_t most, bool from_right);
std::vector<std::string> split_lines(std::string_view text);
std::string replaced(std::string_view text, std::string_view old, std::string_view with, std::int64_t most);
std::string upper(std::string_view text);
std::string lower(std::string_view text);
/// First character large, the others small; title: of every word.
std::string capitalized(std::string_view text);
std::string titled(std::string_view text);

}  // namespace kerf::core::jinja
