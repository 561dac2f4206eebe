// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kerf/quantization.hpp"

namespace kerf::gptq {

/// Rows that one panel holds side by side: two AVX-512 registers, four AVX2 ones.
inline constexpr int lanes = 32;
/// Columns that share a packed strip of a right-hand side: 4 × 2 accumulators are the 8 that an FMA of 4 cycles on two
/// ports needs in flight, and leave registers for the operands even with 16 of them.
inline constexpr int strip_width = 4;
/// Longest run of columns that is updated, or rounded, at a time.
inline constexpr std::int64_t piece_width = 128;

using PanelGrid = Grid<lanes>;
using PanelExtent = Extent<lanes>;

/// A run of columns [first, last) of one panel, ready to be rounded.
struct Piece {
    std::int64_t first, last;  ///< places in the loop's order
    float* panel;              ///< [columns][lanes]; weights in, errors e = (w − ŵ)/U_cc out
    const float* upper;        ///< U, row-major, rows `stride` apart
    std::int64_t stride;
    const float* packed;  ///< U[first:last, first:last] inside its strips: entry (row, column) is at
    std::int64_t
        strip_stride;  ///< packed[(column − first)/4 · strip_stride + (row − first) · 4 + (column − first) % 4]
    const std::int32_t* group_of;  ///< [columns], by place
    const PanelGrid* grids;        ///< [groups]
    std::uint8_t* codes;           ///< out, [last − first][lanes]
    float* loss;                   ///< [lanes], ½ Σ e² is added
};

/// A run of columns [0, count) of one panel whose codes are improved with everything else fixed.
struct Descent {
    std::int64_t count;
    const float* gram;  ///< H[first:last, first:last] with the damping on its diagonal, row-major
    std::int64_t gram_stride;
    const std::int32_t* group_of;  ///< [count]
    PanelGrid* grids;              ///< [groups]
    bool refit;                    ///< the whole run is one group: solve for its scale first
    float* residual;               ///< [count][lanes], W − Ŵ; in and out
    float* gradient;               ///< [count][lanes], (W − Ŵ)·H of these columns; in and out
    std::uint8_t* codes;           ///< [count][lanes]; in and out
};

/// The inner loops, compiled once for each instruction set. All that have a fused multiply-add (AVX2, AVX-512, ARM)
/// give the same bytes; x86 without one rounds products first, which moves a weight to the next code now and then.
struct Kernel {
    const char* name;
    /// out[c] −= Σ_k in[k] · packed(k, c) for c in [0, columns), k in [0, depth): `in` [depth][lanes], `out`
    /// [columns][lanes]. Each sum runs in the order of k.
    void (*subtract)(const float* packed, std::int64_t strip_stride, std::int64_t depth, std::int64_t columns,
                     const float* in, float* out);
    void (*round_piece)(const GridOptions&, const Piece&);
    void (*fit)(const GridOptions&, const float* panel, std::int64_t columns, const float* importance, PanelGrid&);
    void (*error_of)(const GridOptions&, const PanelGrid&, const float* panel, std::int64_t columns,
                     const float* importance, float* error);
    void (*descend)(const GridOptions&, const Descent&);
};

const Kernel& portable_kernel();
#ifdef KERF_GPTQ_X86
const Kernel& avx2_kernel();
const Kernel& avx512_kernel();
#endif

/// What this processor can run, the best one last.
inline std::vector<const Kernel*> kernels() {
    std::vector<const Kernel*> found{&portable_kernel()};
#ifdef KERF_GPTQ_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2) found.push_back(&avx2_kernel());
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        found.push_back(&avx512_kernel());
#endif
    return found;
}

}  // namespace kerf::gptq
