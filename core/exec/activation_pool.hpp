// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace kerf::core {

/// Becomes the tensor library's CPU allocator, and tells malloc to give memory back.
///
/// A forward pass asks for the same few sizes thousands of times. Handed straight to the system, each one costs a page
/// fault for every 4 KiB; kept by malloc, they fragment its heap until the process is several times as large as what it
/// uses. So tensors of 64 KiB and more are kept by size and used again, until trim_activations() gives all of them
/// back. Once, before the first tensor.
void use_activation_pool();

/// Frees what the pool keeps. Between phases of work, when no thread is inside one.
void trim_activations();

/// Bytes that the pool keeps for later use at this moment.
std::uint64_t pooled_activation_bytes();

}  // namespace kerf::core
