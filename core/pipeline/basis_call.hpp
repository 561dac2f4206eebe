// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "core/graph/residual.hpp"
#include "kerf/abi.h"

namespace kerf::core {

/// A stream as methods see it; points into graph and stream, which outlive it.
class ResidualView {
public:
    ResidualView(const Graph& fused, const Stream& stream, std::int64_t tokens, std::int64_t parameters);
    ResidualView(const ResidualView&) = delete;
    ResidualView& operator=(const ResidualView&) = delete;
    const kerf_residual* get() const noexcept { return &residual_; }

private:
    std::vector<kerf_position> positions_;
    kerf_residual residual_{};
};

/// A square or tall float64 matrix as the DLTensor that plugins see.
class DoubleMatrix {
public:
    DoubleMatrix(double* data, std::int64_t rows, std::int64_t columns)
        : shape_{rows, columns}, strides_{columns, 1}, tensor_{data,   {kDLCPU, 0}, 2, {kDLFloat, 64, 1},
                                                               shape_, strides_,    0} {}
    DoubleMatrix(const DoubleMatrix&) = delete;
    DoubleMatrix& operator=(const DoubleMatrix&) = delete;
    DLTensor* get() noexcept { return &tensor_; }

private:
    std::int64_t shape_[2], strides_[2];
    DLTensor tensor_;
};

}  // namespace kerf::core
