// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "kerf/memory.hpp"
#include "kerf/tensor.hpp"

namespace kerf::inline v1 {

/// A weight in `bits`-bit codes with one scale and zero a row and group of columns (layout "int-group/1"):
///   w[r][c] = scale[r][g] · (code[r][c] − zero[r][g]),  g = group_index[c]
/// in counted memory. Rows are independent: different threads may write different rows.
class GroupAffine {
public:
    /// group_size: columns that share a scale, in storage order; -1 = a whole row. The last group may be short.
    template <class Job>
    GroupAffine(Shape shape, int bits, std::int64_t group_size, const Job& job)
        : bits_(bits), group_size_(group_size == -1 ? std::max<std::int64_t>(1, shape.columns) : group_size) {
        if (bits < 1 || bits > 8) bad_value("bits = ", bits, ": codes have 1 to 8 bits");
        if (group_size_ < 1) bad_value("group_size = ", group_size, ": at least 1, or -1 for a whole row");
        const std::int64_t groups = (shape.columns + group_size_ - 1) / group_size_;
        codes_ = job.template matrix<std::uint8_t>(shape);
        scales_ = job.template matrix<float>({shape.rows, groups});
        zeros_ = job.template matrix<float>({shape.rows, groups});
        index_ = job.template buffer<std::int32_t>(shape.columns);
        for (std::int64_t c = 0; c < shape.columns; ++c) index_[c] = static_cast<std::int32_t>(c / group_size_);
    }

    /// Bytes of counted memory that one takes: for cost().
    static std::int64_t bytes(Shape shape, std::int64_t group_size) {
        const auto group = group_size < 1 ? std::max<std::int64_t>(1, shape.columns) : group_size;
        const auto groups = (shape.columns + group - 1) / group;
        return shape.rows * shape.columns + 8 * shape.rows * groups + 4 * shape.columns;
    }

    int bits() const noexcept { return bits_; }
    int largest_code() const noexcept { return (1 << bits_) - 1; }
    std::int64_t groups() const noexcept { return scales_.columns(); }
    std::int64_t group_size() const noexcept { return group_size_; }
    Shape shape() const noexcept { return codes_.shape(); }
    MatrixView<std::uint8_t> codes() const noexcept { return codes_; }
    MatrixView<float> scales() const noexcept { return scales_; }
    MatrixView<float> zeros() const noexcept { return zeros_; }
    /// Group of each column; a method that orders columns may write its own.
    std::span<std::int32_t> group_index() const { return index_.span(); }

    /// Grid of (row, group) that covers [low, high] and 0.
    void cover(std::int64_t row, std::int64_t group, float low, float high) {
        low = std::min(low, 0.0f);
        high = std::max(high, 0.0f);
        if (low == high) low = -1.0f, high = 1.0f;
        const float scale = (high - low) / static_cast<float>(largest_code());
        scales_(row, group) = scale;
        zeros_(row, group) = std::nearbyint(-low / scale);
    }
    /// Grids of a row that cover its weights, group by group.
    void cover_row(std::int64_t row, std::span<const float> weights) {
        for (std::int64_t g = 0; g < groups(); ++g) {
            float low = 0.0f, high = 0.0f;
            for (std::size_t c = 0; c < weights.size(); ++c) {
                if (index_[static_cast<std::int64_t>(c)] != g) continue;
                low = std::min(low, weights[c]);
                high = std::max(high, weights[c]);
            }
            cover(row, g, low, high);
        }
    }
    /// Rounds `value` (half to even) to the grid of its place, keeps the code, returns the weight that it stands for.
    float round(std::int64_t row, std::int64_t column, float value) {
        const auto g = index_[column];
        const float scale = scales_(row, g), zero = zeros_(row, g);
        const float code = std::clamp(std::nearbyint(value / scale) + zero, 0.0f, static_cast<float>(largest_code()));
        codes_(row, column) = static_cast<std::uint8_t>(code);
        return scale * (code - zero);
    }
    /// One row by optimal brain quantisation with fixed grids: columns in `order`, and what column k lost is made up
    /// for by the columns after it, w[j] −= (w[k] − ŵ[k]) / U[k][k] · U[k][j]. `u` and `order` as in Factor. The row's
    /// grids must be there (cover_row). `scratch` has a place for each column.
    void round_with_feedback(std::int64_t row, std::span<const float> weights, MatrixView<const float> u,
                             std::span<const std::int64_t> order, std::span<float> scratch) {
        const auto n = static_cast<std::int64_t>(weights.size());
        for (std::int64_t k = 0; k < n; ++k)
            scratch[static_cast<std::size_t>(k)] = weights[static_cast<std::size_t>(order[k])];
        for (std::int64_t k = 0; k < n; ++k) {
            const auto at = static_cast<std::size_t>(k);
            const float* from = u.row(k).data();
            const float error = (scratch[at] - round(row, order[at], scratch[at])) / from[k];
            for (std::int64_t j = k + 1; j < n; ++j) scratch[static_cast<std::size_t>(j)] -= error * from[j];
        }
    }

private:
    int bits_;
    std::int64_t group_size_;
    Matrix<std::uint8_t> codes_;
    Matrix<float> scales_, zeros_;
    Buffer<std::int32_t> index_;
};

}  // namespace kerf::inline v1
