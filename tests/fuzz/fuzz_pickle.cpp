// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <span>

#include "core/support/error.hpp"
#include "core/weights/pickle.hpp"

// The pickle by itself: inside an archive its checksum would stop most of what a fuzzer makes of it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        kerf::core::read_state_dictionary(std::as_bytes(std::span(data, size)), "fuzzed");
    } catch (const kerf::core::Error& error) {
        if (error.fault() != kerf::core::Fault::input) throw;
    }
    return 0;
}
