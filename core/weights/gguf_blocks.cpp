// SPDX-License-Identifier: Apache-2.0
#include "core/weights/gguf_blocks.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

// Every decoder below fills one block. Sums and products are float32, each rounded, in the order in which the format's
// reference reader has them: (d·scale)·q, then minus the minimum. d and the minimum are float16 in all but Q8_K.

using Block = const std::byte*;

int at(Block block, std::int64_t index) {
    return std::to_integer<int>(block[index]);
}
int signed_at(Block block, std::int64_t index) {
    return static_cast<std::int8_t>(at(block, index));
}
template <class T>
T number_at(Block block, std::int64_t index) {
    T value;
    std::memcpy(&value, block + index, sizeof value);
    return value;
}
float half_at(Block block, std::int64_t index) {
    return float_of_half(number_at<std::uint16_t>(block, index));
}

/// The 32 values of a small block lie in 16 bytes: the first half of them in the low nibbles.
int nibble(Block codes, int i) {
    return i < 16 ? at(codes, i) & 15 : at(codes, i - 16) >> 4;
}

void q4_0(Block block, float* out) {  // d, 16 bytes of codes
    const float d = half_at(block, 0);
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(nibble(block + 2, i) - 8);
}

void q4_1(Block block, float* out) {  // d, minimum, codes
    const float d = half_at(block, 0), minimum = half_at(block, 2);
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(nibble(block + 4, i)) + minimum;
}

/// The fifth bits of 32 codes are one little-endian number.
int five_bits(Block codes, std::uint32_t fifth, int i) {
    return nibble(codes, i) | static_cast<int>((fifth >> i) & 1u) << 4;
}

void q5_0(Block block, float* out) {  // d, fifth bits, codes
    const float d = half_at(block, 0);
    const auto fifth = number_at<std::uint32_t>(block, 2);
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(block + 6, fifth, i) - 16);
}

void q5_1(Block block, float* out) {  // d, minimum, fifth bits, codes
    const float d = half_at(block, 0), minimum = half_at(block, 2);
    const auto fifth = number_at<std::uint32_t>(block, 4);
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(block + 8, fifth, i)) + minimum;
}

void q8_0(Block block, float* out) {  // d, 32 signed bytes
    const float d = half_at(block, 0);
    for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(signed_at(block, 2 + i)) * d;
}

// The K types have blocks of 256. Two bits of a code lie in 32 bytes for each 128 elements: element i of group g of 32
// has bits 2g and 2g + 1 of byte i.

int two_bits(Block bytes, int half, int group, int i) {
    return (at(bytes, 32 * half + i) >> (2 * group)) & 3;
}

void q2_k(Block block, float* out) {  // 16 scales and minimums of 4 bits each, codes, d, d of the minimums
    const float d = half_at(block, 80), d_minimum = half_at(block, 82);
    for (int e = 0; e < 256; ++e) {
        const int packed = at(block, e / 16);
        const float scale = d * static_cast<float>(packed & 15), minimum = d_minimum * static_cast<float>(packed >> 4);
        out[e] = scale * static_cast<float>(two_bits(block + 16, e / 128, e / 32 % 4, e % 32)) - minimum;
    }
}

/// Scale k of 16, six bits less 32: low nibbles of the first 8 scales and of the last 8 share 8 bytes, the upper two
/// bits of each fourth share one.
int scale_of_q3_k(Block scales, int k) {
    const int low = k < 8 ? at(scales, k) & 15 : at(scales, k - 8) >> 4;
    const int high = (at(scales, 8 + k % 4) >> (2 * (k / 4))) & 3;
    return (low | high << 4) - 32;
}

void q3_k(Block block, float* out) {  // third bits (inverted: a clear one stands for -4), codes, scales, d
    const Block scales = block + 96;
    const float d = half_at(block, 108);
    for (int e = 0; e < 256; ++e) {
        const int half = e / 128, group = e / 32 % 4, i = e % 32;
        const bool third = (at(block, i) >> (4 * half + group)) & 1;
        const int code = two_bits(block + 32, half, group, i) - (third ? 0 : 4);
        out[e] = d * static_cast<float>(scale_of_q3_k(scales, e / 16)) * static_cast<float>(code);
    }
}

struct ScaleAndMinimum {
    int scale, minimum;
};
/// Of sub-block k of 8, six bits each in 12 bytes: four scales, four minimums, then the nibbles of the other four,
/// whose upper two bits fill up the first eight bytes.
ScaleAndMinimum scale_of_q4_k(Block scales, int k) {
    if (k < 4) return {at(scales, k) & 63, at(scales, k + 4) & 63};
    return {(at(scales, k + 4) & 15) | (at(scales, k - 4) >> 6) << 4, (at(scales, k + 4) >> 4) | (at(scales, k) >> 6)
                                                                                                     << 4};
}

