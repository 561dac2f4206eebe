// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/support/error.hpp"
#include "core/weights/tensor_file.hpp"
#include "tests/unit/temporary.hpp"

namespace kerf::test {

/// Gives the bytes to a reader as a file, and reads every tensor of what it opens. Error(input) is the reader's right;
/// anything else ends the fuzzer: another exception, a tensor larger than its file, a byte out of bounds.
template <class Open>
int fuzz_reader(Open open, const std::uint8_t* data, std::size_t size) {
    const MemoryFile on_disk({reinterpret_cast<const char*>(data), size});
    try {
        const auto file = open(on_disk.path());
        for (const auto& tensor : file->tensors()) {
            if (tensor.bytes.size() > size) __builtin_trap();
            std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
            core::to_float32(tensor, values);
            file->forget(tensor);
        }
    } catch (const core::Error& error) {
        if (error.fault() != core::Fault::input) throw;
    }
    return 0;
}

}  // namespace kerf::test
