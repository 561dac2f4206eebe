// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kerf::core {

/// Least squares of what is read from a sliced residual stream. Behind the slicing only z = Qᵀx is left of x, and its
/// norm divides by less; instead of Q, readers take the R [features, size] for which R u comes nearest to v, u the
/// normalised z and v the normalised x, over all calibration tokens, and linears that read the stream itself the C for
/// which C z comes nearest to x. Where Q holds principal axes of just the signal in question, R (or C) is Q.
class StreamFit {
public:
    struct Norm {
        std::int64_t divisor = 0;  ///< mean squares are sums over so many features
        double eps = 0;
    };
    struct Readers {
        std::vector<double> normed, plain;         ///< R and C, [features, size]
        double error_sliced = 0, error_refit = 0;  ///< E‖v − Q u‖² and E‖v − R u‖², as shares of E‖v‖²
        double damp = 0;                           ///< the share that was used in the end
    };

    /// q: [features, size], orthonormal columns; stays the caller's.
    StreamFit(std::string name, const std::vector<double>& q, std::int64_t features, std::int64_t size, Norm norm);
    void add(const float* x, std::int64_t tokens);  ///< x [tokens, features]
    /// `damp` draws the result to Q: R = (A Q + λ Q)(Qᵀ B Q + λ)⁻¹ with A = Σ v xᵀ/rms(z), B = Σ x xᵀ/rms(z)² and
    /// λ = damp · mean(diag Qᵀ B Q). As elsewhere it is raised by √10, at most 8 times, where that is singular; then
    /// Error(numeric).
    Readers finish(double damp) const;
    /// Bytes that one holds at most, finish() included.
    static std::uint64_t memory(std::int64_t features);

private:
    static constexpr std::int64_t chunk_tokens = 512;

    void add_scaled(const std::vector<double>& scale, std::int64_t tokens, std::vector<double>& sum);
    std::vector<double> times_q(const std::vector<double>& symmetric) const;
    std::vector<double> solve(const std::vector<double>& target, const std::vector<double>& own, double& damp) const;

    std::string name_;
    const std::vector<double>& q_;
    std::int64_t features_, size_, tokens_ = 0;
    Norm norm_;
    double signal_ = 0;                                    ///< Σ ‖v‖²
    std::vector<double> crossed_, normed_, plain_;         ///< A, B, Σ x xᵀ: lower triangles
    std::vector<double> chunk_, scaled_, squares_, kept_;  ///< of the tokens at hand
};

}  // namespace kerf::core
