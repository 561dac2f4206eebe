// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cmath>
#include <numbers>

#include "core/plugin_api/tables.hpp"

namespace kerf::core {
namespace {

using Words = std::array<std::uint32_t, 4>;

/// Philox4x32-10 (Salmon et al., SC 2011): a keyed bijection of 128-bit counters, so that any element can be had alone.
Words philox(Words counter, std::uint64_t seed) {
    auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0], b = std::uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key0, static_cast<std::uint32_t>(b),
                   static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key1, static_cast<std::uint32_t>(a)};
        key0 += 0x9E3779B9;  // golden ratio
        key1 += 0xBB67AE85;  // sqrt(3) - 1
    }
    return counter;
}

struct Pair {
    double first, second;
};

/// Two uniforms of 53 bits in [0, 1): those of elements 2 · block and 2 · block + 1.
Pair uniform_pair(std::uint64_t seed, std::uint64_t stream, std::uint64_t block) {
    const Words w = philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                            static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                           seed);
    const auto real = [](std::uint32_t high, std::uint32_t low) {
        return static_cast<double>((std::uint64_t{high} << 32 | low) >> 11) * 0x1p-53;
    };
    return {real(w[0], w[1]), real(w[2], w[3])};
}

/// Box and Muller. 1 - u lies in (0, 1], so the logarithm is finite.
Pair normal_pair(std::uint64_t seed, std::uint64_t stream, std::uint64_t block) {
    const Pair u = uniform_pair(seed, stream, block);
    const double radius = std::sqrt(-2 * std::log(1 - u.first)), angle = 2 * std::numbers::pi * u.second;
    return {radius * std::cos(angle), radius * std::sin(angle)};
}

template <Pair (*Make)(std::uint64_t, std::uint64_t, std::uint64_t)>
void fill(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, double* out, std::size_t n) {
    for (std::size_t i = 0; i < n;) {
        const std::uint64_t at = first + i;
        const Pair pair = Make(seed, stream, at / 2);
        if (at % 2 == 0) out[i++] = pair.first;
        if (i < n) out[i++] = pair.second;
    }
}

}  // namespace

const kerf_random_1 random_table{sizeof(kerf_random_1), 0, fill<uniform_pair>, fill<normal_pair>};

}  // namespace kerf::core
