// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::host {

/// How many places a UTF-8 text takes on a terminal (every character counts as one).
std::size_t columns_of(std::string_view text);

/// `text` cut to at most `columns` places, with "…" at its end when something is missing.
std::string shortened(std::string_view text, std::size_t columns);

/// Rows of cells, aligned in columns. The first row is the header; columns whose letter in `alignment` is 'r' go to the
/// right.
std::string aligned_table(const std::vector<std::vector<std::string>>& rows, std::string_view alignment);

/// 3145728 → "3.15 M", 1.2e12 → "1.2 T"
std::string short_count(double number);
/// Fixed digits behind the point; "–" for what is not finite.
std::string fixed(double number, int digits);
/// 0.00123 → "0.00123", 1.2e-7 → "1.2e-07": three significant digits.
std::string significant(double number);
/// 0.123 → "12.3 %"
std::string percent(double share, int digits = 1);
/// +0.0178 → "+1.8 %"
std::string signed_percent(double share);

}  // namespace kerf::host
