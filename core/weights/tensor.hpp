// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::core {

enum class DType : std::uint8_t {
    f64,
    f32,
    f16,
    bf16,
    f8_e4m3,
    f8_e5m2,
    i64,
    i32,
    i16,
    i8,
    u64,
    u32,
    u16,
    u8,
    boolean
};

std::size_t dtype_bytes(DType dtype);
std::string_view dtype_name(DType dtype);                     ///< the safetensors spelling: "F32", "BF16", …
std::optional<DType> dtype_from_name(std::string_view name);  ///< safetensors ("F16") and recipe ("float16") spellings
bool is_floating(DType dtype);
/// Bytes of a tensor; nothing when a dimension is negative or the product does not fit 63 bits.
std::optional<std::uint64_t> tensor_bytes(DType dtype, const std::vector<std::int64_t>& shape);

/// A tensor on disk: what the header says, and its bytes in the mapped file (row-major, little-endian).
struct StoredTensor {
    std::string name;
    DType dtype = DType::f32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;  ///< valid as long as the file it is from

    std::int64_t elements() const;
};

/// To float32 (every type; 64-bit values are rounded to nearest even). `out` has elements() places.
void to_float32(const StoredTensor& tensor, std::span<float> out);
/// float32 to f32, f16 or bf16, round to nearest even, NaN stays NaN; `out` has n · dtype_bytes bytes. Any other type
/// is Error(internal).
void from_float32(std::span<const float> values, DType dtype, std::span<std::byte> out);
/// Rounds in place to what `dtype` can hold: f64, f32, f16 or bf16, any other type is Error(internal).
void round_to(DType dtype, std::span<float> values);
/// The value of a float16.
float float_of_half(std::uint16_t bits);
/// Index of the first NaN or infinity, or -1.
std::int64_t first_non_finite(std::span<const float> values);

}  // namespace kerf::core
