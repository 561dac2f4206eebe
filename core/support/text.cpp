// SPDX-License-Identifier: Apache-2.0
#include "core/support/text.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

#include "core/support/error.hpp"

namespace kerf::core {

bool glob_match(std::string_view pattern, std::string_view name) {
    return ::fnmatch(std::string(pattern).c_str(), std::string(name).c_str(), 0) == 0;
}

std::uint64_t parse_bytes(std::string_view written) {
    constexpr std::array<std::pair<std::string_view, double>, 13> units{{{"", 1.0},
                                                                         {"b", 1.0},
                                                                         {"kb", 1e3},
                                                                         {"mb", 1e6},
                                                                         {"gb", 1e9},
                                                                         {"tb", 1e12},
                                                                         {"kib", 1024.0},
                                                                         {"mib", 1048576.0},
                                                                         {"gib", 1073741824.0},
                                                                         {"tib", 1099511627776.0},
                                                                         {"k", 1024.0},
                                                                         {"m", 1048576.0},
                                                                         {"g", 1073741824.0}}};
    double number = 0;
    const auto [end, status] = std::from_chars(written.data(), written.data() + written.size(), number);
    std::string unit;
    for (const char* at = end; at != written.data() + written.size(); ++at)
        if (*at != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*at)));
    const auto known = std::find_if(units.begin(), units.end(), [&](const auto& u) { return u.first == unit; });
    if (status != std::errc() || known == units.end() || !(number >= 0) || number * known->second > 9e18)
        bad_input("\"", written, "\" is not a size; write it as in \"6GiB\" or \"512MiB\"");
    return static_cast<std::uint64_t>(number * known->second);
}

std::string format_bytes(double bytes) {
    constexpr std::array<const char*, 6> units{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    std::size_t unit = 0;
    while (std::abs(bytes) >= 1024 && unit + 1 < units.size()) {
        bytes /= 1024;
        ++unit;
    }
    std::array<char, 48> out{};
    std::snprintf(out.data(), out.size(), unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return out.data();
}

std::string format_seconds(double seconds) {
    std::array<char, 64> out{};
    if (seconds < 1)
        std::snprintf(out.data(), out.size(), "%.2f s", seconds);
    else if (seconds < 60)
        std::snprintf(out.data(), out.size(), "%.1f s", seconds);
    else if (seconds < 3600)
        std::snprintf(out.data(), out.size(), "%d min %02d s", static_cast<int>(seconds) / 60,
                      static_cast<int>(seconds) % 60);
    else
        std::snprintf(out.data(), out.size(), "%d h %02d min", static_cast<int>(seconds / 3600),
                      static_cast<int>(seconds / 60) % 60);
    return out.data();
}

std::string format_shape(const std::vector<std::int64_t>& shape) {
    std::string out = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
}

namespace {
std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), 0u);
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i);
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, change}));
        }
    }
    return row.back();
}
}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
    std::string best;
    std::size_t best_distance = 1 + word.size() / 3 + 1;
    for (const auto& candidate : known) {
        const auto distance = edit_distance(word, candidate);
        if (distance < best_distance) {
            best_distance = distance;
            best = candidate;
        }
    }
    return best;
}

}  // namespace kerf::core
