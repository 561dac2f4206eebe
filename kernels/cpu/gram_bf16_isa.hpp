// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

namespace kerf::kernels {
struct PackedBf16;
}

/// Private to kernels/cpu: the entry points of the files that are compiled for one instruction set each.
namespace kerf::kernels::detail {

void pack_amx(const uint16_t* x, int64_t ldx, int64_t tokens, int64_t features, int64_t first_panel, int64_t last_panel,
              int64_t first_block, const PackedBf16& packed);
void tile_amx(const PackedBf16& packed, int64_t blocks, int64_t row, int64_t rows, int64_t column, int64_t columns,
              float* c, int64_t ldc);
void pack_avx512(const uint16_t* x, int64_t ldx, int64_t tokens, int64_t features, int64_t first_panel,
                 int64_t last_panel, int64_t first_block, const PackedBf16& packed);
void tile_avx512(const PackedBf16& packed, int64_t blocks, int64_t row, int64_t rows, int64_t column, int64_t columns,
                 float* c, int64_t ldc);

}  // namespace kerf::kernels::detail
