// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX2 with FMA; see CMakeLists.txt for the flags.
#include "kernel_body.inl"

namespace kerf::gptq {

const Kernel& avx2_kernel() {
    static constexpr Kernel kernel = table("avx2");
    return kernel;
}

}  // namespace kerf::gptq
