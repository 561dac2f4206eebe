// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/cpu/gram_bf16_isa.hpp"
#include "kernels/cpu/gram_bf16_kernels.hpp"

namespace kerf::kernels::detail {
namespace {

struct Avx512 {
    using Pairs = __m512i;
    using Sums = __m512;
    static void zero(Sums& sums) { sums = _mm512_setzero_ps(); }
    static void load(Pairs& pairs, const uint32_t* from) { pairs = _mm512_loadu_si512(from); }
    static void broadcast(Pairs& pairs, const uint32_t* from) { pairs = _mm512_set1_epi32(static_cast<int>(*from)); }
    static void multiply(Sums& sums, const Pairs& left, const Pairs& right) {
        sums = _mm512_dpbf16_ps(sums, (__m512bh)left, (__m512bh)right);
    }
    static void add_to(float* to, const Sums& sums, bool first) {
        _mm512_storeu_ps(to, first ? sums : _mm512_add_ps(_mm512_loadu_ps(to), sums));
    }
};

}  // namespace

void pack_avx512(const uint16_t* x, int64_t ldx, int64_t tokens, int64_t features, int64_t first_panel,
                 int64_t last_panel, int64_t first_block, const PackedBf16& packed) {
    pack<Avx512>(x, ldx, tokens, features, first_panel, last_panel, first_block, packed);
}

void tile_avx512(const PackedBf16& packed, int64_t blocks, int64_t row, int64_t rows, int64_t column, int64_t columns,
                 float* c, int64_t ldc) {
    gram_tile_avx512<Avx512>(packed, blocks, {row, rows, column, columns}, c, ldc);
}

}  // namespace kerf::kernels::detail
