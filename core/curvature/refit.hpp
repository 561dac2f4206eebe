// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/curvature/gram.hpp"

namespace kerf::core {

struct Refit {
    std::vector<float> weight;  ///< [rows, n]; columns that were not kept are 0
    double damp = 0;            ///< the share that was used in the end
    int attempts = 1;           ///< 1: what was asked for was enough
};

/// Least squares of a linear's output on the columns R that stay: W_R = W H_{:,R} (H_RR)⁻¹ with H damped by
/// `damp` · mean(diag H), in float64. `kept` is ascending. Dead columns have H_jj = 1, which has
/// no part in the mean; as in Curvature::factor, the damping is raised by √10, at most 8 times, when H_RR is not
/// positive definite; then Error(numeric).
Refit refit_columns(const Curvature& curvature, const std::vector<float>& weight, std::int64_t rows,
                    const std::vector<std::int64_t>& kept, double damp);

}  // namespace kerf::core
