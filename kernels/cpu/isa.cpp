// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa.hpp"

#include <atomic>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kerf::kernels {
namespace {

#if defined(__x86_64__) && defined(__linux__)
struct Registers {
    unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers r;
    if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return {};
    return r;
}

bool bit(unsigned value, unsigned number) {
    return (value >> number & 1u) != 0;
}

/// Register state that the system saves on a context switch (XCR0); what it does not save must not be used.
unsigned long long saved_state() {
    if (!bit(cpuid(1, 0).c, 27)) return 0;  // OSXSAVE
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<unsigned long long>(high) << 32 | low;
}

bool has_avx512_bf16() {
    constexpr unsigned long long vector_state = 0xe6;  // SSE, AVX, opmask, both halves of zmm
    const Registers features = cpuid(7, 0);
    const bool avx512 = bit(features.b, 16) && bit(features.b, 30);  // F, BW
    return avx512 && bit(cpuid(7, 1).a, 5) && (saved_state() & vector_state) == vector_state;
}

/// Whether those products are faster than float32 ones. Intel's do no more of them a cycle than of float32 (measured on
/// Emerald Rapids without AMX: half the rate, in oneDNN's product as in our Gram); AMD's, from Zen 4 on, do twice as
/// many.
bool avx512_bf16_pays() {
    const Registers vendor = cpuid(0, 0);
    return vendor.b == signature_AMD_ebx && vendor.d == signature_AMD_edx && vendor.c == signature_AMD_ecx;
}

bool has_amx_bf16() {
    constexpr unsigned long long tile_state = 3ull << 17;
    constexpr long arch_request_permission = 0x1023, tile_data = 18;
    const Registers features = cpuid(7, 0);
    if (!bit(features.d, 24) || !bit(features.d, 22) || (saved_state() & tile_state) != tile_state) return false;
    // Linux hands out the 8 KiB of tile data a thread only to processes that ask.
    return has_avx512_bf16() && syscall(SYS_arch_prctl, arch_request_permission, tile_data) == 0;
}
#else
bool has_avx512_bf16() {
    return false;
}
bool avx512_bf16_pays() {
    return false;
}
bool has_amx_bf16() {
    return false;
}
#endif

std::atomic<int> forced{-1};

}  // namespace

std::string_view isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx512_bf16:
            return "AVX-512-BF16";
        case Isa::amx_bf16:
            return "AMX-BF16";
        default:
            return "generic";
    }
}

bool supports(Isa isa) {
    static const bool avx512 = has_avx512_bf16(), amx = has_amx_bf16();
    return isa == Isa::amx_bf16 ? amx : isa == Isa::avx512_bf16 ? avx512 : true;
}

Isa active_isa() {
    if (const int level = forced.load(); level >= 0) return static_cast<Isa>(level);
    if (supports(Isa::amx_bf16)) return Isa::amx_bf16;
    static const bool pays = supports(Isa::avx512_bf16) && avx512_bf16_pays();
    return pays ? Isa::avx512_bf16 : Isa::generic;
}

bool set_isa(std::optional<Isa> isa) {
    if (isa && !supports(*isa)) return false;
    forced.store(isa ? static_cast<int>(*isa) : -1);
    return true;
}

}  // namespace kerf::kernels
