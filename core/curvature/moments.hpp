// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/curvature/gram.hpp"

namespace kerf::core {

/// Running sums over the tokens of one linear input: those that KERF_NEEDS_* bits ask for. The Gram matrix, where it is
/// wanted, is a GramAccumulator's; the others are summed in float64, in the order of the tokens (the dense one by
/// products of up to 512 of them).
class MomentAccumulator {
public:
    MomentAccumulator(std::string input_name, std::int64_t features, std::uint64_t needs);

    /// x and (null but for KERF_NEEDS_DENSE_GRAM) the same tokens in the uncompressed model, [tokens, features]. Errors
    /// as GramAccumulator's.
    void add(const float* x, const float* dense, std::int64_t tokens);
    void add_bf16(const std::uint16_t* x, const std::uint16_t* dense, std::int64_t tokens);

    std::int64_t tokens() const noexcept { return tokens_; }
    std::int64_t features() const noexcept { return features_; }
    /// Floating-point operations that a token costs.
    static double flops_a_token(std::int64_t features, std::uint64_t needs);
    double flops_a_token() const { return flops_a_token(features_, needs_); }
    /// Bytes held at most; what finish() returns comes on top.
    static std::uint64_t memory(std::int64_t features, std::uint64_t needs);
    /// Bytes of what finish() returns.
    static std::uint64_t result_memory(std::int64_t features, std::uint64_t needs);

    /// The means. Frees the sums. No tokens at all: Error(input).
    InputMoments finish();
    /// What stands for inputs of which nothing is known: H = C = I, m = 0.
    static InputMoments unknown(std::int64_t features, std::uint64_t needs);

private:
    bool wants(std::uint64_t need) const { return (needs_ & need) != 0; }
    bool wants_rows() const;
    void add_rows(const float* x, const float* dense, std::int64_t tokens);
    void check_diagonal(const float* x, std::int64_t tokens) const;

    std::string name_;
    std::int64_t features_ = 0, tokens_ = 0;
    std::uint64_t needs_ = 0;
    std::optional<GramAccumulator> gram_;
    std::vector<double> diagonal_, mean_, dense_gram_;
};

}  // namespace kerf::core
