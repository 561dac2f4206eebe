// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kerf::core {

/// H = Σ x xᵀ over tokens, all of it in float64: residual streams have a few features a thousand times as large as the
/// others, and their principal axes are asked for to the smallest. Work is cut by the count of tokens alone.
class CovarianceSum {
public:
    enum class Signal { raw, normalized };  ///< normalized: of x / rms(x)

    CovarianceSum(std::string name, std::int64_t features, Signal signal);
    /// x [tokens, features]. A NaN or an infinity is Error(numeric) that names the position.
    void add(const float* x, std::int64_t tokens);
    /// H, both triangles; ends the sum.
    std::vector<double> finish();
    std::int64_t tokens() const noexcept { return tokens_; }
    /// Bytes that one holds at most.
    static std::uint64_t memory(std::int64_t features);

private:
    static constexpr std::int64_t chunk_tokens = 2048;
    void widen(const float* from, std::int64_t token, double* to) const;
    void fold();

    std::string name_;
    std::int64_t features_, tokens_ = 0, waiting_ = 0;
    Signal signal_;
    std::vector<double> sum_, chunk_;  ///< the chunk holds `waiting_` tokens that are not in the sum yet
};

}  // namespace kerf::core
