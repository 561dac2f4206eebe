// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX-512 F, VL, DQ, BW; kerf_kernel_sources has the flags.
#include "kernel_body.inl"

namespace kerf::sparsegpt {

const Kernel& avx512_kernel() {
    static constexpr Kernel kernel = table("avx512");
    return kernel;
}

}  // namespace kerf::sparsegpt
