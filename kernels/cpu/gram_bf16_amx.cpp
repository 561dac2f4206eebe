// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gram_bf16_isa.hpp"
#include "kernels/cpu/gram_bf16_kernels.hpp"

namespace kerf::kernels::detail {
namespace {

struct TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
constexpr TileConfig eight_full_tiles;

/// The instructions themselves: the compiler's intrinsics take no template arguments as register numbers, and do not
/// tell it which memory they touch.
struct Amx {
    void configure() { __asm__ volatile("ldtilecfg %0" ::"m"(eight_full_tiles)); }
    void release() { __asm__ volatile("tilerelease" ::: "memory"); }
    template <int tile>
    void zero() {
        __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile));
    }
    template <int tile>
    void load(const void* from, int64_t row_bytes) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(tile) : "memory");
    }
    template <int tile>
    void store(void* to, int64_t row_bytes) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(tile) : "memory");
    }
    template <int sums, int left, int right>
    void multiply() {
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(left), "i"(right));
    }
};

}  // namespace

void pack_amx(const uint16_t* x, int64_t ldx, int64_t tokens, int64_t features, int64_t first_panel, int64_t last_panel,
              int64_t first_block, const PackedBf16& packed) {
    pack<Amx>(x, ldx, tokens, features, first_panel, last_panel, first_block, packed);
}

void tile_amx(const PackedBf16& packed, int64_t blocks, int64_t row, int64_t rows, int64_t column, int64_t columns,
              float* c, int64_t ldc) {
    Amx unit;
    gram_tile_amx(unit, packed, blocks, {row, rows, column, columns}, c, ldc);
}

}  // namespace kerf::kernels::detail
