// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX2 with FMA; kerf_kernel_sources has the flags.
#include "kernel_body.inl"

namespace kerf::sparsegpt {

const Kernel& avx2_kernel() {
    static constexpr Kernel kernel = table("avx2");
    return kernel;
}

}  // namespace kerf::sparsegpt
