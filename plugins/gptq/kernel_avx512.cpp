// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX-512 F, VL, DQ, BW; see CMakeLists.txt for the flags.
#include "kernel_body.inl"

namespace kerf::gptq {

const Kernel& avx512_kernel() {
    static constexpr Kernel kernel = table("avx512");
    return kernel;
}

}  // namespace kerf::gptq
