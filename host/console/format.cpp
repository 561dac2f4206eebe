// SPDX-License-Identifier: Apache-2.0
#include "host/console/format.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace kerf::host {
namespace {

bool starts_character(char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
}

template <class... Values>
std::string printed(const char* format, Values... values) {
    std::array<char, 96> out{};
    std::snprintf(out.data(), out.size(), format, values...);
    return out.data();
}

}  // namespace

std::size_t columns_of(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), starts_character));
}

std::string shortened(std::string_view text, std::size_t columns) {
    if (columns_of(text) <= columns) return std::string(text);
    if (columns == 0) return {};
    std::size_t at = 0, seen = 0;
    for (; at < text.size(); ++at)
        if (starts_character(text[at]) && ++seen == columns) break;
    return std::string(text.substr(0, at)) + "…";
}

std::string aligned_table(const std::vector<std::vector<std::string>>& rows, std::string_view alignment) {
    std::vector<std::size_t> widths(alignment.size());
    for (const auto& row : rows)
        for (std::size_t i = 0; i < row.size() && i < widths.size(); ++i)
            widths[i] = std::max(widths[i], columns_of(row[i]));
    std::string out;
    for (const auto& row : rows) {
        std::string line;
        for (std::size_t i = 0; i < row.size() && i < widths.size(); ++i) {
            const std::string padding(widths[i] - columns_of(row[i]), ' ');
            line += (i > 0 ? "  " : "") + (alignment[i] == 'r' ? padding + row[i] : row[i] + padding);
        }
        line.erase(line.find_last_not_of(' ') + 1);
        out += line + "\n";
    }
    return out;
}

std::string short_count(double number) {
    constexpr std::array<const char*, 7> units{"", " k", " M", " G", " T", " P", " E"};
    std::size_t unit = 0;
    while (std::abs(number) >= 999.5 && unit + 1 < units.size()) {
        number /= 1000;
        ++unit;
    }
    return printed(unit == 0 ? "%.0f%s" : "%.3g%s", number, units[unit]);
}

std::string fixed(double number, int digits) {
    return std::isfinite(number) ? printed("%.*f", digits, number) : "–";
}

std::string significant(double number) {
    return std::isfinite(number) ? printed("%.3g", number) : "–";
}

std::string percent(double share, int digits) {
    return std::isfinite(share) ? printed("%.*f %%", digits, 100 * share) : "–";
}

std::string signed_percent(double share) {
    return std::isfinite(share) ? printed("%+.1f %%", 100 * share) : "–";
}

}  // namespace kerf::host
