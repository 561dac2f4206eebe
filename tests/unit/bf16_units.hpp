// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "kernels/cpu/gram_bf16_kernels.hpp"

/// Plain C++ units for kernels/cpu/gram_bf16_kernels.hpp: what the instructions do by the manufacturer's manual, to the
/// bit.
namespace kerf::test {

inline float widen(std::uint16_t x) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16);
}

/// DAZ and FTZ: a denormal is a zero of its sign, coming in and going out.
inline float flush(float x) {
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}

/// One step of tdpbf16ps and vdpbf16ps: fused, rounded to nearest even.
inline float fused(float sum, float a, float b) {
    return flush(std::fma(flush(a), flush(b), flush(sum)));
}

inline float low(std::uint32_t pair) {
    return std::bit_cast<float>(pair << 16);
}
inline float high(std::uint32_t pair) {
    return std::bit_cast<float>(pair & 0xffff0000u);
}

/// Eight tiles of 16 rows × 64 bytes. Using a tile that was not configured, or not loaded, is an error, as it is (or
/// gives zeros where data should be) on the processor.
class EmulatedAmx {
public:
    void configure() { configured_ = true; }
    void release() {
        configured_ = false;
        for (bool& ready : ready_) ready = false;
    }
    bool configured() const { return configured_; }

    template <int tile>
    void zero() {
        at<tile>(false) = {};
    }
    template <int tile>
    void load(const void* from, std::int64_t row_bytes) {
        Tile& to = at<tile>(false);
        for (int row = 0; row < 16; ++row)
            std::memcpy(to.dwords[row], static_cast<const char*>(from) + row * row_bytes, 64);
    }
    template <int tile>
    void store(void* to, std::int64_t row_bytes) {
        const Tile& from = at<tile>(true);
        for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(to) + row * row_bytes, from.dwords[row], 64);
    }
    /// Even and odd tokens have sums of their own, from zero; these two are added, then added to the destination.
    template <int sums, int left, int right>
    void multiply() {
        Tile& c = at<sums>(true);
        const Tile &a = at<left>(true), &b = at<right>(true);
        for (int m = 0; m < 16; ++m)
            for (int n = 0; n < 16; ++n) {
                float even = 0, odd = 0;
                for (int k = 0; k < 16; ++k) {
                    even = fused(even, low(a.dwords[m][k]), low(b.dwords[k][n]));
                    odd = fused(odd, high(a.dwords[m][k]), high(b.dwords[k][n]));
                }
                const float before = std::bit_cast<float>(c.dwords[m][n]);
                c.dwords[m][n] = std::bit_cast<std::uint32_t>(flush(flush(before) + flush(even + odd)));
            }
    }

private:
    struct Tile {
        std::uint32_t dwords[16][16] = {};
    };
    template <int tile>
    Tile& at(bool read) {
        static_assert(tile >= 0 && tile < 8);
        if (!configured_) throw std::logic_error("tile used before ldtilecfg");
        if (read && !ready_[tile]) throw std::logic_error("tile read before it was written");
        ready_[tile] = true;
        return tiles_[tile];
    }
    bool configured_ = false;
    bool ready_[8] = {};
    Tile tiles_[8];
};

struct EmulatedAvx512 {
    struct Pairs {
        std::uint32_t lanes[16];
    };
    struct Sums {
        float lanes[16];
    };
    static void zero(Sums& sums) { sums = {}; }
    static void load(Pairs& pairs, const std::uint32_t* from) { std::memcpy(pairs.lanes, from, 64); }
    static void broadcast(Pairs& pairs, const std::uint32_t* from) {
        for (auto& lane : pairs.lanes) lane = *from;
    }
    /// vdpbf16ps: the odd token first, then the even one.
    static void multiply(Sums& sums, const Pairs& left, const Pairs& right) {
        for (int i = 0; i < 16; ++i) {
            const float odd = fused(sums.lanes[i], high(left.lanes[i]), high(right.lanes[i]));
            sums.lanes[i] = fused(odd, low(left.lanes[i]), low(right.lanes[i]));
        }
    }
    static void add_to(float* to, const Sums& sums, bool first) {
        for (int i = 0; i < 16; ++i) to[i] = first ? sums.lanes[i] : to[i] + sums.lanes[i];
    }
};

/// The kernels on these units. Throws when tile state is not handed back.
inline const kernels::GramKernelBf16* emulated_amx_kernel() {
    static constexpr kernels::GramKernelBf16 kernel{
        true, kernels::detail::pack<EmulatedAmx>,
        [](const kernels::PackedBf16& packed, std::int64_t blocks, std::int64_t row, std::int64_t rows,
           std::int64_t column, std::int64_t columns, float* c, std::int64_t ldc) {
            EmulatedAmx unit;
            kernels::detail::gram_tile_amx(unit, packed, blocks, {row, rows, column, columns}, c, ldc);
            if (unit.configured()) throw std::logic_error("no tilerelease");
        }};
    return &kernel;
}

inline const kernels::GramKernelBf16* emulated_avx512_kernel() {
    static constexpr kernels::GramKernelBf16 kernel{
        false, kernels::detail::pack<EmulatedAvx512>,
        [](const kernels::PackedBf16& packed, std::int64_t blocks, std::int64_t row, std::int64_t rows,
           std::int64_t column, std::int64_t columns, float* c, std::int64_t ldc) {
            kernels::detail::gram_tile_avx512<EmulatedAvx512>(packed, blocks, {row, rows, column, columns}, c, ldc);
        }};
    return &kernel;
}

/// How a test gets at a kernel: by emulation anywhere, by the processor where it has it.
enum class KernelSource { amx_emulated, avx512_emulated, amx, avx512 };
inline constexpr KernelSource kernel_sources[] = {KernelSource::amx_emulated, KernelSource::avx512_emulated,
                                                  KernelSource::amx, KernelSource::avx512};
inline constexpr const char* kernel_source_names[] = {"AmxEmulated", "Avx512Emulated", "Amx", "Avx512"};

/// Null where the processor lacks it.
inline const kernels::GramKernelBf16* kernel_from(KernelSource source) {
    switch (source) {
        case KernelSource::amx_emulated:
            return emulated_amx_kernel();
        case KernelSource::avx512_emulated:
            return emulated_avx512_kernel();
        case KernelSource::amx:
            return kernels::gram_kernel_bf16(kernels::Isa::amx_bf16);
        default:
            return kernels::gram_kernel_bf16(kernels::Isa::avx512_bf16);
    }
}

}  // namespace kerf::test
