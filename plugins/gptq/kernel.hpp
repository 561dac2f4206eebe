// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kerf/panel_kernels.hpp"
#include "kerf/quantization.hpp"

namespace kerf::gptq {

inline constexpr int lanes = panel_lanes;
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
    const std::uint32_t* zeros;    ///< [columns], bit l: row l stays 0 here; null: every weight may become another
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
    const std::uint32_t* zeros;    ///< [count], as in Piece
};

/// The inner loops, compiled once for each instruction set. All that have a fused multiply-add give the same bytes
/// (panel_kernels.hpp); without one a weight moves to the next code now and then.
struct Kernel {
    const char* name;
    SubtractProduct subtract;
    void (*round_piece)(const GridOptions&, const Piece&);
    void (*fit)(const GridOptions&, const float* panel, std::int64_t columns, const float* importance, PanelGrid&);
    void (*error_of)(const GridOptions&, const PanelGrid&, const float* panel, std::int64_t columns,
                     const float* importance, float* error);
    void (*descend)(const GridOptions&, const Descent&);
};

const Kernel& portable_kernel();
const Kernel& avx2_kernel();  ///< x86 alone, as the next one
const Kernel& avx512_kernel();

}  // namespace kerf::gptq