/// Q4_K and, with `fifth` bits, Q5_K: d, d of the minimums, scales, (fifth bits,) codes.
void q4_or_q5_k(Block block, Block fifth, Block codes, float* out) {
    const float d = half_at(block, 0), d_minimum = half_at(block, 2);
    for (int k = 0; k < 8; ++k) {
        const auto packed = scale_of_q4_k(block + 4, k);
        const float scale = d * static_cast<float>(packed.scale);
        const float minimum = d_minimum * static_cast<float>(packed.minimum);
        for (int i = 0; i < 32; ++i) {
            int code = (at(codes, 32 * (k / 2) + i) >> (4 * (k % 2))) & 15;
            if (fifth) code |= ((at(fifth, i) >> k) & 1) << 4;
            out[32 * k + i] = scale * static_cast<float>(code) - minimum;
        }
    }
}

void q4_k(Block block, float* out) {
    q4_or_q5_k(block, nullptr, block + 16, out);
}
void q5_k(Block block, float* out) {
    q4_or_q5_k(block, block + 16, block + 48, out);
}

void q6_k(Block block, float* out) {  // low nibbles, upper two bits, 16 signed scales, d
    const Block scales = block + 192;
    const float d = half_at(block, 208);
    for (int e = 0; e < 256; ++e) {
        const int half = e / 128, group = e / 32 % 4, i = e % 32;
        const int low = (at(block, 64 * half + 32 * (group % 2) + i) >> (4 * (group / 2))) & 15;
        const int code = (low | two_bits(block + 128, half, group, i) << 4) - 32;
        out[e] = d * static_cast<float>(signed_at(scales, e / 16)) * static_cast<float>(code);
    }
}

void q8_k(Block block, float* out) {  // d in float32, 256 signed bytes, sums that only dot products use
    const auto d = number_at<float>(block, 0);
    for (int i = 0; i < 256; ++i) out[i] = d * static_cast<float>(signed_at(block, 4 + i));
}

// Types without a decoder are here so that a file that has them is refused by their name.
constexpr std::array types{GgufType{0, "F32", 1, 4, DType::f32, nullptr},
                           GgufType{1, "F16", 1, 2, DType::f16, nullptr},
                           GgufType{2, "Q4_0", 32, 18, {}, q4_0},
                           GgufType{3, "Q4_1", 32, 20, {}, q4_1},
                           GgufType{6, "Q5_0", 32, 22, {}, q5_0},
                           GgufType{7, "Q5_1", 32, 24, {}, q5_1},
                           GgufType{8, "Q8_0", 32, 34, {}, q8_0},
                           GgufType{9, "Q8_1", 32, 36, {}, nullptr},
                           GgufType{10, "Q2_K", 256, 84, {}, q2_k},
                           GgufType{11, "Q3_K", 256, 110, {}, q3_k},
                           GgufType{12, "Q4_K", 256, 144, {}, q4_k},
                           GgufType{13, "Q5_K", 256, 176, {}, q5_k},
                           GgufType{14, "Q6_K", 256, 210, {}, q6_k},
                           GgufType{15, "Q8_K", 256, 292, {}, q8_k},
                           GgufType{16, "IQ2_XXS", 256, 66, {}, nullptr},
                           GgufType{17, "IQ2_XS", 256, 74, {}, nullptr},
                           GgufType{18, "IQ3_XXS", 256, 98, {}, nullptr},
                           GgufType{19, "IQ1_S", 256, 50, {}, nullptr},
                           GgufType{20, "IQ4_NL", 32, 18, {}, nullptr},
                           GgufType{21, "IQ3_S", 256, 110, {}, nullptr},
                           GgufType{22, "IQ2_S", 256, 82, {}, nullptr},
                           GgufType{23, "IQ4_XS", 256, 136, {}, nullptr},
                           GgufType{24, "I8", 1, 1, DType::i8, nullptr},
                           GgufType{25, "I16", 1, 2, DType::i16, nullptr},
                           GgufType{26, "I32", 1, 4, DType::i32, nullptr},
                           GgufType{27, "I64", 1, 8, DType::i64, nullptr},
                           GgufType{28, "F64", 1, 8, DType::f64, nullptr},
                           GgufType{29, "IQ1_M", 256, 56, {}, nullptr},
                           GgufType{30, "BF16", 1, 2, DType::bf16, nullptr},
                           GgufType{34, "TQ1_0", 256, 54, {}, nullptr},
                           GgufType{35, "TQ2_0", 256, 66, {}, nullptr},
                           GgufType{39, "MXFP4", 32, 17, {}, nullptr},
                           GgufType{40, "NVFP4", 64, 36, {}, nullptr}};

}  // namespace

const GgufType* gguf_type(std::uint32_t id) {
    const auto* found = std::find_if(types.begin(), types.end(), [&](const GgufType& type) { return type.id == id; });
    return found == types.end() ? nullptr : found;
}

void gguf_decode(const GgufType& type, std::span<const std::byte> bytes, std::span<float> out) {
    const auto elements = static_cast<std::size_t>(type.elements), size = static_cast<std::size_t>(type.bytes);
    if (!type.decode || out.size() % elements != 0 || out.size() / elements * size != bytes.size())
        internal_error(bytes.size(), " bytes of ", type.name, " into ", out.size(), " places");
    for (std::size_t block = 0; block < out.size() / elements; ++block)
        type.decode(bytes.data() + block * size, out.data() + block * elements);
}

}  // namespace kerf::core
