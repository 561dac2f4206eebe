// SPDX-License-Identifier: Apache-2.0
#include "core/weights/tensor.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

static_assert(std::endian::native == std::endian::little, "checkpoints are little-endian, and are mapped");

struct DTypeRow {
    DType dtype;
    std::size_t bytes;
    std::string_view name;         // safetensors
    std::string_view recipe_name;  // torch's spelling
    bool floating;
};

constexpr std::array<DTypeRow, 15> dtype_table{{{DType::f64, 8, "F64", "float64", true},
                                                {DType::f32, 4, "F32", "float32", true},
                                                {DType::f16, 2, "F16", "float16", true},
                                                {DType::bf16, 2, "BF16", "bfloat16", true},
                                                {DType::f8_e4m3, 1, "F8_E4M3", "float8_e4m3fn", true},
                                                {DType::f8_e5m2, 1, "F8_E5M2", "float8_e5m2", true},
                                                {DType::i64, 8, "I64", "int64", false},
                                                {DType::i32, 4, "I32", "int32", false},
                                                {DType::i16, 2, "I16", "int16", false},
                                                {DType::i8, 1, "I8", "int8", false},
                                                {DType::u64, 8, "U64", "uint64", false},
                                                {DType::u32, 4, "U32", "uint32", false},
                                                {DType::u16, 2, "U16", "uint16", false},
                                                {DType::u8, 1, "U8", "uint8", false},
                                                {DType::boolean, 1, "BOOL", "bool", false}}};

constexpr bool table_follows_enum() {
    for (std::size_t i = 0; i < dtype_table.size(); ++i)
        if (static_cast<std::size_t>(dtype_table[i].dtype) != i) return false;
    return true;
}
static_assert(table_follows_enum());

const DTypeRow& row_of(DType dtype) {
    return dtype_table[static_cast<std::size_t>(dtype)];
}

constexpr std::uint32_t sign_bit = 0x80000000u;
constexpr std::uint32_t infinity_bits = 0x7f800000u;

// The conversions below select instead of branching, so that the loops over them vectorise on any instruction set.

float widen_f16(std::uint16_t half) {
    const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16;
    const std::uint32_t magnitude = half & 0x7fffu;
    const std::uint32_t rebias = 112u << 23;  // exponent bias 127 - 15
    const std::uint32_t normal = (magnitude << 13) + rebias + (magnitude >= 0x7c00u ? rebias : 0u);
    // Subnormal halves count units of 2^-24; the product is exact, and normal in float32.
    const auto subnormal =
        std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
    return std::bit_cast<float>(sign | (magnitude < 0x0400u ? subnormal : normal));
}

std::uint16_t narrow_f16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & ~sign_bit;
    // 0.5 has a unit in the last place of 2^-24, the smallest half: the addition rounds to it, to nearest even.
    const std::uint32_t subnormal =
        std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<std::uint32_t>(0.5f);
    const std::uint32_t normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    const std::uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x01ffu);
    std::uint32_t half = magnitude < 0x38800000u ? subnormal : normal;  // below 2^-14
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;                   // from 65520 on, infinity is nearest
    half = magnitude > infinity_bits ? nan : half;
    return static_cast<std::uint16_t>(half | ((bits & sign_bit) >> 16));
}

float widen_bf16(std::uint16_t bits) {
    return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

std::uint16_t narrow_bf16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t nan = (bits >> 16) | 0x40u;
    return static_cast<std::uint16_t>((bits & ~sign_bit) > infinity_bits ? nan : rounded);
}

/// OCP 8-bit floats. e4m3 has no infinity, and one NaN a sign; e5m2 is the upper half of a float16.
float widen_f8_e4m3(std::uint8_t code) {
    const int exponent = (code >> 3) & 15, mantissa = code & 7;
    float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                    : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if (exponent == 15 && mantissa == 7) magnitude = std::numeric_limits<float>::quiet_NaN();
    return (code & 0x80u) ? -magnitude : magnitude;
}

float widen_f8_e5m2(std::uint8_t code) {
    return widen_f16(static_cast<std::uint16_t>(code << 8));
}

/// Calls body(first, last) for runs of `count` elements, on all threads: half a megabyte of floats at a time, which is
/// long beside the waking of a thread and short beside a weight.
template <class Body>
void each_run(std::size_t count, const Body& body) {
    constexpr std::int64_t run = 1 << 17;
    parallel_for(static_cast<std::int64_t>(count), run, [&](std::int64_t lo, std::int64_t hi) {
        body(static_cast<std::size_t>(lo), static_cast<std::size_t>(hi));
    });
}

/// memcpy, not a cast: a tensor may start at any byte of its file.
template <class Stored, class Convert>
void widen_all(std::span<const std::byte> from, std::span<float> out, Convert convert) {
    each_run(out.size(), [&](std::size_t first, std::size_t last) {
        const std::byte* source = from.data();
        for (std::size_t i = first; i < last; ++i) {
            Stored stored;
            std::memcpy(&stored, source + i * sizeof(Stored), sizeof(Stored));
            out[i] = convert(stored);
        }
    });
}

template <class Stored>
void widen_plain(std::span<const std::byte> from, std::span<float> out) {
    widen_all<Stored>(from, out, [](Stored value) { return static_cast<float>(value); });
}

