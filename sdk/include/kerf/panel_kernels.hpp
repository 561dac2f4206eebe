// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/// The products of panels (panel.hpp), for the instruction set that the including file is compiled for. Each set has a
/// namespace of its own, so that the linker never takes one's functions for another's; of the standard library there is
/// <cstdint> alone, for the same reason. Include it in files of kernels only (kerf_kernel_library in CMake), and
/// nothing else with inline functions there.
///
/// All that have a fused multiply-add (AVX2, AVX-512, ARM) give the same bytes; x86 without one rounds products first.
#if defined(__AVX512F__)
#define KERF_PANEL_ISA avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define KERF_PANEL_ISA avx2
#else
#define KERF_PANEL_ISA portable
#endif

namespace kerf::inline v1 {

/// Rows that one panel holds side by side: two AVX-512 registers, four AVX2 ones.
inline constexpr int panel_lanes = 32;
/// Columns that share a packed strip of a right-hand side: 4 × 2 accumulators are the 8 that an FMA of 4 cycles on two
/// ports needs in flight, and leave registers for the operands even with 16 of them.
inline constexpr int strip_width = 4;

/// out[c] −= Σ_k in[k] · packed(k, c) for c in [0, columns), k in [0, depth): `in` [depth][lanes], `out`
/// [columns][lanes]. Each sum runs in the order of k. Entry (k, c) of the strips is at
/// packed[c / 4 · strip_stride + k · 4 + c % 4].
using SubtractProduct = void (*)(const float* packed, std::int64_t strip_stride, std::int64_t depth,
                                 std::int64_t columns, const float* in, float* out);

}  // namespace kerf::inline v1

namespace kerf::inline v1::panel_kernels::inline KERF_PANEL_ISA {

inline constexpr int lanes = panel_lanes;

#if defined(__AVX512F__)
inline constexpr int width = 16;
using Vector = __m512;
inline Vector load(const float* from) {
    return _mm512_loadu_ps(from);
}
inline void store(float* to, Vector x) {
    _mm512_storeu_ps(to, x);
}
inline Vector broadcast(float x) {
    return _mm512_set1_ps(x);
}
inline Vector minus_product(Vector sum, Vector a, Vector b) {
    return _mm512_fnmadd_ps(a, b, sum);
}
#elif defined(__AVX2__) && defined(__FMA__)
inline constexpr int width = 8;
using Vector = __m256;
inline Vector load(const float* from) {
    return _mm256_loadu_ps(from);
}
inline void store(float* to, Vector x) {
    _mm256_storeu_ps(to, x);
}
inline Vector broadcast(float x) {
    return _mm256_set1_ps(x);
}
inline Vector minus_product(Vector sum, Vector a, Vector b) {
    return _mm256_fnmadd_ps(a, b, sum);
}
#else
inline constexpr int width = 4;
using Vector = float __attribute__((vector_size(16)));
inline Vector load(const float* from) {
    Vector x;
    __builtin_memcpy(&x, from, sizeof(x));
    return x;
}
inline void store(float* to, Vector x) {
    __builtin_memcpy(to, &x, sizeof(x));
}
inline Vector broadcast(float x) {
    return Vector{x, x, x, x};
}
inline Vector minus_product(Vector sum, Vector a, Vector b) {
#if defined(__FP_FAST_FMAF)
    for (int i = 0; i < width; ++i) sum[i] = __builtin_fmaf(-a[i], b[i], sum[i]);
    return sum;
#else
    return sum - a * b;
#endif
}
#endif

/// 2 vectors of rows × Columns columns stay in registers over `depth` terms.
template <int Columns>
void subtract_tile(const float* packed, std::int64_t depth, const float* in, float* out) {
    Vector sum[Columns][2];
    for (int c = 0; c < Columns; ++c) {
        sum[c][0] = load(out + c * lanes);
        sum[c][1] = load(out + c * lanes + width);
    }
    for (std::int64_t k = 0; k < depth; ++k) {
        const Vector low = load(in + k * lanes), high = load(in + k * lanes + width);
        for (int c = 0; c < Columns; ++c) {
            const Vector factor = broadcast(packed[k * strip_width + c]);
            sum[c][0] = minus_product(sum[c][0], low, factor);
            sum[c][1] = minus_product(sum[c][1], high, factor);
        }
    }
    for (int c = 0; c < Columns; ++c) {
        store(out + c * lanes, sum[c][0]);
        store(out + c * lanes + width, sum[c][1]);
    }
}

inline void subtract_strip(int columns, const float* packed, std::int64_t depth, const float* in, float* out) {
    for (int lane = 0; lane < lanes; lane += 2 * width) {
        switch (columns) {
            case 1:
                subtract_tile<1>(packed, depth, in + lane, out + lane);
                break;
            case 2:
                subtract_tile<2>(packed, depth, in + lane, out + lane);
                break;
            case 3:
                subtract_tile<3>(packed, depth, in + lane, out + lane);
                break;
            default:
                subtract_tile<4>(packed, depth, in + lane, out + lane);
        }
    }
}

/// A SubtractProduct.
inline void subtract(const float* packed, std::int64_t strip_stride, std::int64_t depth, std::int64_t columns,
                     const float* in, float* out) {
    // 128 terms at a time: that much of `in` (16 KiB) stays in the first-level cache for all strips.
    constexpr std::int64_t chunk = 128;
    for (std::int64_t k = 0; k < depth; k += chunk) {
        const std::int64_t terms = depth - k < chunk ? depth - k : chunk;
        const float* strip = packed + k * strip_width;
        for (std::int64_t c = 0; c < columns; c += strip_width, strip += strip_stride) {
            const std::int64_t left = columns - c;
            subtract_strip(left < strip_width ? static_cast<int>(left) : strip_width, strip, terms, in + k * lanes,
                           out + c * lanes);
        }
    }
}

/// w −= e · factor, one row vector of a panel.
inline void subtract_row(const float* e, float factor, float* w) {
    const Vector u = broadcast(factor);
    for (int l = 0; l < lanes; l += width) store(w + l, minus_product(load(w + l), load(e + l), u));
}

}  // namespace kerf::inline v1::panel_kernels::inline KERF_PANEL_ISA

#undef KERF_PANEL_ISA
