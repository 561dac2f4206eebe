// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gram_bf16.hpp"

#include <atomic>
#include <bit>
#include <vector>

#include "kernels/cpu/gram_bf16_isa.hpp"

namespace kerf::kernels {

namespace {

std::atomic<const GramKernelBf16*> replacement{nullptr};

}  // namespace

const GramKernelBf16* gram_kernel_bf16(Isa isa) {
    static constexpr GramKernelBf16 amx{true, detail::pack_amx, detail::tile_amx};
    static constexpr GramKernelBf16 avx512{false, detail::pack_avx512, detail::tile_avx512};
    if (!supports(isa)) return nullptr;
    return isa == Isa::amx_bf16 ? &amx : isa == Isa::avx512_bf16 ? &avx512 : nullptr;
}

const GramKernelBf16* active_gram_kernel_bf16() {
    if (const auto* other = replacement.load()) return other;
    return gram_kernel_bf16(active_isa());
}

void replace_gram_kernel_bf16(const GramKernelBf16* kernel) {
    replacement.store(kernel);
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
