// SPDX-License-Identifier: Apache-2.0
// The inner loops of SparseGPT, included by one file for each instruction set (kernel_*.cpp). Everything is in an
// anonymous namespace, as panel_kernels.hpp wants it.

#include "kerf/panel_kernels.hpp"
#include "kernel.hpp"

namespace kerf::sparsegpt {
namespace {

using panel_kernels::subtract;
using panel_kernels::subtract_row;

struct Local {};  // makes the templates of quantization.hpp local, too

float diagonal(const Piece& piece, std::int64_t c) {
    return piece.upper[c * piece.stride + c];
}

void score(const Piece& piece, float* scores) {
    for (std::int64_t c = piece.first; c < piece.last; ++c, scores += lanes) {
        const float u = diagonal(piece, c), square = u * u;
        const float* w = piece.panel + c * lanes;
        const std::uint32_t mask = piece.masks[c];
        for (int l = 0; l < lanes; ++l) scores[l] = (mask >> l & 1u) != 0 ? 0.0f : w[l] * w[l] / square;
    }
}

/// The pattern's choice for columns [c, c + of) as they are now: all but `keep` of each row go, those of the least
/// score first, of equal ones the earlier column. What is masked already goes before everything else.
void choose(const Piece& piece, std::int64_t c) {
    alignas(64) float scores[largest_group * lanes];
    alignas(64) std::int32_t ahead[lanes];
    const std::int64_t of = piece.of;
    for (std::int64_t i = 0; i < of; ++i) {
        const float u = diagonal(piece, c + i), square = u * u;
        const float* w = piece.panel + (c + i) * lanes;
        const std::uint32_t mask = piece.masks[c + i];
        for (int l = 0; l < lanes; ++l) scores[i * lanes + l] = (mask >> l & 1u) != 0 ? -1.0f : w[l] * w[l] / square;
    }
    const auto goes = static_cast<std::int32_t>(of - piece.keep);
    for (std::int64_t i = 0; i < of; ++i) {
        const float* mine = scores + i * lanes;
        for (int l = 0; l < lanes; ++l) ahead[l] = 0;
        for (std::int64_t j = 0; j < i; ++j)
            for (int l = 0; l < lanes; ++l) ahead[l] += scores[j * lanes + l] <= mine[l] ? 1 : 0;
        for (std::int64_t j = i + 1; j < of; ++j)
            for (int l = 0; l < lanes; ++l) ahead[l] += scores[j * lanes + l] < mine[l] ? 1 : 0;
        for (int l = 0; l < lanes; ++l) piece.masks[c + i] |= static_cast<std::uint32_t>(ahead[l] < goes) << l;
    }
}

/// Removes, and rounds what remains of, column `c`; leaves its error in the panel.
void settle_column(const Piece& piece, std::int64_t c) {
    float* w = piece.panel + c * lanes;
    float* value = piece.values + (c - piece.first) * lanes;
    const std::uint32_t mask = piece.masks[c];
    if (piece.grid) {
        alignas(64) float code[lanes];
        const PanelGrid& grid = piece.grids[piece.group_of[c]];
        quantise<lanes, Local>(*piece.grid, grid, w, code, value);
        pin_zeros<lanes, Local>(*piece.grid, grid, mask, code, value);
        std::uint8_t* codes = piece.codes + (c - piece.first) * lanes;
        for (int l = 0; l < lanes; ++l) codes[l] = static_cast<std::uint8_t>(static_cast<std::int32_t>(code[l]));
    } else {
        for (int l = 0; l < lanes; ++l) value[l] = (mask >> l & 1u) != 0 ? 0.0f : w[l];
    }
    const float u = diagonal(piece, c);
    for (int l = 0; l < lanes; ++l) {
        const float e = (w[l] - value[l]) / u;
        piece.loss[l] += 0.5f * (e * e);
        w[l] = e;
    }
}

/// `step` columns are settled one after the other, each correcting those after it; what they do to later columns waits
/// until it can be done by `subtract`, at the speed of a matrix product.
void sweep(const Piece& piece) {
    for (std::int64_t s = piece.first; s < piece.last; s += piece.step) {
        const std::int64_t end = s + piece.step < piece.last ? s + piece.step : piece.last;
        subtract(piece.packed + (s - piece.first) / strip_width * piece.strip_stride, piece.strip_stride,
                 s - piece.first, end - s, piece.panel + piece.first * lanes, piece.panel + s * lanes);
        for (std::int64_t c = s; c < end; ++c) {
            if (piece.of > 0 && c % piece.of == 0) choose(piece, c);
            settle_column(piece, c);
            const float* u = piece.upper + c * piece.stride;
            for (std::int64_t j = c + 1; j < end; ++j)
                subtract_row(piece.panel + c * lanes, u[j], piece.panel + j * lanes);
        }
    }
}

void fit(const GridOptions& options, const float* panel, std::int64_t columns, PanelGrid& grid) {
    fit_grid<lanes, Local>(options, panel, columns, nullptr, grid);
}

constexpr Kernel table(const char* name) {
    return {name, subtract, score, sweep, fit};
}

}  // namespace
}  // namespace kerf::sparsegpt
