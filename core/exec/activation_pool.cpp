// SPDX-License-Identifier: Apache-2.0
#include "core/exec/activation_pool.hpp"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace kerf::core {
namespace {

// In front of every block, as wide as a cache line so that what follows stays aligned for vector loads.
struct alignas(64) Header {
    std::size_t room;
};

constexpr std::size_t smallest_pooled = 64 << 10, page = 4096, alignment = 64;

class Pool {
public:
    void* take(std::size_t bytes) {
        const std::size_t room = bytes < smallest_pooled ? bytes : (bytes + page - 1) / page * page;
        if (room >= smallest_pooled) {
            const std::lock_guard hold(lock_);
            auto& spare = spare_[room];
            if (!spare.empty()) {
                Header* header = spare.back();
                spare.pop_back();
                kept_ -= room;
                return header + 1;
            }
        }
        auto* header = static_cast<Header*>(
            std::aligned_alloc(alignment, (sizeof(Header) + room + alignment - 1) / alignment * alignment));
        if (!header) throw std::bad_alloc();
        header->room = room;
        return header + 1;
    }
    void give(void* memory) {
        if (!memory) return;
        Header* header = static_cast<Header*>(memory) - 1;
        if (header->room < smallest_pooled) {
            std::free(header);
            return;
        }
        const std::lock_guard hold(lock_);
        spare_[header->room].push_back(header);
        kept_ += header->room;
    }
    void trim() {
        const std::lock_guard hold(lock_);
        for (auto& [room, spare] : spare_)
            for (Header* header : spare) std::free(header);
        spare_.clear();
        kept_ = 0;
    }
    std::uint64_t kept() {
        const std::lock_guard hold(lock_);
        return kept_;
    }

private:
    std::mutex lock_;
    std::map<std::size_t, std::vector<Header*>> spare_;
    std::uint64_t kept_ = 0;
};

// Never destroyed: tensors of other static objects may outlive any order of destruction.
Pool& pool() {
    static Pool* const only = new Pool;
    return *only;
}

void give_back(void* memory) {
    pool().give(memory);
}

class PoolAllocator final : public c10::Allocator {
public:
    c10::DataPtr allocate(std::size_t bytes) override {
        void* memory = bytes == 0 ? nullptr : pool().take(bytes);
        return {memory, memory, &give_back, c10::Device(c10::DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
    void copy_data(void* to, const void* from, std::size_t count) const override { std::memcpy(to, from, count); }
};

}  // namespace

void use_activation_pool() {
    static PoolAllocator* const allocator = new PoolAllocator;
    c10::SetCPUAllocator(allocator);
    // Large blocks go back to the system as soon as they are free; by default malloc raises this bound up to 32 MiB.
    constexpr int own_mapping = 256 << 10, spare_top = 1 << 20;
    mallopt(M_MMAP_THRESHOLD, own_mapping);
    mallopt(M_TRIM_THRESHOLD, spare_top);
}

void trim_activations() {
    pool().trim();
}
std::uint64_t pooled_activation_bytes() {
    return pool().kept();
}

}  // namespace kerf::core
