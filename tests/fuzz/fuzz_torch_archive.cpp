// SPDX-License-Identifier: Apache-2.0
#include "fuzz_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return kerf::test::fuzz_reader(kerf::core::open_torch_archive, data, size);
}
