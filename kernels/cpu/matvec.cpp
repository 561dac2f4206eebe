// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/matvec.hpp"

#include <bit>
#include <cmath>

#include "kernels/cpu/matvec_isa.hpp"

namespace kerf::kernels {
namespace {

constexpr std::int64_t lanes = 16;

float widened_f32(float value) {
    return value;
}
float widened_bf16(std::uint16_t bits) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
float widened_f16(std::uint16_t bits) {
    const bool negative = (bits & 0x8000u) != 0;
    const int exponent = bits >> 10 & 0x1f;
    const std::uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0x1f) return std::bit_cast<float>((negative ? 0xff800000u : 0x7f800000u) | fraction << 13);
    const float value = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                      : std::ldexp(static_cast<float>(fraction + 0x400u), exponent - 25);
    return negative ? -value : value;
}

template <class Element, float (*widened)(Element)>
void dot_plain(Rows<Element> w, Vectors<const float> x, Vectors<float> y) {
    for (std::int64_t row = 0; row < w.rows; ++row) {
        const Element* weights = w.at + row * w.columns;
        for (std::int64_t t = 0; t < x.count; ++t) {
            const float* vector = x.at + t * x.stride;
            float sums[lanes] = {};
            for (std::int64_t c = 0; c < w.columns; ++c)
                sums[c % lanes] = std::fma(widened(weights[c]), vector[c], sums[c % lanes]);
            for (std::int64_t half = lanes / 2; half > 0; half /= 2)
                for (std::int64_t l = 0; l < half; ++l) sums[l] += sums[l + half];
            y.at[t * y.stride + row] = sums[0];
        }
    }
}

void mix_plain(Rows<float> v, const float* share, float* y) {
    for (std::int64_t c = 0; c < v.columns; ++c) y[c] = 0;
    for (std::int64_t row = 0; row < v.rows; ++row)
        for (std::int64_t c = 0; c < v.columns; ++c) y[c] = std::fma(share[row], v.at[row * v.columns + c], y[c]);
}

bool detect(VectorLevel level) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (level == VectorLevel::avx512) return avx2 && __builtin_cpu_supports("avx512f");
    return level == VectorLevel::plain || avx2;
#else
    return level == VectorLevel::plain;
#endif
}

}  // namespace

std::string_view vector_level_name(VectorLevel level) {
    return level == VectorLevel::avx512 ? "AVX-512" : level == VectorLevel::avx2 ? "AVX2" : "plain";
}

bool supports(VectorLevel level) {
    static const bool avx2 = detect(VectorLevel::avx2), avx512 = detect(VectorLevel::avx512);
    return level == VectorLevel::avx512 ? avx512 : level == VectorLevel::avx2 ? avx2 : true;
}

const MatvecKernels* matvec_kernels(VectorLevel level) {
    static constexpr MatvecKernels plain{dot_plain<float, widened_f32>, dot_plain<std::uint16_t, widened_bf16>,
                                         dot_plain<std::uint16_t, widened_f16>, mix_plain};
    static constexpr MatvecKernels avx2{detail::dot_f32_avx2, detail::dot_bf16_avx2, detail::dot_f16_avx2,
                                        detail::mix_avx2};
    static constexpr MatvecKernels avx512{detail::dot_f32_avx512, detail::dot_bf16_avx512, detail::dot_f16_avx512,
                                          detail::mix_avx512};
    if (!supports(level)) return nullptr;
    return level == VectorLevel::avx512 ? &avx512 : level == VectorLevel::avx2 ? &avx2 : &plain;
}

const MatvecKernels& best_matvec_kernels() {
    static const MatvecKernels& best = *matvec_kernels(supports(VectorLevel::avx512) ? VectorLevel::avx512
                                                       : supports(VectorLevel::avx2) ? VectorLevel::avx2
                                                                                     : VectorLevel::plain);
    return best;
}

}  // namespace kerf::kernels
