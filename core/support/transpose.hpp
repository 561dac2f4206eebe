// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kerf::core {

/// A matrix [rows, columns] as [columns, rows], both row-major.
inline std::vector<float> transposed(std::span<const float> matrix, std::int64_t rows, std::int64_t columns) {
    std::vector<float> out(matrix.size());
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < columns; ++c)
            out[std::size_t(c * rows + r)] = matrix[std::size_t(r * columns + c)];
    return out;
}

}  // namespace kerf::core
