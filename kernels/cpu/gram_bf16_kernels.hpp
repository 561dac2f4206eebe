// SPDX-License-Identifier: Apache-2.0
#pragma once

// The bf16 Gram kernels, written against a thin layer of instructions, the "unit". gram_bf16_amx.cpp and
// gram_bf16_avx512.cpp compile them with the real instructions; the tests compile the same lines with plain C++ units
// of the same semantics, on any machine. Nothing inline from the standard library may be used here: these files are
// compiled for processors that not every machine has, and the linker keeps one copy of an inline function for the whole
// program.

#include <stdint.h>

#include "kernels/cpu/gram_bf16.hpp"

namespace kerf::kernels::detail {

typedef uint32_t Dwords __attribute__((vector_size(64)));
typedef uint16_t Words __attribute__((vector_size(32)));
typedef Dwords DwordsInMemory __attribute__((aligned(4), may_alias));
typedef Words WordsInMemory __attribute__((aligned(2), may_alias));

constexpr int64_t tile_dwords = 256;  ///< one packed tile: 16 × 16

/// lower, upper = a, b after they exchanged the elements whose index differs in bit `step` from their row's.
template <int step>
inline __attribute__((always_inline)) void exchange(const Dwords& a, const Dwords& b, Dwords& lower, Dwords& upper) {
    if constexpr (step == 1) {
        lower = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
        upper = __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    } else if constexpr (step == 2) {
        lower = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
        upper = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    } else if constexpr (step == 4) {
        lower = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        upper = __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    } else {
        static_assert(step == 8);
        lower = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        upper = __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
}

template <int step>
inline __attribute__((always_inline)) void exchange_rows(const Dwords (&in)[16], Dwords (&out)[16]) {
    for (int i = 0; i < 16; ++i)
        if ((i & step) == 0) exchange<step>(in[i], in[i + step], out[i], out[i + step]);
}

/// 16 × 16 dwords: to = fromᵀ, in four rounds of 16 shuffles.
inline __attribute__((always_inline)) void transpose_tile(const uint32_t* from, uint32_t* to) {
    Dwords rows[16], next[16];
    for (int i = 0; i < 16; ++i) rows[i] = *reinterpret_cast<const DwordsInMemory*>(from + 16 * i);
    exchange_rows<1>(rows, next);
    exchange_rows<2>(next, rows);
    exchange_rows<4>(rows, next);
    exchange_rows<8>(next, rows);
    for (int i = 0; i < 16; ++i) *reinterpret_cast<DwordsInMemory*>(to + 16 * i) = rows[i];
}

/// 16 features of one token, zeros past the last feature or token.
inline __attribute__((always_inline)) void load_features(const uint16_t* x, int64_t count, Words& out) {
    if (count >= gram_panel_features) {
        out = *reinterpret_cast<const WordsInMemory*>(x);
        return;
    }
    out = Words{};
    for (int64_t i = 0; i < count; ++i) out[i] = x[i];
}

/// Packs one block of up to 32 tokens and one panel; x is at the block's first token and panel's first
/// feature.
inline __attribute__((always_inline)) void pack_tile(const uint16_t* x, int64_t ldx, int64_t tokens, int64_t features,
                                                     uint32_t* pairs, uint32_t* turned) {
    for (int64_t p = 0; p < gram_block_tokens / 2; ++p) {
        Words even, odd;
        load_features(x + 2 * p * ldx, 2 * p < tokens ? features : 0, even);
        load_features(x + (2 * p + 1) * ldx, 2 * p + 1 < tokens ? features : 0, odd);
        const Dwords low = __builtin_convertvector(even, Dwords), high = __builtin_convertvector(odd, Dwords);
        *reinterpret_cast<DwordsInMemory*>(pairs + 16 * p) = low | high << 16;
    }
    if (turned != nullptr) transpose_tile(pairs, turned);
}

/// Block by block over all panels, so that whole rows of x are read.
template <class Unit>  // one instance for each instruction set
void pack(const uint16_t* x, int64_t ldx, int64_t tokens, int64_t features, int64_t first_panel, int64_t last_panel,
          int64_t first_block, const PackedBf16& packed) {
    for (int64_t t = 0; t < tokens; t += gram_block_tokens) {
        const int64_t tile = (first_block + t / gram_block_tokens) * tile_dwords;
        for (int64_t panel = first_panel; panel < last_panel; ++panel) {
            const int64_t at = panel * packed.panel_stride + tile, feature = panel * gram_panel_features;
            const int64_t here = feature < features ? features - feature : 0;
            pack_tile(x + t * ldx + (here > 0 ? feature : 0), ldx, tokens - t, here, packed.pairs + at,
                      packed.turned != nullptr ? packed.turned + at : nullptr);
        }
    }
}

struct TileRange {
    int64_t row, rows, column, columns;
};

/// AMX. Registers: sums 0..3 as 2 × 2 tiles of 16 × 16, left-hand side (turned) 4 and 5, right-hand side (pairs) 6 and
/// 7: four loads feed four products of 16 cycles each, so that loads at 8 cycles each hide behind them. 16 blocks of
/// tokens at a time: a right-hand strip is then 2 × 16 KiB and stays in the first-level cache, the left-hand ones (16
/// KiB a panel) in the second.
template <class Unit>
void gram_tile_amx(Unit& unit, const PackedBf16& packed, int64_t blocks, const TileRange& range, float* c,
                   int64_t ldc) {
    constexpr int64_t depth = 16, step = gram_step_features, row_bytes = 64;
    const int64_t stride = packed.panel_stride, c_bytes = ldc * 4;
    unit.configure();
    for (int64_t first = 0; first < blocks; first += depth) {
        const int64_t last = first + depth < blocks ? first + depth : blocks;
        for (int64_t j = 0; j < range.columns; j += step) {
            const uint32_t* right = packed.pairs + (range.column + j) / gram_panel_features * stride;
            for (int64_t i = 0; i < range.rows; i += step) {
                if (range.row + i < range.column + j) continue;  // above the diagonal
                const uint32_t* left = packed.turned + (range.row + i) / gram_panel_features * stride;
                float* upper = c + i * ldc + j;
                float* lower = upper + 16 * ldc;
                if (first == 0) {
                    unit.template zero<0>();
                    unit.template zero<1>();
                    unit.template zero<2>();
                    unit.template zero<3>();
                } else {
                    unit.template load<0>(upper, c_bytes);
                    unit.template load<1>(upper + 16, c_bytes);
                    unit.template load<2>(lower, c_bytes);
                    unit.template load<3>(lower + 16, c_bytes);
                }
                for (int64_t at = first * tile_dwords; at < last * tile_dwords; at += tile_dwords) {
                    unit.template load<4>(left + at, row_bytes);
                    unit.template load<6>(right + at, row_bytes);
                    unit.template multiply<0, 4, 6>();
                    unit.template load<7>(right + stride + at, row_bytes);
                    unit.template multiply<1, 4, 7>();
                    unit.template load<5>(left + stride + at, row_bytes);
                    unit.template multiply<2, 5, 6>();
                    unit.template multiply<3, 5, 7>();
                }
                unit.template store<0>(upper, c_bytes);
                unit.template store<1>(upper + 16, c_bytes);
                unit.template store<2>(lower, c_bytes);
                unit.template store<3>(lower + 16, c_bytes);
            }
        }
    }
    unit.release();
}

/// AVX-512-BF16: 8 rows × 32 columns in 16 sums, more than the latency of vdpbf16ps (6 cycles) at one a cycle needs;
/// two loads and eight broadcasts feed 16 products. 128 token pairs at a time: the right-hand strip is then 16 KiB.
/// Each such part has sums of its own, added to c at its end: shorter chains of additions, smaller rounding error.
template <class Unit>
void gram_tile_avx512(const PackedBf16& packed, int64_t blocks, const TileRange& range, float* c, int64_t ldc) {
    using Pairs = typename Unit::Pairs;
    using Sums = typename Unit::Sums;
    constexpr int64_t depth = 128, height = 8, panel = gram_panel_features, step = gram_step_features;
    const int64_t pairs = blocks * (gram_block_tokens / 2), stride = packed.panel_stride;
    for (int64_t first = 0; first < pairs; first += depth) {
        const int64_t last = first + depth < pairs ? first + depth : pairs;
        for (int64_t j = 0; j < range.columns; j += step) {
            const uint32_t* right = packed.pairs + (range.column + j) / panel * stride;
            for (int64_t i = 0; i < range.rows; i += height) {
                const int64_t feature = range.row + i;
                if (feature / step * step < range.column + j) continue;  // above the diagonal
                const uint32_t* left = packed.pairs + feature / panel * stride + feature % panel;
                Sums sums[height][2];
                for (auto& row : sums) Unit::zero(row[0]), Unit::zero(row[1]);
                for (int64_t p = first * 16; p < last * 16; p += 16) {
                    Pairs near, far, one;
                    Unit::load(near, right + p);
                    Unit::load(far, right + stride + p);
                    for (int64_t r = 0; r < height; ++r) {
                        Unit::broadcast(one, left + p + r);
                        Unit::multiply(sums[r][0], one, near);
                        Unit::multiply(sums[r][1], one, far);
                    }
                }
                for (int64_t r = 0; r < height; ++r) {
                    float* to = c + (i + r) * ldc + j;
                    Unit::add_to(to, sums[r][0], first == 0);
                    Unit::add_to(to + 16, sums[r][1], first == 0);
                }
            }
        }
    }
}

}  // namespace kerf::kernels::detail
