// SPDX-License-Identifier: Apache-2.0
// Compiled for any processor; see CMakeLists.txt for the flags.
#include "kernel_body.inl"

namespace kerf::gptq {

const Kernel& portable_kernel() {
    static constexpr Kernel kernel = table("portable");
    return kernel;
}

}  // namespace kerf::gptq
