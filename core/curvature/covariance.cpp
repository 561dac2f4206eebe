// SPDX-License-Identifier: Apache-2.0
#include "core/curvature/covariance.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {

CovarianceSum::CovarianceSum(std::string name, std::int64_t features, Signal signal)
    : name_(std::move(name)),
      features_(features),
      signal_(signal),
      sum_(std::size_t(features * features)),
      chunk_(std::size_t(chunk_tokens * features)) {}

void CovarianceSum::add(const float* x, std::int64_t tokens) {
    for (std::int64_t first = 0; first < tokens;) {
        const std::int64_t here = std::min(chunk_tokens - waiting_, tokens - first);
        parallel_for(here, 32, [&](std::int64_t lo, std::int64_t hi) {
            for (std::int64_t t = lo; t < hi; ++t)
                widen(x + (first + t) * features_, first + t, chunk_.data() + (waiting_ + t) * features_);
        });
        first += here;
        waiting_ += here;
        if (waiting_ == chunk_tokens) fold();
    }
    tokens_ += tokens;
}

void CovarianceSum::fold() {
    linalg::syrk<double>(features_, waiting_, 1.0, chunk_.data(), features_, 1.0, sum_.data(), features_);
    waiting_ = 0;
}

/// One token of those that add() has been given, as it goes into the sum.
void CovarianceSum::widen(const float* from, std::int64_t token, double* to) const {
    double squares = 0;
    for (std::int64_t c = 0; c < features_; ++c) {
        to[c] = double(from[c]);
        squares += to[c] * to[c];
    }
    if (!std::isfinite(squares))
        throw Error(Fault::numeric, text("the residual stream at ", name_, " is not finite at calibration token ",
                                         tokens_ + token, "; look for NaN or very large weights before it"));
    if (signal_ == Signal::normalized && squares > 0) {
        const double scale = std::sqrt(double(features_) / squares);
        for (std::int64_t c = 0; c < features_; ++c) to[c] *= scale;
    }
}

std::vector<double> CovarianceSum::finish() {
    fold();
    linalg::symmetrise(features_, sum_.data(), features_);
    return std::exchange(sum_, {});
}

std::uint64_t CovarianceSum::memory(std::int64_t features) {
    return std::uint64_t(8 * features * (features + chunk_tokens));
}

}  // namespace kerf::core
