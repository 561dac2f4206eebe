// SPDX-License-Identifier: Apache-2.0
// The inner loops of GPTQ, included by one file for each instruction set (kernel_*.cpp). Everything is in an anonymous
// namespace, and of the standard library only <cstdint>: an inline function that this file shared with others could be
// kept by the linker in the version for the wrong instruction set.

#include "kerf/panel_kernels.hpp"
#include "kernel.hpp"

namespace kerf::gptq {
namespace {

using panel_kernels::subtract;
using panel_kernels::subtract_row;

struct Local {};  // makes the templates of quantization.hpp local, too

/// Rounds column `c` and leaves its error in the panel.
inline void round_column(const GridOptions& options, const Piece& piece, std::int64_t c) {
    alignas(64) float code[lanes], value[lanes];
    float* w = piece.panel + c * lanes;
    const PanelGrid& grid = piece.grids[piece.group_of[c]];
    quantise<lanes, Local>(options, grid, w, code, value);
    if (piece.zeros && piece.zeros[c] != 0) pin_zeros<lanes, Local>(options, grid, piece.zeros[c], code, value);
    const float diagonal = piece.upper[c * piece.stride + c];
    std::uint8_t* codes = piece.codes + (c - piece.first) * lanes;
    for (int l = 0; l < lanes; ++l) {
        const float e = (w[l] - value[l]) / diagonal;
        codes[l] = static_cast<std::uint8_t>(static_cast<std::int32_t>(code[l]));
        piece.loss[l] += 0.5f * (e * e);
        w[l] = e;
    }
}

void round_piece(const GridOptions& options, const Piece& piece) {
    // 16 columns are rounded one after the other, each correcting those after it; what they do to later columns waits
    // until it can be done by `subtract`, at the speed of a matrix product.
    constexpr std::int64_t step = 16;
    static_assert(step % strip_width == 0);
    for (std::int64_t s = piece.first; s < piece.last; s += step) {
        const std::int64_t end = s + step < piece.last ? s + step : piece.last;
        subtract(piece.packed + (s - piece.first) / strip_width * piece.strip_stride, piece.strip_stride,
                 s - piece.first, end - s, piece.panel + piece.first * lanes, piece.panel + s * lanes);
        for (std::int64_t c = s; c < end; ++c) {
            round_column(options, piece, c);
            const float* u = piece.upper + c * piece.stride;
            for (std::int64_t j = c + 1; j < end; ++j)
                subtract_row(piece.panel + c * lanes, u[j], piece.panel + j * lanes);
        }
    }
}

void fit(const GridOptions& options, const float* panel, std::int64_t columns, const float* importance,
         PanelGrid& grid) {
    fit_grid<lanes, Local>(options, panel, columns, importance, grid);
}

void error_of(const GridOptions& options, const PanelGrid& grid, const float* panel, std::int64_t columns,
              const float* importance, float* error) {
    rounding_error<lanes, Local>(options, grid, panel, columns, importance, error);
}

/// With codes fixed, the loss is a parabola in the group's scale: its minimum is at s + n/d with n = g·dᵀ and
/// d = level H levelᵀ, level = code − zero. A scale that has to be rounded may miss it, so the loss decides.
void refit_scale(const GridOptions& options, const Descent& run) {
    alignas(64) float slope[lanes] = {}, curve[lanes] = {}, change[lanes], level[lanes], sum[lanes];
    PanelGrid& grid = run.grids[run.group_of[0]];
    for (std::int64_t j = 0; j < run.count; ++j) {
        for (int l = 0; l < lanes; ++l) {
            level[l] = static_cast<float>(run.codes[j * lanes + l]) - grid.zero[l];
            slope[l] += level[l] * run.gradient[j * lanes + l];
            sum[l] = 0.5f * run.gram[j * run.gram_stride + j] * level[l];
        }
        for (std::int64_t k = 0; k < j; ++k) {
            const float h = run.gram[j * run.gram_stride + k];
            for (int l = 0; l < lanes; ++l) sum[l] += h * (static_cast<float>(run.codes[k * lanes + l]) - grid.zero[l]);
        }
        for (int l = 0; l < lanes; ++l) curve[l] += 2.0f * (level[l] * sum[l]);
    }
    for (int l = 0; l < lanes; ++l) {
        float scale = grid.scale[l] + (curve[l] > 0 ? slope[l] / curve[l] : 0.0f);
        scale = detail::at_least<Local>(scale, 0x1p-126f);
        scale = options.scale_type == ScaleType::float16 ? detail::rounded_to_half<Local>(scale) : scale;
        const float step = scale - grid.scale[l];
        change[l] = step * step * curve[l] - 2.0f * step * slope[l] < 0 ? step : 0.0f;
        grid.scale[l] = change[l] == 0 ? grid.scale[l] : scale;
    }
    for (std::int64_t j = 0; j < run.count; ++j) {
        for (int l = 0; l < lanes; ++l) {
            level[l] = change[l] * (static_cast<float>(run.codes[j * lanes + l]) - grid.zero[l]);
            run.residual[j * lanes + l] -= level[l];
        }
        for (std::int64_t k = 0; k < run.count; ++k)
            subtract_row(level, run.gram[j * run.gram_stride + k], run.gradient + k * lanes);
    }
}

/// One sweep of coordinate descent: each code in turn becomes the best one while all others stay.
void descend(const GridOptions& options, const Descent& run) {
    alignas(64) float target[lanes], code[lanes], value[lanes], step[lanes];
    if (run.refit) refit_scale(options, run);
    for (std::int64_t j = 0; j < run.count; ++j) {
        const PanelGrid& grid = run.grids[run.group_of[j]];
        const float h = run.gram[j * run.gram_stride + j];
        std::uint8_t* codes = run.codes + j * lanes;
        for (int l = 0; l < lanes; ++l) {
            step[l] = grid.scale[l] * (static_cast<float>(codes[l]) - grid.zero[l]);
            target[l] = step[l] + run.gradient[j * lanes + l] / h;
        }
        quantise<lanes, Local>(options, grid, target, code, value);
        if (run.zeros && run.zeros[j] != 0) pin_zeros<lanes, Local>(options, grid, run.zeros[j], code, value);
        for (int l = 0; l < lanes; ++l) {
            step[l] = value[l] - step[l];
            run.residual[j * lanes + l] -= step[l];
            codes[l] = static_cast<std::uint8_t>(static_cast<std::int32_t>(code[l]));
        }
        for (std::int64_t k = 0; k < run.count; ++k)
            subtract_row(step, run.gram[j * run.gram_stride + k], run.gradient + k * lanes);
    }
}

constexpr Kernel table(const char* name) {
    return {name, subtract, round_piece, fit, error_of, descend};
}

}  // namespace
}  // namespace kerf::gptq
