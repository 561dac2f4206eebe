// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "kerf/abi.h"

namespace kerf::core {

/// Running Gram matrix of one linear input: sum over tokens of x xᵀ. Tokens are taken in chunks of `chunk_tokens`, cut
/// by their number alone, so that the result does not depend on how they were batched. float32 (or, for bf16,
/// exact-product) sums inside a chunk, float64 across chunks; the triangle's tiles are shared out by parallel_for.
class GramAccumulator {
public:
    /// 2048 × 2^-24 keeps a chunk's worst rounding at 1e-4 of its sum (the usual one at 3e-6), and adding a chunk to
    /// the float64 sums costs 4 % of making it.
    static constexpr std::int64_t chunk_tokens = 2048;

    GramAccumulator(std::string input_name, std::int64_t features);
    ~GramAccumulator();
    GramAccumulator(GramAccumulator&&) noexcept;
    GramAccumulator& operator=(GramAccumulator&&) noexcept;

    /// x [tokens, features]. A NaN or an infinity is Error(numeric) with the input's name, the token and the feature;
    /// it comes with the add() or finish() that completes the chunk. After an error the object can only be destroyed.
    void add(const float* x, std::int64_t tokens);
    void add_bf16(const std::uint16_t* x, std::int64_t tokens);  ///< raw bfloat16 bits
    std::int64_t tokens() const noexcept { return tokens_; }
    std::int64_t features() const noexcept { return features_; }
    /// Bytes that an accumulator of this width holds at most, its staged chunk and the threads' scratch included: for
    /// the plan. What finish() returns (4 · features²) comes on top.
    static std::uint64_t memory(std::int64_t features);
    /// H = sum / tokens as float32 [features, features], both triangles. Frees the accumulator's own memory.
    /// No tokens at all: Error(input).
    std::vector<float> finish();

private:
    class Stage;
    void fold(const float* rows, std::int64_t tokens);
    void fold_stage();
    template <class TileProduct>
    void fold_tiles(const TileProduct& product);
    void check_sums(const float* rows, std::int64_t tokens) const;

    std::string name_;
    std::int64_t features_ = 0, tokens_ = 0;
    std::int64_t folded_ = 0;       ///< tokens that sum_ holds
    std::vector<double> sum_;       ///< lower triangle's tiles, see tile_row
    std::unique_ptr<Stage> stage_;  ///< the chunk that is being filled
};

/// What calibration says about one linear input, as means over its tokens; what nobody asked for is empty.
struct InputMoments {
    std::vector<float> gram;        ///< H [features, features]
    std::vector<float> diagonal;    ///< of H
    std::vector<float> mean;        ///< of x
    std::vector<float> dense_gram;  ///< [features, features], of d xᵀ, d being the input in the uncompressed model
};

/// Finished moments with the factors made from H. Layers that read the same input share one of these.
class Curvature {
public:
    Curvature(std::string input_name, std::int64_t features, std::int64_t tokens, std::vector<float> gram);
    /// Without `gram` there are no factors, and the diagonal stands for it in errors.
    Curvature(std::string input_name, std::int64_t features, std::int64_t tokens, InputMoments moments);

    struct Factor {
        double damp = 0;                  ///< share of mean(diag H) that was used in the end
        int attempts = 1;                 ///< 1 = what was asked for was enough
        std::vector<float> upper;         ///< [n, n], permuted order, UᵀU = (H + λI)⁻¹
        std::vector<std::int64_t> order;  ///< order[k] = original column at place k
        std::vector<std::uint8_t> dead;   ///< original order
    };
    /// Made once per (order, group size, damp) and kept until `forget_factors`. Dead columns (H_jj == 0) get H_jj = 1
    /// before mean and order, as in GPTQ §3.2. Damping: λ = damp · mean(diag H); when the Cholesky fails the share is
    /// multiplied by 10^(1/2) in steps (from 1e-4 when none was asked for), at most 8, then Error(numeric) that names
    /// input, pivot and cure. The four factors asked for last are kept; a reference lives as long as its factor. Any
    /// thread may call.
    const Factor& factor(std::int32_t order, std::int64_t group_size, double damp);
    void forget_factors();
    /// Bytes of one kept factor, the working copy while it is made included: for the plan.
    static std::uint64_t factor_memory(std::int64_t features);

    const std::vector<float>& gram() const noexcept { return gram_; }
    const std::vector<float>& diagonal() const noexcept { return diagonal_; }
    const std::vector<float>& mean() const noexcept { return mean_; }
    const std::vector<float>& dense_gram() const noexcept { return dense_gram_; }
    std::int64_t features() const noexcept { return features_; }
    std::int64_t tokens() const noexcept { return tokens_; }
    const std::string& name() const noexcept { return name_; }
    /// That of the features that are left: principal submatrices, without factors.
    Curvature without(const std::vector<bool>& lost) const;
    /// tr(D H Dᵀ) of a difference D [rows, features]: the (mean) squared output error; of H's diagonal alone where that
    /// is all there is.
    double quadratic(const float* difference, std::int64_t rows) const;

private:
    struct Made;
    Factor make(std::int32_t order, std::int64_t group_size, double damp) const;
    double quadratic_of_diagonal(const float* difference, std::int64_t rows) const;
    double quadratic_tile(const float* d, std::int64_t rows, std::int64_t column, std::int64_t columns) const;

    std::string name_;
    std::int64_t features_, tokens_;
    std::vector<float> gram_, diagonal_, mean_, dense_gram_;
    std::unique_ptr<std::mutex> lock_ = std::make_unique<std::mutex>();  ///< of made_
    std::vector<std::shared_ptr<Made>> made_;                            ///< least recently used first
};

}  // namespace kerf::core
