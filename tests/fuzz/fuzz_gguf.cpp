// SPDX-License-Identifier: Apache-2.0
#include "core/weights/checkpoint.hpp"
#include "core/weights/gguf.hpp"
#include "fuzz_file.hpp"

// First the file as it is, then as the model that it says it is.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    kerf::test::fuzz_reader(kerf::core::open_gguf, data, size);
    const kerf::test::MemoryFile on_disk({reinterpret_cast<const char*>(data), size});
    try {
        const auto checkpoint = kerf::core::Checkpoint::open(on_disk.path());
        for (const auto& name : checkpoint.names()) checkpoint.read(name);
    } catch (const kerf::core::Error& error) {
        if (error.fault() != kerf::core::Fault::input) throw;
    }
    return 0;
}
