// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

/// Affine and ternary grids for rounding weights: fit, search and quantise.
///
/// All functions work on a *panel*: `Lanes` rows of a weight matrix side by side, [columns][Lanes] floats, each lane
/// with a grid of its own. A lane never sees another one, so rows can be split over threads at will, and the loops over
/// lanes are plain enough that a compiler turns them into vector code for whatever instruction set a file is compiled
/// for. Nothing here is fused or reassociated: compiled with -ffp-contract=off, every instruction set gives the same
/// bytes. `Lanes` = 1 is a row on its own.
///
/// `Tag`: a file compiled for one instruction set passes a type of its anonymous namespace. The instantiations are then
/// local to that file; otherwise the linker could keep the AVX-512 copy of an inline function for everybody.
namespace kerf::inline v1 {

/// What the scales will be stored as. They are rounded before anything is quantised with them, so that the weights that
/// were measured are those that are stored.
enum class ScaleType : std::int32_t { float32, float16 };

struct GridOptions {
    int bits = 4;            ///< 2..8: codes 0..2^bits − 1. No effect on ternary grids
    bool symmetric = false;  ///< zero point fixed at 2^(bits−1), lo = −hi
    bool ternary = false;    ///< values lo, 0, hi (codes 0, 1, 2); scale = hi, zero = lo
    /// Rows without a negative entry keep lo = 0 in symmetric mode, as IST-DASLab's gptq does. About half of their
    /// range is then clipped away; only for comparisons.
    bool one_sided = false;
    int least_zero = 0;  ///< 1: zero points ≥ 1, as the packed format gptq (v1), which stores zero − 1, wants them
    ScaleType scale_type = ScaleType::float32;
    int search_steps = 0;   ///< how many shrunk ranges are tried; 0: the range of the weights itself
    int search_grid = 100;  ///< try i has the range times 1 − i / grid
    int polish_rounds = 0;  ///< how often the best try's neighbours in scale and zero point are tried afterwards
    float norm = 2.4f;      ///< the search minimises Σ importance · |error|^norm
};

/// ŵ = scale · (code − zero) for affine grids.
template <int Lanes>
struct alignas(64) Grid {
    float scale[Lanes], zero[Lanes];
};
/// Smallest and largest weight, zero always included.
template <int Lanes>
struct alignas(64) Extent {
    float low[Lanes], high[Lanes];
};

namespace detail {

/// Half to even for |x| < 2^22 on any instruction set, without libm; larger ones keep sign and size, which is enough
/// before a clamp. Not for -ffast-math.
inline constexpr float rounding_shift = 12582912.0f;  // 1.5 · 2^23

template <class Tag>
inline float round_even(float x) {
    return (x + rounding_shift) - rounding_shift;
}
template <class Tag>
inline float at_least(float x, float bound) {
    return x < bound ? bound : x;
}
template <class Tag>
inline float at_most(float x, float bound) {
    return x > bound ? bound : x;
}

/// The nearest float16 (ties to even) of a positive number, never 0 and never infinite. Numbers below 2^-14 are
/// subnormal in float16: multiples of 2^-24.
template <class Tag>
inline float rounded_to_half(float x) {
    const auto bits = __builtin_bit_cast(std::uint32_t, x);
    const std::uint32_t rounded = (bits + 0xFFFu + ((bits >> 13) & 1u)) & ~0x1FFFu;
    const float normal = at_most<Tag>(__builtin_bit_cast(float, rounded), 65504.0f);
    const float subnormal = at_least<Tag>((x + 0.75f) - 0.75f, 0x1p-24f);  // 0.75 has the ulp 2^-24
    return x < 0x1p-14f ? subnormal : normal;
}

/// log2 of a positive normal number, absolute error < 2e-7 near 1 and 1 ulp elsewhere: mantissa to [√½, √2), then the
/// series of 2·atanh(s)/ln 2 with s = (m − 1)/(m + 1), |s| ≤ 0.172.
template <class Tag>
inline float log2_of(float x) {
    const auto bits = __builtin_bit_cast(std::int32_t, x);
    const std::int32_t exponent = (bits - 0x3F3504F3) >> 23;  // 0x3F3504F3 = √½
    const float m = __builtin_bit_cast(float, bits - exponent * (1 << 23));
    const float s = (m - 1.0f) / (m + 1.0f);
    const float t = s * s;
    const float series = 2.88539008f + t * (0.961796694f + t * (0.577078016f + t * (0.412198583f + t * 0.320598898f)));
    return static_cast<float>(exponent) + s * series;
}

/// 2^x for −126 ≤ x ≤ 127 (clamped), relative error < 2e-7: integer part into the exponent, Taylor series for |f| ≤ ½.
template <class Tag>
inline float exp2_of(float x) {
    x = at_most<Tag>(at_least<Tag>(x, -126.0f), 127.0f);
    const float whole = round_even<Tag>(x);
    const float f = x - whole;
    const float series =
        1.0f + f * (0.693147181f +
                    f * (0.240226507f +
                         f * (0.0555041087f + f * (0.00961812911f + f * (0.00133335581f + f * 0.000154035304f)))));
    const auto exponent = static_cast<std::int32_t>(whole);
    return series * __builtin_bit_cast(float, (exponent + 127) * (1 << 23));
}

/// |x|^p, 0 below 1e-30.
template <class Tag>
inline float power(float x, float p) {
    const float magnitude = x < 0 ? -x : x;
    const float result = exp2_of<Tag>(p * log2_of<Tag>(at_least<Tag>(magnitude, 1e-30f)));
    return magnitude < 1e-30f ? 0.0f : result;
}

}  // namespace detail

/// Widens `extent` by `columns` columns of a panel; start from zeros.
template <int Lanes, class Tag = void>
void widen(const float* panel, std::int64_t columns, Extent<Lanes>& extent) {
    for (std::int64_t c = 0; c < columns; ++c) {
        const float* w = panel + c * Lanes;
        for (int l = 0; l < Lanes; ++l) {
            extent.low[l] = detail::at_most<Tag>(w[l], extent.low[l]);
            extent.high[l] = detail::at_least<Tag>(w[l], extent.high[l]);
        }
    }
}

/// Makes the extent what the grid will span: symmetric if asked for, and never empty.
template <int Lanes, class Tag = void>
void settle(const GridOptions& options, Extent<Lanes>& extent) {
    const bool symmetric = options.symmetric && !options.ternary;
    for (int l = 0; l < Lanes; ++l) {
        float low = extent.low[l], high = extent.high[l];
        if (symmetric) {
            high = detail::at_least<Tag>(high, -low);
            low = low < 0 || !options.one_sided ? -high : low;
        }
        const bool empty = low == 0 && high == 0;
        extent.low[l] = empty ? -1.0f : low;
        extent.high[l] = empty ? 1.0f : high;
    }
}

/// The grid that spans `extent` · `shrink`.
template <int Lanes, class Tag = void>
void grid_over(const GridOptions& options, const Extent<Lanes>& extent, float shrink, Grid<Lanes>& grid) {
    const auto levels = static_cast<float>((1 << options.bits) - 1);
    const auto least_zero = static_cast<float>(options.least_zero);
    const bool half = options.scale_type == ScaleType::float16;
    for (int l = 0; l < Lanes; ++l) {
        const float low = shrink * extent.low[l], high = shrink * extent.high[l];
        if (options.ternary) {
            grid.scale[l] = high;
            grid.zero[l] = low;
            continue;
        }
        float scale = detail::at_most<Tag>(detail::at_least<Tag>((high - low) / levels, 0x1p-126f), 0x1p127f);
        scale = half ? detail::rounded_to_half<Tag>(scale) : scale;
        float zero = detail::at_most<Tag>(detail::round_even<Tag>(-low / scale), levels);
        if (!options.symmetric && options.least_zero > 0) {
            // One code below zero that nothing uses: the rest has to reach up to `high`.
            const float reach = detail::at_least<Tag>(high / (levels - least_zero), 0x1p-126f);
            const float wider = half ? detail::rounded_to_half<Tag>(reach) : reach;
            scale = zero < least_zero ? detail::at_least<Tag>(scale, wider) : scale;
            zero = detail::at_least<Tag>(zero, least_zero);
        }
        grid.scale[l] = scale;
        grid.zero[l] = options.symmetric ? static_cast<float>(1 << (options.bits - 1)) : zero;
    }
}

/// One weight of each lane onto its grid: code = clamp(round(w/scale) + zero, 0, 2^bits − 1), value = scale·(code −
/// zero).
template <int Lanes, class Tag = void>
void quantise(const GridOptions& options, const Grid<Lanes>& grid, const float* w, float* code, float* value) {
    if (options.ternary) {
        for (int l = 0; l < Lanes; ++l) {
            const bool up = w[l] > grid.scale[l] / 2, down = w[l] < grid.zero[l] / 2;
            code[l] = up ? 2.0f : down ? 0.0f : 1.0f;
            value[l] = up ? grid.scale[l] : down ? grid.zero[l] : 0.0f;
        }
        return;
    }
    const auto levels = static_cast<float>((1 << options.bits) - 1);
    for (int l = 0; l < Lanes; ++l) {
        const float q = detail::round_even<Tag>(w[l] / grid.scale[l]) + grid.zero[l];
        code[l] = detail::at_most<Tag>(detail::at_least<Tag>(q, 0.0f), levels);
        value[l] = grid.scale[l] * (code[l] - grid.zero[l]);
    }
}

/// Lanes whose bit is set get the code that stands for 0, whatever they were rounded to: the zero point of affine
/// grids, 1 of ternary ones. Every grid has one.
template <int Lanes, class Tag = void>
void pin_zeros(const GridOptions& options, const Grid<Lanes>& grid, std::uint32_t zeros, float* code, float* value) {
    static_assert(Lanes <= 32);
    for (int l = 0; l < Lanes; ++l) {
        const bool zero = (zeros >> l & 1u) != 0;
        code[l] = zero ? (options.ternary ? 1.0f : grid.zero[l]) : code[l];
        value[l] = zero ? 0.0f : value[l];
    }
}

/// error[l] = Σ over columns of importance[c] · |quantised − w|^norm. importance NULL = all 1.
template <int Lanes, class Tag = void>
void rounding_error(const GridOptions& options, const Grid<Lanes>& grid, const float* panel, std::int64_t columns,
                    const float* importance, float* error) {
    alignas(64) float code[Lanes], value[Lanes], sum[Lanes] = {};
    for (std::int64_t c = 0; c < columns; ++c) {
        const float* w = panel + c * Lanes;
        const float weight = importance ? importance[c] : 1.0f;
        quantise<Lanes, Tag>(options, grid, w, code, value);
        if (options.norm == 2.0f) {
            for (int l = 0; l < Lanes; ++l) sum[l] += weight * ((value[l] - w[l]) * (value[l] - w[l]));
        } else {
            for (int l = 0; l < Lanes; ++l) sum[l] += weight * detail::power<Tag>(value[l] - w[l], options.norm);
        }
    }
    for (int l = 0; l < Lanes; ++l) error[l] = sum[l];
}

/// How much try `step` of the search shrinks the range.
inline float shrink_of(const GridOptions& options, int step) {
    return static_cast<float>(1.0 - static_cast<double>(step) / options.search_grid);
}

/// Takes `grid` for the lanes in which its rounding error is less than the least one so far.
template <int Lanes, class Tag = void>
void keep_better(const GridOptions& options, const Grid<Lanes>& grid, const float* panel, std::int64_t columns,
                 const float* importance, float* least, Grid<Lanes>& best) {
    alignas(64) float error[Lanes];
    rounding_error<Lanes, Tag>(options, grid, panel, columns, importance, error);
    for (int l = 0; l < Lanes; ++l) {
        const bool better = error[l] < least[l];
        least[l] = better ? error[l] : least[l];
        best.scale[l] = better ? grid.scale[l] : best.scale[l];
        best.zero[l] = better ? grid.zero[l] : best.zero[l];
    }
}

/// Walks from the best grid to better neighbours: zero point one up or down, scale 2 % up or down, each lane on its
/// own.
template <int Lanes, class Tag = void>
void polish(const GridOptions& options, const float* panel, std::int64_t columns, const float* importance, float* least,
            Grid<Lanes>& best) {
    struct Move {
        float zero, scale;
    };
    constexpr Move moves[] = {{1, 1}, {-1, 1}, {0, 1.02f}, {0, 0.98f}};
    const auto levels = static_cast<float>((1 << options.bits) - 1);
    const auto least_zero = static_cast<float>(options.least_zero);
    const bool half = options.scale_type == ScaleType::float16;
    for (const Move& move : moves) {
        if (move.zero != 0 && options.symmetric) continue;
        Grid<Lanes> grid;
        for (int l = 0; l < Lanes; ++l) {
            const float zero =
                detail::at_most<Tag>(detail::at_least<Tag>(best.zero[l] + move.zero, least_zero), levels);
            const float scale = detail::at_least<Tag>(best.scale[l] * move.scale, 0x1p-126f);
            grid.zero[l] = options.symmetric ? best.zero[l] : zero;
            grid.scale[l] = half ? detail::rounded_to_half<Tag>(scale) : scale;
        }
        keep_better<Lanes, Tag>(options, grid, panel, columns, importance, least, best);
    }
}

/// The grid of each lane for these columns: the range of the weights or, with search_steps > 0, the first of the shrunk
/// ranges with the least rounding error, polished `polish_rounds` times.
template <int Lanes, class Tag = void>
void fit_grid(const GridOptions& options, const float* panel, std::int64_t columns, const float* importance,
              Grid<Lanes>& best) {
    Extent<Lanes> extent{};
    widen<Lanes, Tag>(panel, columns, extent);
    settle<Lanes, Tag>(options, extent);
    grid_over<Lanes, Tag>(options, extent, 1.0f, best);
    if (options.search_steps < 1 || options.ternary) return;
    alignas(64) float least[Lanes];
    rounding_error<Lanes, Tag>(options, best, panel, columns, importance, least);
    for (int step = 1; step < options.search_steps; ++step) {
        Grid<Lanes> grid;
        grid_over<Lanes, Tag>(options, extent, shrink_of(options, step), grid);
        keep_better<Lanes, Tag>(options, grid, panel, columns, importance, least, best);
    }
    for (int round = 0; round < options.polish_rounds; ++round)
        polish<Lanes, Tag>(options, panel, columns, importance, least, best);
}

/// One grid for `count` weights that lie one after the other, as fit_grid with importance 1 would give one lane. The
/// weights are taken 16 at a time, so the sums of the search run in another order than there.
template <class Tag = void>
Grid<1> fit_run(const GridOptions& options, const float* weights, std::int64_t count);

/// Codes of `count` weights on one grid.
template <class Tag = void>
void quantise_run(const GridOptions& options, const Grid<1>& grid, const float* weights, std::int64_t count,
                  std::uint8_t* codes);

namespace detail {

inline constexpr int run_width = 16;

/// A run as panels of 16 lanes: body(panel, columns) for the whole ones, then for the rest with zeros behind it. Zeros
/// change no extent and have no rounding error.
template <class Body>
void for_run(const float* weights, std::int64_t count, const Body& body) {
    const std::int64_t whole = count / run_width;
    if (whole > 0) body(weights, whole);
    if (whole * run_width == count) return;
    alignas(64) float rest[run_width] = {};
    for (std::int64_t i = whole * run_width; i < count; ++i) rest[i - whole * run_width] = weights[i];
    body(rest, 1);
}

template <class Tag>
Grid<run_width> in_all_lanes(const Grid<1>& grid) {
    Grid<run_width> all;
    for (int l = 0; l < run_width; ++l) {
        all.scale[l] = grid.scale[0];
        all.zero[l] = grid.zero[0];
    }
    return all;
}

template <class Tag>
float run_error(const GridOptions& options, const Grid<1>& grid, const float* weights, std::int64_t count) {
    const auto all = in_all_lanes<Tag>(grid);
    float sum = 0;
    for_run(weights, count, [&](const float* panel, std::int64_t columns) {
        alignas(64) float error[run_width];
        rounding_error<run_width, Tag>(options, all, panel, columns, nullptr, error);
        for (int l = 0; l < run_width; ++l) sum += error[l];
    });
    return sum;
}

}  // namespace detail

template <class Tag>
Grid<1> fit_run(const GridOptions& options, const float* weights, std::int64_t count) {
    Extent<detail::run_width> lanes{};
    detail::for_run(weights, count, [&](const float* panel, std::int64_t columns) {
        widen<detail::run_width, Tag>(panel, columns, lanes);
    });
    Extent<1> extent{};
    for (int l = 0; l < detail::run_width; ++l) {
        extent.low[0] = detail::at_most<Tag>(lanes.low[l], extent.low[0]);
        extent.high[0] = detail::at_least<Tag>(lanes.high[l], extent.high[0]);
    }
    settle<1, Tag>(options, extent);
    Grid<1> best;
    grid_over<1, Tag>(options, extent, 1.0f, best);
    if (options.search_steps < 1 || options.ternary) return best;
    float least = detail::run_error<Tag>(options, best, weights, count);
    for (int step = 1; step < options.search_steps; ++step) {
        Grid<1> grid;
        grid_over<1, Tag>(options, extent, shrink_of(options, step), grid);
        const float error = detail::run_error<Tag>(options, grid, weights, count);
        if (error < least) {
            least = error;
            best = grid;
        }
    }
    return best;
}

template <class Tag>
void quantise_run(const GridOptions& options, const Grid<1>& grid, const float* weights, std::int64_t count,
                  std::uint8_t* codes) {
    const auto all = detail::in_all_lanes<Tag>(grid);
    detail::for_run(weights, count, [&](const float* panel, std::int64_t columns) {
        for (std::int64_t c = 0; c < columns; ++c) {
            alignas(64) float code[detail::run_width], value[detail::run_width];
            quantise<detail::run_width, Tag>(options, all, panel + c * detail::run_width, code, value);
            const std::int64_t left = count < detail::run_width ? count : detail::run_width;
            for (std::int64_t l = 0; l < left; ++l)
                codes[l] = static_cast<std::uint8_t>(static_cast<std::int32_t>(code[l]));
            codes += left;
            count -= left;
        }
    });
}

}  // namespace kerf::inline v1
