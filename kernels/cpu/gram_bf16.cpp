// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gram_bf16.hpp"

#include <bit>
#include <vector>

#include "kernels/cpu/gram_bf16_isa.hpp"

namespace kerf::kernels {

void gram_pack_bf16(Isa isa, const std::uint16_t* x, std::int64_t ldx, std::int64_t tokens, std::int64_t features,
                    std::int64_t first_panel, std::int64_t last_panel, std::int64_t first_block, PackedBf16& packed) {
    const auto pack = isa == Isa::amx_bf16 ? detail::pack_amx : detail::pack_avx512;
    pack(x, ldx, tokens, features, first_panel, last_panel, first_block, packed);
}

void gram_tile_bf16(Isa isa, const PackedBf16& packed, std::int64_t blocks, std::int64_t row, std::int64_t rows,
                    std::int64_t column, std::int64_t columns, float* c, std::int64_t ldc) {
    const auto tile = isa == Isa::amx_bf16 ? detail::tile_amx : detail::tile_avx512;
    tile(packed, blocks, row, rows, column, columns, c, ldc);
}

void widen_bf16(const std::uint16_t* x, float* out, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = std::bit_cast<float>(static_cast<std::uint32_t>(x[i]) << 16);
}

void gram_reference_bf16(const std::uint16_t* x, std::int64_t ldx, std::int64_t tokens, std::int64_t features, float* c,
                         std::int64_t ldc) {
    for (std::int64_t i = 0; i < features; ++i)
        for (std::int64_t j = 0; j <= i; ++j) c[i * ldc + j] = 0;
    std::vector<float> token(static_cast<std::size_t>(features));
    for (std::int64_t t = 0; t < tokens; ++t) {
        widen_bf16(x + t * ldx, token.data(), features);
        for (std::int64_t i = 0; i < features; ++i)
            for (std::int64_t j = 0; j <= i; ++j)
                c[i * ldc + j] += token[static_cast<std::size_t>(i)] * token[static_cast<std::size_t>(j)];
    }
}

}  // namespace kerf::kernels
