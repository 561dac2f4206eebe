// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/cpu/matvec_isa.hpp"
#include "kernels/cpu/matvec_kernels.hpp"

namespace kerf::kernels::detail {
namespace {

/// 16 lanes in two registers.
struct Pair {
    __m256 low, high;
};

__m256 widen_bf16(const uint16_t* from) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
__m256 widen_f16(const uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

struct Avx2 {
    using Sums = Pair;
    static void zero(Sums& sums) { sums.low = sums.high = _mm256_setzero_ps(); }
    static void broadcast(Sums& sums, float value) { sums.low = sums.high = _mm256_set1_ps(value); }
    static void load(Sums& values, const float* from) {
        values.low = _mm256_loadu_ps(from);
        values.high = _mm256_loadu_ps(from + 8);
    }
    static void store(float* to, const Sums& values) {
        _mm256_storeu_ps(to, values.low);
        _mm256_storeu_ps(to + 8, values.high);
    }
    static void multiply_add(Sums& sums, const Sums& weights, const float* x) {
        sums.low = _mm256_fmadd_ps(weights.low, _mm256_loadu_ps(x), sums.low);
        sums.high = _mm256_fmadd_ps(weights.high, _mm256_loadu_ps(x + 8), sums.high);
    }
    static float total(const Sums& sums) {
        const __m256 eight = _mm256_add_ps(sums.low, sums.high);
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
};
struct Avx2Bf16 : Avx2 {
    static void load(Sums& values, const uint16_t* from) {
        values.low = widen_bf16(from);
        values.high = widen_bf16(from + 8);
    }
};
struct Avx2F16 : Avx2 {
    static void load(Sums& values, const uint16_t* from) {
        values.low = widen_f16(from);
        values.high = widen_f16(from + 8);
    }
};

}  // namespace

void dot_f32_avx2(Rows<float> w, Vectors<const float> x, Vectors<float> y) {
    dot<Avx2>(w, x, y);
}
void dot_bf16_avx2(Rows<uint16_t> w, Vectors<const float> x, Vectors<float> y) {
    dot<Avx2Bf16>(w, x, y);
}
void dot_f16_avx2(Rows<uint16_t> w, Vectors<const float> x, Vectors<float> y) {
    dot<Avx2F16>(w, x, y);
}
void mix_avx2(Rows<float> v, const float* share, float* y) {
    mix<Avx2>(v, share, y);
}

}  // namespace kerf::kernels::detail
