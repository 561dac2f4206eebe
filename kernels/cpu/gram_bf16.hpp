// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa.hpp"

/// Gram tiles of bfloat16 activations: c = Σ_t x_t x_tᵀ with float32 sums. A product of two bf16 numbers is exact in
/// float32, so the sums are as good as those of float32 inputs. (LibTorch's bf16 `mm` rounds its result to bf16.)
///
/// A chunk of tokens is packed once and then used by all its tiles. Unit of packing: 32 tokens × 16 features = one tile
/// register of 1 KiB, kept in two forms, since the product needs x as right-hand and xᵀ as left-hand side:
///   pairs   [16 token pairs][16 features] of (x[2p], x[2p+1]): what AMX calls VNNI order
///   turned  [16 features][16 token pairs], its transpose as 16 × 16 dwords (for AMX)
/// Tiles of one panel (16 features) follow each other in token order. Missing tokens and features are zeros.
namespace kerf::kernels {

inline constexpr std::int64_t gram_block_tokens = 32;    ///< tokens are packed in blocks of so many
inline constexpr std::int64_t gram_panel_features = 16;  ///< features of one panel
inline constexpr std::int64_t gram_step_features = 32;   ///< edges of tiles are multiples of this

/// A packed chunk. Memory is the caller's, aligned to 64 bytes; `turned` is null for a kernel that does not read it.
struct PackedBf16 {
    std::uint32_t* pairs = nullptr;
    std::uint32_t* turned = nullptr;
    std::int64_t panels = 0;        ///< of 16 features, an even number
    std::int64_t panel_stride = 0;  ///< dwords from one panel to the next

    /// Panels that `features` need.
    static std::int64_t panels_of(std::int64_t features) {
        return (features + gram_step_features - 1) / gram_step_features * (gram_step_features / gram_panel_features);
    }
    /// Dwords from panel to panel with room for `tokens`. One tile of 1 KiB is added: strides that are a multiple of 4
    /// KiB would put the four panels which a kernel reads together into the same sets of the first-level cache.
    static std::int64_t stride_of(std::int64_t tokens) {
        return (tokens + gram_block_tokens - 1) / gram_block_tokens * 256 + 256;
    }
    /// Dwords that one form takes.
    static std::int64_t size_of(std::int64_t tokens, std::int64_t features) {
        return panels_of(features) * stride_of(tokens);
    }
};

/// One implementation.
struct GramKernelBf16 {
    bool turned;  ///< whether it reads PackedBf16::turned

    /// Packs panels [first_panel, last_panel) of x [tokens, features] (rows `ldx` elements apart) as token blocks
    /// first_block, first_block + 1, … A last block with fewer than 32 tokens is filled up with zeros.
    void (*pack)(const std::uint16_t* x, std::int64_t ldx, std::int64_t tokens, std::int64_t features,
                 std::int64_t first_panel, std::int64_t last_panel, std::int64_t first_block, const PackedBf16& packed);

    /// c[rows, columns] = Σ over token blocks [0, blocks) of features [row, row + rows) × [column, column + columns).
    /// All four are multiples of 32; c's rows are `ldc` elements apart. Squares of 32 × 32 above the diagonal are left
    /// alone.
    void (*tile)(const PackedBf16& packed, std::int64_t blocks, std::int64_t row, std::int64_t rows,
                 std::int64_t column, std::int64_t columns, float* c, std::int64_t ldc);
};

/// The kernel of a level, null for `generic` (widen, and use float32) and for what supports() refuses.
const GramKernelBf16* gram_kernel_bf16(Isa isa);

/// That of active_isa(), unless a test has put another in its place.
const GramKernelBf16* active_gram_kernel_bf16();

/// Puts `kernel` in place until it is called with nullptr: tests run plain C++ emulations where the processor has none.
void replace_gram_kernel_bf16(const GramKernelBf16* kernel);

/// The plain reference: c[features, features] (lower triangle) = Σ x xᵀ, one float32 sum an entry in token order.
void gram_reference_bf16(const std::uint16_t* x, std::int64_t ldx, std::int64_t tokens, std::int64_t features, float* c,
                         std::int64_t ldc);

/// bfloat16 bits → float32.
void widen_bf16(const std::uint16_t* x, float* out, std::int64_t n);

}  // namespace kerf::kernels
