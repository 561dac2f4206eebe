// SPDX-License-Identifier: Apache-2.0
// Compiled for any processor of the family; kerf_kernel_sources has the flags.
#include "kernel_body.inl"

namespace kerf::sparsegpt {

const Kernel& portable_kernel() {
    static constexpr Kernel kernel = table("portable");
    return kernel;
}

}  // namespace kerf::sparsegpt
