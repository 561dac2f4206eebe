// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace kerf::core {

/// Draws that are the same on every machine: mt19937_64 is specified to the bit, the distributions of the standard
/// library are not.
class Draw {
public:
    explicit Draw(std::uint64_t seed) : engine_(seed) {}

    /// Uniform in [0, bound); bound ≥ 1.
    std::uint64_t below(std::uint64_t bound) {
        // Numbers from the last, incomplete run of `bound` would favour small results: draw again.
        const std::uint64_t incomplete = (UINT64_MAX % bound + 1) % bound;
        std::uint64_t number = engine_();
        while (number > UINT64_MAX - incomplete) number = engine_();
        return number % bound;
    }

    /// 0 … n−1 in random order.
    std::vector<std::size_t> permutation(std::size_t n) {
        std::vector<std::size_t> out(n);
        for (std::size_t i = 0; i < n; ++i) out[i] = i;
        for (std::size_t i = n; i > 1; --i) std::swap(out[i - 1], out[below(i)]);
        return out;
    }

private:
    std::mt19937_64 engine_;
};

}  // namespace kerf::core
