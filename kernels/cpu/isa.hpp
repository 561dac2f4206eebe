// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>

namespace kerf::kernels {

/// What our own bf16 kernels can use, least first. `generic` has none of them: callers widen to float32 and use BLAS.
enum class Isa { generic, avx512_bf16, amx_bf16 };

std::string_view isa_name(Isa isa);

/// Whether the processor has it and the system lets this process use it (tile state has to be asked for).
bool supports(Isa isa);

/// The fastest supported one, unless set_isa chose another: AVX-512-BF16 alone is slower than float32 on Intel's
/// processors.
Isa active_isa();

/// Forces a level that supports() allows, nullopt = the best again. False, and nothing changes, when it is not
/// supported. For tests and benchmarks: call it while no kernel runs.
bool set_isa(std::optional<Isa> isa);

}  // namespace kerf::kernels
