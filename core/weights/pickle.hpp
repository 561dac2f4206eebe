// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/weights/tensor.hpp"

namespace kerf::core {

/// A tensor as the pickle of a state dictionary describes it: a strided view of a storage.
struct PickledTensor {
    std::string name;
    std::string storage;  ///< key of the storage, the file data/KEY of the archive
    DType dtype = DType::f32;
    std::int64_t storage_elements = 0;
    std::int64_t offset = 0;  ///< in elements
    std::vector<std::int64_t> shape, strides;
};

/// Reads the pickle (protocol 2) of a state dictionary by an allow-list of opcodes. Nothing is ever called: the only
/// names that it may mention are collections.OrderedDict, torch._utils._rebuild_tensor_v2 and _rebuild_parameter, and
/// torch's storage types, and what they would build is recorded. A pickle has at most 32 MiB, and takes memory in
/// proportion to its size. Error(input), beginning with `what`, for anything else, named with its byte offset.
std::vector<PickledTensor> read_state_dictionary(std::span<const std::byte> pickle, const std::string& what);

}  // namespace kerf::core
