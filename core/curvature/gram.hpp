// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kerf/abi.h"

namespace kerf::core {

/// Running Gram matrix of one linear input: sum over tokens of x xᵀ. float32 (or, for bf16, exact-product) SYRK inside a
/// chunk of tokens, float64 across chunks. Chunks arrive in a fixed order; tiles are shared out by parallel_for.
class GramAccumulator {
public:
    GramAccumulator(std::string input_name, std::int64_t features);
    void add(const float* x, std::int64_t tokens);           ///< x [tokens, features]; NaN/inf → Error(numeric) with the name
    void add_bf16(const std::uint16_t* x, std::int64_t tokens);  ///< raw bfloat16 bits
    std::int64_t tokens() const noexcept { return tokens_; }
    std::int64_t features() const noexcept { return features_; }
    /// Bytes that an accumulator of this width holds, its chunk scratch included: for the plan.
    static std::uint64_t memory(std::int64_t features);
    /// H = sum / tokens as float32 [features, features], both triangles. Frees the accumulator's own memory.
    std::vector<float> finish();

private:
    std::string name_;
    std::int64_t features_ = 0, tokens_ = 0;
    std::vector<double> sum_;       ///< lower triangle's tiles
    std::vector<float> chunk_;      ///< one chunk's product
};

/// A finished Gram with the factors made from it. Layers that read the same input share one of these.
class Curvature {
public:
    Curvature(std::string input_name, std::int64_t features, std::int64_t tokens, std::vector<float> gram);

    struct Factor {
        double damp = 0;                     ///< share of mean(diag H) that was used in the end
        int attempts = 1;                    ///< 1 = what was asked for was enough
        std::vector<float> upper;            ///< [n, n], permuted order, UᵀU = (H + λI)⁻¹
        std::vector<std::int64_t> order;     ///< order[k] = original column at place k
        std::vector<std::uint8_t> dead;      ///< original order
    };
    /// Made once per (order, group size, damp) and kept until `forget_factors`. Dead columns (H_jj == 0) get H_jj = 1 before
    /// mean and order, as in GPTQ §3.2. Damping: λ = damp · mean(diag H); when the Cholesky fails the share is multiplied
    /// by 10^(1/2) in steps, at most 8, then Error(numeric) that names input, pivot and cure.
    const Factor& factor(std::int32_t order, std::int64_t group_size, double damp);
    void forget_factors();

    const std::vector<float>& gram() const noexcept { return gram_; }
    std::int64_t features() const noexcept { return features_; }
    std::int64_t tokens() const noexcept { return tokens_; }
    const std::string& name() const noexcept { return name_; }
    /// tr(D H Dᵀ) of a difference D [rows, features]: the (mean) squared output error.
    double quadratic(const float* difference, std::int64_t rows) const;

private:
    struct Made;
    std::string name_;
    std::int64_t features_, tokens_;
    std::vector<float> gram_;
    std::vector<std::shared_ptr<Made>> made_;
};

}  // namespace kerf::core
