// SPDX-License-Identifier: Apache-2.0
#include "core/curvature/stream_fit.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

constexpr int raises = 8;
constexpr double first_damp = 1e-4;

/// Tokens that one thread takes at a time.
constexpr std::int64_t tokens_at_once = 32;

double dot(std::span<const double> a, std::span<const double> b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}
double squares(std::span<const double> x) {
    return dot(x, x);
}

}  // namespace

StreamFit::StreamFit(std::string name, const std::vector<double>& q, std::int64_t features, std::int64_t size,
                     Norm norm)
    : name_(std::move(name)),
      q_(q),
      features_(features),
      size_(size),
      norm_(norm),
      crossed_(std::size_t(features * features)),
      normed_(crossed_.size()),
      plain_(crossed_.size()),
      chunk_(std::size_t(chunk_tokens * features)),
      scaled_(chunk_.size()),
      squares_(std::size_t(chunk_tokens)),
      kept_(std::size_t(chunk_tokens * size)) {}

void StreamFit::add(const float* x, std::int64_t tokens) {
    const auto inverse_rms = [&](double squares) {
        const double mean = squares / double(norm_.divisor) + norm_.eps;
        return mean > 0 ? 1 / std::sqrt(mean) : 0;
    };
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens) {
        const std::int64_t here = std::min(chunk_tokens, tokens - first);
        parallel_for(here, tokens_at_once, [&](std::int64_t lo, std::int64_t hi) {
            std::copy(x + (first + lo) * features_, x + (first + hi) * features_, chunk_.begin() + lo * features_);
        });
        linalg::gemm<double>(false, false, here, size_, features_, 1.0, chunk_.data(), features_, q_.data(), size_, 0.0,
                             kept_.data(), size_);
        std::vector<double> crossed(std::size_t(here), 0.0), own(crossed), unit(std::size_t(here), 1.0);
        parallel_for(here, tokens_at_once, [&](std::int64_t lo, std::int64_t hi) {
            for (std::int64_t t = lo; t < hi; ++t) {
                squares_[std::size_t(t)] = squares({chunk_.data() + t * features_, std::size_t(features_)});
                own[std::size_t(t)] = inverse_rms(squares({kept_.data() + t * size_, std::size_t(size_)}));
            }
        });
        for (std::int64_t t = 0; t < here; ++t) {
            const double whole = squares_[std::size_t(t)];
            if (!std::isfinite(whole))
                throw Error(Fault::numeric,
                            text("the residual stream at ", name_, " is not finite at calibration token ",
                                 tokens_ + first + t, "; look for NaN or very large weights before it"));
            const double of_whole = inverse_rms(whole);
            crossed[std::size_t(t)] = std::sqrt(of_whole * own[std::size_t(t)]);
            signal_ += of_whole * of_whole * whole;
        }
        add_scaled(crossed, here, crossed_);
        add_scaled(own, here, normed_);
        add_scaled(unit, here, plain_);
    }
    tokens_ += tokens;
}

void StreamFit::add_scaled(const std::vector<double>& scale, std::int64_t tokens, std::vector<double>& sum) {
    parallel_for(tokens, tokens_at_once, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t t = lo; t < hi; ++t)
            for (std::int64_t c = 0; c < features_; ++c)
                scaled_[std::size_t(t * features_ + c)] =
                    scale[std::size_t(t)] * chunk_[std::size_t(t * features_ + c)];
    });
    linalg::syrk<double>(features_, tokens, 1.0, scaled_.data(), features_, 1.0, sum.data(), features_);
}

std::vector<double> StreamFit::times_q(const std::vector<double>& symmetric) const {
    std::vector<double> whole = symmetric, out(std::size_t(features_ * size_));
    linalg::symmetrise(features_, whole.data(), features_);
    linalg::gemm<double>(false, false, features_, size_, features_, 1.0, whole.data(), features_, q_.data(), size_, 0.0,
                         out.data(), size_);
    return out;
}

/// (target + λ Q)(Qᵀ own + λ)⁻¹ for target and own that are multiplied by Q already.
std::vector<double> StreamFit::solve(const std::vector<double>& target, const std::vector<double>& own,
                                     double& damp) const {
    const std::int64_t n = features_, k = size_;
    std::vector<double> gram(std::size_t(k * k));
    linalg::gemm<double>(true, false, k, k, n, 1.0, q_.data(), k, own.data(), k, 0.0, gram.data(), k);
    double mean = 0;
    for (std::int64_t i = 0; i < k; ++i) mean += gram[std::size_t(i * k + i)] / double(k);
    std::vector<double> factor;
    for (int attempt = 1;; ++attempt) {
        factor = gram;
        for (std::int64_t i = 0; i < k; ++i) factor[std::size_t(i * k + i)] += damp * mean;
        const std::int64_t failed = linalg::cholesky(k, factor.data(), k);
        if (failed < 0) break;
        if (attempt > raises)
            throw Error(Fault::numeric,
                        text(name_,
                             ": the covariance of what is left of the residual stream is not positive definite at "
                             "pivot ",
                             failed, " of ", k, " (", tokens_,
                             " calibration tokens) even with refit_damp "
                             "raised ",
                             raises, " times to ", damp, "; more calibration tokens usually cure it"));
        damp = std::max(damp, first_damp / std::sqrt(10.0)) * std::sqrt(10.0);
    }
    std::vector<double> right(std::size_t(k * n));  // transposed: [k, n]
    for (std::int64_t r = 0; r < n; ++r)
        for (std::int64_t c = 0; c < k; ++c)
            right[std::size_t(c * n + r)] = target[std::size_t(r * k + c)] + damp * mean * q_[std::size_t(r * k + c)];
    linalg::solve_triangular(false, false, k, n, factor.data(), k, right.data(), n);
    linalg::solve_triangular(false, true, k, n, factor.data(), k, right.data(), n);
    std::vector<double> out(std::size_t(n * k));
    for (std::int64_t r = 0; r < n; ++r)
        for (std::int64_t c = 0; c < k; ++c) out[std::size_t(r * k + c)] = right[std::size_t(c * n + r)];
    return out;
}

StreamFit::Readers StreamFit::finish(double damp) const {
    const std::vector<double> target = times_q(crossed_), own = times_q(normed_), plain = times_q(plain_);
    Readers out;
    double plain_damp = damp;
    out.damp = damp;
    out.normed = solve(target, own, out.damp);
    out.plain = solve(plain, plain, plain_damp);
    out.damp = std::max(out.damp, plain_damp);
    if (signal_ <= 0) return out;
    // ‖v − M u‖² = ‖v‖² − 2 tr(Mᵀ A Q) + tr(Mᵀ M · Qᵀ B Q)
    std::vector<double> gram(std::size_t(size_ * size_)), square(gram.size());
    linalg::gemm<double>(true, false, size_, size_, features_, 1.0, q_.data(), size_, own.data(), size_, 0.0,
                         gram.data(), size_);
    const auto error = [&](const std::vector<double>& m) {
        linalg::gemm<double>(true, false, size_, size_, features_, 1.0, m.data(), size_, m.data(), size_, 0.0,
                             square.data(), size_);
        return (signal_ - 2 * dot(m, target) + dot(square, gram)) / signal_;
    };
    out.error_sliced = error(q_);
    out.error_refit = error(out.normed);
    return out;
}

std::uint64_t StreamFit::memory(std::int64_t features) {
    // Three sums, a copy of one; products with Q, factor, right-hand sides and result: at most nine more; chunks.
    return std::uint64_t(8 * features * (13 * features + 3 * chunk_tokens));
}

}  // namespace kerf::core
