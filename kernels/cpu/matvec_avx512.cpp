// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/cpu/matvec_isa.hpp"
#include "kernels/cpu/matvec_kernels.hpp"

namespace kerf::kernels::detail {
namespace {

struct Avx512 {
    using Sums = __m512;
    static void zero(Sums& sums) { sums = _mm512_setzero_ps(); }
    static void broadcast(Sums& sums, float value) { sums = _mm512_set1_ps(value); }
    static void load(Sums& values, const float* from) { values = _mm512_loadu_ps(from); }
    static void store(float* to, const Sums& values) { _mm512_storeu_ps(to, values); }
    static void multiply_add(Sums& sums, const Sums& weights, const float* x) {
        sums = _mm512_fmadd_ps(weights, _mm512_loadu_ps(x), sums);
    }
    static float total(const Sums& sums) {
        const __m256 low = _mm512_castps512_ps256(sums);
        const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sums), 1));
        const __m256 eight = _mm256_add_ps(low, high);
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
};
struct Avx512Bf16 : Avx512 {
    static void load(Sums& values, const uint16_t* from) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        values = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
};
struct Avx512F16 : Avx512 {
    static void load(Sums& values, const uint16_t* from) {
        values = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
};

}  // namespace

void dot_f32_avx512(Rows<float> w, Vectors<const float> x, Vectors<float> y) {
    dot<Avx512>(w, x, y);
}
void dot_bf16_avx512(Rows<uint16_t> w, Vectors<const float> x, Vectors<float> y) {
    dot<Avx512Bf16>(w, x, y);
}
void dot_f16_avx512(Rows<uint16_t> w, Vectors<const float> x, Vectors<float> y) {
    dot<Avx512F16>(w, x, y);
}
void mix_avx512(Rows<float> v, const float* share, float* y) {
    mix<Avx512>(v, share, y);
}

}  // namespace kerf::kernels::detail
