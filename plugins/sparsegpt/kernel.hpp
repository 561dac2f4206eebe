// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kerf/panel_kernels.hpp"
#include "kerf/quantization.hpp"

namespace kerf::sparsegpt {

inline constexpr int lanes = panel_lanes;
/// Longest run of columns that is swept at a time: of patterns N:M a multiple of M and of 4, so 4 · 63 at most.
inline constexpr std::int64_t widest_piece = 256;
/// The largest M of a pattern.
inline constexpr int largest_group = 64;

using PanelGrid = Grid<lanes>;

/// A run of columns [first, last) of one panel, with all updates of the columns before it.
struct Piece {
    std::int64_t first, last;
    std::int64_t step;  ///< columns that correct each other one by one; a multiple of 4, and of `of`
    float* panel;       ///< [columns][lanes]; weights in, errors e = (w − ŵ)/U_cc out
    const float* upper;
    std::int64_t stride;           ///< of U's rows
    const float* packed;           ///< U[first:last, first:last] inside its strips
    std::int64_t strip_stride;     ///< of them
    std::uint32_t* masks;          ///< [columns], bit l: row l loses this weight. With a pattern, bits are added here
    std::int64_t keep, of;         ///< the pattern; of = 0: the masks are complete
    const GridOptions* grid;       ///< what remains is rounded; null: it is not
    const std::int32_t* group_of;  ///< [columns], with a grid as the next two
    const PanelGrid* grids;        ///< [groups]
    std::uint8_t* codes;           ///< out, [last − first][lanes]
    float* values;                 ///< out, [last − first][lanes]: ŵ
    float* loss;                   ///< [lanes], ½ Σ e² is added
};

/// The inner loops, compiled once for each instruction set.
struct Kernel {
    const char* name;
    SubtractProduct subtract;
    /// scores[c − first][l] = w²/U_cc² (0 where the mask has the bit), the loss of removing one weight; (5) of the
    /// paper.
    void (*score)(const Piece&, float* scores);
    void (*sweep)(const Piece&);
    void (*fit)(const GridOptions&, const float* panel, std::int64_t columns, PanelGrid&);
};

const Kernel& portable_kernel();
const Kernel& avx2_kernel();  ///< x86 alone, as the next one
const Kernel& avx512_kernel();

}  // namespace kerf::sparsegpt
