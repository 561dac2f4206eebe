// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <limits>

#include "core/plugin_api/tables.hpp"
#include "core/support/text.hpp"

namespace kerf::core {
namespace {

/// Lies right before what the plugin gets, so that release() knows what to give back.
struct Header {
    std::uint64_t bytes;
    std::uint64_t offset;  ///< from the start of the block to the plugin's part
};

}  // namespace

void AllocationCounter::add(std::uint64_t bytes) noexcept {
    const std::uint64_t now = live_.fetch_add(bytes) + bytes;
    std::uint64_t highest = peak_.load();
    while (now > highest && !peak_.compare_exchange_weak(highest, now)) {
    }
}

void AllocationCounter::subtract(std::uint64_t bytes) noexcept {
    live_.fetch_sub(bytes);
}

AllocationCounter& plugin_allocations() {
    static AllocationCounter counter;
    return counter;
}

kerf_code host_alloc(kerf_job* job, std::size_t bytes, std::size_t align, void** out, kerf_error* error) {
    try {
        if (!out) bad_input("alloc: no place for the result");
        if (align < 64 || (align & (align - 1)) != 0 || align > (std::size_t{1} << 21))
            bad_input("alloc: alignment ", align, " is no power of two from 64 to 2 MiB");
        if (bytes > std::numeric_limits<std::size_t>::max() / 2)
            throw ServiceFailure(KERF_E_MEMORY, text("alloc: ", bytes, " bytes"));
        if (job && job->memory_limit != 0 &&
            bytes > job->memory_limit - std::min(job->memory_limit, job->memory.live()))
            throw ServiceFailure(KERF_E_BUDGET,
                                 text("asks for ", format_bytes(double(bytes)), " while it holds ",
                                      format_bytes(double(job->memory.live())), "; it may have ",
                                      format_bytes(double(job->memory_limit)), " (what its cost() announced)"));
        void* block = nullptr;
        if (posix_memalign(&block, align, bytes + align) != 0)
            throw ServiceFailure(KERF_E_MEMORY, text("the system has no ", format_bytes(double(bytes)), " left"));
        auto* given = static_cast<std::byte*>(block) + align;
        *reinterpret_cast<Header*>(given - sizeof(Header)) = {bytes, align};
        plugin_allocations().add(bytes);
        if (job) job->memory.add(bytes);
        *out = given;
        return KERF_OK;
    } catch (...) {
        return report_exception(error);
    }
}

void host_release(kerf_job* job, void* memory) {
    if (!memory) return;
    auto* given = static_cast<std::byte*>(memory);
    const Header header = *reinterpret_cast<const Header*>(given - sizeof(Header));
    plugin_allocations().subtract(header.bytes);
    if (job) job->memory.subtract(header.bytes);
    std::free(given - header.offset);
}

}  // namespace kerf::core
