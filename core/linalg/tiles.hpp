// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>

namespace kerf::core::linalg {

/// Tile number t of a lower triangle, counted row by row: (row, column), column ≤ row.
inline std::pair<std::int64_t, std::int64_t> lower_tile(std::int64_t t) {
    std::int64_t row = 0;
    while (t > row) t -= ++row;
    return {row, t};
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

}  // namespace kerf::core::linalg