template <class Narrow>
void narrow_all(std::span<const float> values, std::span<std::byte> out, Narrow narrow) {
    each_run(values.size(), [&](std::size_t first, std::size_t last) {
        std::byte* target = out.data();
        for (std::size_t i = first; i < last; ++i) {
            const std::uint16_t stored = narrow(values[i]);
            std::memcpy(target + 2 * i, &stored, sizeof stored);
        }
    });
}

template <class Round>
void round_all(std::span<float> values, Round round) {
    each_run(values.size(), [&](std::size_t first, std::size_t last) {
        for (std::size_t i = first; i < last; ++i) values[i] = round(values[i]);
    });
}

}  // namespace

std::size_t dtype_bytes(DType dtype) {
    return row_of(dtype).bytes;
}

std::string_view dtype_name(DType dtype) {
    return row_of(dtype).name;
}

std::optional<DType> dtype_from_name(std::string_view name) {
    for (const auto& row : dtype_table)
        if (row.name == name || row.recipe_name == name) return row.dtype;
    return std::nullopt;
}

bool is_floating(DType dtype) {
    return row_of(dtype).floating;
}

std::optional<std::uint64_t> tensor_bytes(DType dtype, const std::vector<std::int64_t>& shape) {
    auto bytes = static_cast<std::int64_t>(dtype_bytes(dtype));
    for (const std::int64_t size : shape)
        if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
    return static_cast<std::uint64_t>(bytes);
}

std::int64_t StoredTensor::elements() const {
    std::int64_t count = 1;
    for (const std::int64_t size : shape) count *= size;
    return count;
}

void to_float32(const StoredTensor& tensor, std::span<float> out) {
    const auto& from = tensor.bytes;
    if (from.size() != out.size() * dtype_bytes(tensor.dtype))
        internal_error(tensor.name, ": ", from.size(), " bytes of ", dtype_name(tensor.dtype), " into ", out.size(),
                       " places");
    if (out.empty()) return;
    switch (tensor.dtype) {
        case DType::f64:
            return widen_plain<double>(from, out);
        case DType::f32:
            std::memcpy(out.data(), from.data(), from.size());
            return;
        case DType::f16:
            return widen_all<std::uint16_t>(from, out, widen_f16);
        case DType::bf16:
            return widen_all<std::uint16_t>(from, out, widen_bf16);
        case DType::f8_e4m3:
            return widen_all<std::uint8_t>(from, out, widen_f8_e4m3);
        case DType::f8_e5m2:
            return widen_all<std::uint8_t>(from, out, widen_f8_e5m2);
        case DType::i64:
            return widen_plain<std::int64_t>(from, out);
        case DType::i32:
            return widen_plain<std::int32_t>(from, out);
        case DType::i16:
            return widen_plain<std::int16_t>(from, out);
        case DType::i8:
            return widen_plain<std::int8_t>(from, out);
        case DType::u64:
            return widen_plain<std::uint64_t>(from, out);
        case DType::u32:
            return widen_plain<std::uint32_t>(from, out);
        case DType::u16:
            return widen_plain<std::uint16_t>(from, out);
        case DType::u8:
            return widen_plain<std::uint8_t>(from, out);
        case DType::boolean:
            return widen_all<std::uint8_t>(from, out, [](std::uint8_t value) { return value ? 1.0f : 0.0f; });
    }
}

void from_float32(std::span<const float> values, DType dtype, std::span<std::byte> out) {
    if (out.size() != values.size() * dtype_bytes(dtype))
        internal_error(values.size(), " values do not fill ", out.size(), " bytes of ", dtype_name(dtype));
    if (values.empty()) return;
    switch (dtype) {
        case DType::f32:
            std::memcpy(out.data(), values.data(), out.size());
            return;
        case DType::f16:
            return narrow_all(values, out, narrow_f16);
        case DType::bf16:
            return narrow_all(values, out, narrow_bf16);
        default:
            internal_error("float32 is not rounded to ", dtype_name(dtype));
    }
}

void round_to(DType dtype, std::span<float> values) {
    switch (dtype) {
        case DType::f64:
        case DType::f32:
            return;
        case DType::f16:
            return round_all(values, [](float value) { return widen_f16(narrow_f16(value)); });
        case DType::bf16:
            return round_all(values, [](float value) { return widen_bf16(narrow_bf16(value)); });
        default:
            internal_error("float32 is not rounded to ", dtype_name(dtype));
    }
}

float float_of_half(std::uint16_t bits) {
    return widen_f16(bits);
}

std::int64_t first_non_finite(std::span<const float> values) {
    const auto not_finite = [](float value) {
        return (std::bit_cast<std::uint32_t>(value) & infinity_bits) == infinity_bits;
    };
    // Pieces without an early exit vectorise; 4096 floats are half of a level-1 cache.
    constexpr std::size_t piece = 4096;
    for (std::size_t at = 0; at < values.size(); at += piece) {
        const auto part = values.subspan(at, std::min(piece, values.size() - at));
        std::uint32_t found = 0;
        for (const float value : part) found |= not_finite(value) ? 1u : 0u;
        if (!found) continue;
        const auto first = std::find_if(part.begin(), part.end(), not_finite);
        return static_cast<std::int64_t>(at) + (first - part.begin());
    }
    return -1;
}

}  // namespace kerf::core
