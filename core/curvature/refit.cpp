// SPDX-License-Identifier: Apache-2.0
#include "core/curvature/refit.hpp"

#include <algorithm>
#include <cmath>

#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

constexpr int raises = 8;
constexpr double first_damp = 1e-4;

double damped(const std::vector<float>& h, std::int64_t n, std::int64_t i, std::int64_t j, double lambda) {
    const double value = double(h[std::size_t(i * n + j)]);
    return i == j ? (value == 0 ? 1 : value) + lambda : value;
}

double mean_diagonal(const std::vector<float>& h, std::int64_t n) {
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += double(h[std::size_t(i * n + i)]);
    return sum / double(n);
}

}  // namespace

Refit refit_columns(const Curvature& curvature, const std::vector<float>& weight, std::int64_t rows,
                    const std::vector<std::int64_t>& kept, double damp) {
    const std::int64_t n = curvature.features(), k = std::int64_t(kept.size());
    const auto& h = curvature.gram();
    const double mean = mean_diagonal(h, n);
    Refit out{{}, damp, 1};
    std::vector<double> factor(std::size_t(k * k));
    for (;; ++out.attempts) {
        for (std::int64_t i = 0; i < k; ++i)
            for (std::int64_t j = 0; j < k; ++j)
                factor[std::size_t(i * k + j)] =
                    damped(h, n, kept[std::size_t(i)], kept[std::size_t(j)], out.damp * mean);
        const std::int64_t failed = linalg::cholesky(k, factor.data(), k);
        if (failed < 0) break;
        if (out.attempts > raises)
            throw Error(Fault::numeric,
                        text(curvature.name(), ": Gram matrix not positive definite at pivot ", failed, " of ", k, " (",
                             curvature.tokens(), " calibration tokens) even with damp raised ", raises, " times from ",
                             damp, " to ", out.damp, "; more calibration tokens or a larger damp usually cure it"));
        out.damp = std::max(out.damp, first_damp / std::sqrt(10.0)) * std::sqrt(10.0);
    }
    // Right-hand sides (W H_{:,R})ᵀ [k, rows].
    std::vector<double> columns(std::size_t(k * n)), w(weight.begin(), weight.end()), right(std::size_t(k * rows));
    for (std::int64_t i = 0; i < k; ++i)
        for (std::int64_t j = 0; j < n; ++j)
            columns[std::size_t(i * n + j)] = damped(h, n, kept[std::size_t(i)], j, out.damp * mean);
    linalg::gemm(false, true, k, rows, n, 1.0, columns.data(), n, w.data(), n, 0.0, right.data(), rows);
    linalg::solve_triangular(false, false, k, rows, factor.data(), k, right.data(), rows);
    linalg::solve_triangular(false, true, k, rows, factor.data(), k, right.data(), rows);
    out.weight.assign(weight.size(), 0.0f);
    for (std::int64_t i = 0; i < k; ++i)
        for (std::int64_t r = 0; r < rows; ++r)
            out.weight[std::size_t(r * n + kept[std::size_t(i)])] = float(right[std::size_t(i * rows + r)]);
    return out;
}

}  // namespace kerf::core
