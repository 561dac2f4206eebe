// SPDX-License-Identifier: Apache-2.0
#include "core/codec/gptq_format.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/support/error.hpp"
#include "core/support/transpose.hpp"

namespace kerf::core {
namespace {

/// Where code number `index` lies in the bit stream: the lowest bit in `word`, at `shift`. A 3-bit code may straddle.
struct BitPlace {
    std::int64_t word;
    int shift;
    bool straddles;

    BitPlace(std::int64_t index, int bits)
        : word(index * bits / 32), shift(static_cast<int>(index * bits % 32)), straddles(shift + bits > 32) {}
};

bool holds_bits(int bits) {
    return bits == 2 || bits == 3 || bits == 4 || bits == 8;
}

/// Codes that fill whole words: 3 bits fill three.
std::int64_t whole_words(int bits) {
    return bits == 3 ? 32 : 32 / bits;
}

std::uint32_t mask_of(int bits) {
    return (1u << bits) - 1;
}

std::vector<std::uint32_t> words_of(std::span<const std::byte> bytes) {
    std::vector<std::uint32_t> words(bytes.size() / 4);
    if (!words.empty()) std::memcpy(words.data(), bytes.data(), words.size() * 4);
    return words;
}

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
    std::vector<std::byte> bytes(values.size() * sizeof(T));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

void expect(const GptqLayout& layout, const char* what, std::size_t found, std::int64_t wanted) {
    if (found != static_cast<std::size_t>(wanted))
        bad_input(layout.name, ": ", what, " has ", found, " bytes where [", layout.out, ", ", layout.in, "] in ",
                  layout.bits, " bits needs ", wanted);
}

/// A zero as its field holds it.
std::uint32_t zero_field(const GptqLayout& layout, float zero, GptqVersion version) {
    const int lowest = version == GptqVersion::v1 ? 1 : 0;
    const auto highest = static_cast<int>(mask_of(layout.bits));
    if (version == GptqVersion::v1 && zero == 0)
        bad_input(
            layout.name,
            ": a zero of 0 has no code in the gptq v1 layout; fit grids with zeros of 1 and more, or write gptq_v2");
    if (!(zero >= static_cast<float>(lowest) && zero <= static_cast<float>(highest)) || zero != std::nearbyint(zero))
        bad_input(layout.name, ": the zero ", zero, " is not an integer from ", lowest, " to ", highest);
    return static_cast<std::uint32_t>(zero) - static_cast<std::uint32_t>(lowest);
}

/// qzeros as words whose fields are the zeros themselves. Writers of v1 subtract 1 from every field, most of them on
/// whole words, where a zero of 0 borrows from its neighbour; adding on whole words undoes that as well. 3-bit fields
/// straddle words, so there every field is mended by itself.
std::vector<std::uint32_t> zero_words(const GptqLayout& layout, std::span<const std::byte> qzeros,
                                      GptqVersion version) {
    auto words = words_of(qzeros);
    if (version == GptqVersion::v2 || layout.bits == 3) return words;
    const std::uint32_t ones = layout.bits == 2 ? 0x55555555u : layout.bits == 4 ? 0x11111111u : 0x01010101u;
    for (auto& word : words) word += ones;
    return words;
}

std::uint32_t field_at(const std::uint32_t* stream, BitPlace place, int bits) {
    std::uint32_t value = stream[place.word] >> place.shift;
    if (place.straddles) value |= stream[place.word + 1] << (32 - place.shift);
    return value & mask_of(bits);
}

std::vector<float> zeros_of(const GptqLayout& layout, std::span<const std::byte> qzeros,
                            GptqVersion version) {  // [groups, out]
    const auto words = zero_words(layout, qzeros, version);
    const bool add_one = version == GptqVersion::v1 && layout.bits == 3;
    std::vector<float> zeros;
    zeros.reserve(static_cast<std::size_t>(layout.groups() * layout.out));
    for (std::int64_t group = 0; group < layout.groups(); ++group) {
        const std::uint32_t* row = words.data() + group * layout.qzeros_columns();
        for (std::int64_t o = 0; o < layout.out; ++o) {
            const std::uint32_t field = field_at(row, BitPlace(o, layout.bits), layout.bits);
            zeros.push_back(static_cast<float>(add_one ? (field + 1) & mask_of(layout.bits) : field));
        }
    }
    return zeros;
}

void check_group_index(const GptqLayout& layout, std::span<const std::int32_t> group_index) {
    for (std::size_t c = 0; c < group_index.size(); ++c)
        if (group_index[c] < 0 || group_index[c] >= layout.groups())
            bad_input(layout.name, ": g_idx puts input ", c, " into group ", group_index[c], ", but there are ",
                      layout.groups());
}

std::vector<std::int32_t> group_index_of(const GptqLayout& layout, std::span<const std::byte> g_idx) {
    std::vector<std::int32_t> group_index(static_cast<std::size_t>(layout.in));
    if (g_idx.empty()) {
        const std::int64_t size = layout.group_size < 0 ? layout.in : layout.group_size;
        for (std::int64_t c = 0; c < layout.in; ++c)
            group_index[static_cast<std::size_t>(c)] = static_cast<std::int32_t>(c / size);
        return group_index;
    }
    std::memcpy(group_index.data(), g_idx.data(), g_idx.size());
    check_group_index(layout, group_index);
    return group_index;
}

void check_packed(const GptqLayout& layout, const GptqPackedView& packed) {
    check_gptq(layout);
    expect(layout, "qweight", packed.qweight.size(), layout.qweight_rows() * layout.out * 4);
    expect(layout, "qzeros", packed.qzeros.size(), layout.groups() * layout.qzeros_columns() * 4);
    const auto scale_bytes = static_cast<std::int64_t>(dtype_bytes(packed.scales.dtype));
    expect(layout, "scales", packed.scales.bytes.size(), layout.groups() * layout.out * scale_bytes);
    if (!packed.g_idx.empty()) expect(layout, "g_idx", packed.g_idx.size(), layout.in * 4);
}

std::vector<float> scales_of(const GptqLayout& layout, const StoredTensor& stored) {  // [groups, out]
    std::vector<float> scales(static_cast<std::size_t>(layout.groups() * layout.out));
    to_float32(stored, scales);
    return scales;
}

/// Calls use(o, c, code) for every weight. 16 outputs at a time: their words are one cache line, and the caller, who
/// writes rows of outputs, fills 16 streams, as many as the hardware follows.
template <class Use>
void for_each_code(const GptqLayout& layout, std::span<const std::byte> qweight, const Use& use) {
    constexpr std::int64_t panel = 16;
    const std::uint32_t mask = mask_of(layout.bits);
    const auto word = [&](std::int64_t row, std::int64_t o) {
        std::uint32_t value;
        std::memcpy(&value, qweight.data() + (row * layout.out + o) * 4, sizeof value);
        return value;
    };
    for (std::int64_t first = 0; first < layout.out; first += panel) {
        const std::int64_t last = std::min(layout.out, first + panel);
        for (std::int64_t c = 0; c < layout.in; ++c) {
            const BitPlace place(c, layout.bits);
            for (std::int64_t o = first; o < last; ++o) {
                std::uint32_t value = word(place.word, o) >> place.shift;
                if (place.straddles) value |= word(place.word + 1, o) << (32 - place.shift);
                use(o, c, value & mask);
            }
        }
    }
}

std::vector<std::byte> packed_codes(const GptqLayout& layout, std::span<const std::uint8_t> codes) {
    const std::uint32_t mask = mask_of(layout.bits);
    std::vector<std::uint32_t> words(static_cast<std::size_t>(layout.qweight_rows() * layout.out), 0);
    for (std::int64_t o = 0; o < layout.out; ++o) {
        for (std::int64_t c = 0; c < layout.in; ++c) {
            const std::uint32_t code = codes[static_cast<std::size_t>(o * layout.in + c)];
            if (code > mask)
                bad_input(layout.name, ": code ", code, " at [", o, ", ", c, "] does not fit ", layout.bits, " bits");
            const BitPlace place(c, layout.bits);
            std::uint32_t* const at = words.data() + place.word * layout.out + o;
            at[0] |= code << place.shift;
            if (place.straddles) at[layout.out] |= code >> (32 - place.shift);
        }
    }
    return bytes_of(words);
}

std::vector<std::byte> packed_zeros(const GptqLayout& layout, std::span<const float> zeros, GptqVersion version) {
    std::vector<std::uint32_t> words(static_cast<std::size_t>(layout.groups() * layout.qzeros_columns()), 0);
    for (std::int64_t o = 0; o < layout.out; ++o) {
        const BitPlace place(o, layout.bits);
        for (std::int64_t group = 0; group < layout.groups(); ++group) {
            const std::uint32_t field =
                zero_field(layout, zeros[static_cast<std::size_t>(o * layout.groups() + group)], version);
            std::uint32_t* const at = words.data() + group * layout.qzeros_columns() + place.word;
            at[0] |= field << place.shift;
            if (place.straddles) at[1] |= field >> (32 - place.shift);
        }
    }
    return bytes_of(words);
}

std::vector<std::byte> packed_scales(const GptqLayout& layout, std::span<const float> scales) {
    constexpr float float16_end = 65520.0f;  // from here on, rounding gives infinity
    for (const float scale : scales)
        if (!(std::abs(scale) < float16_end))
            bad_input(layout.name, ": the scale ", scale, " does not fit float16, in which this format stores scales");
    const auto by_group = transposed(scales, layout.out, layout.groups());
    std::vector<std::byte> bytes(by_group.size() * 2);
    from_float32(by_group, DType::f16, bytes);
    return bytes;
}

}  // namespace

std::int64_t GptqLayout::groups() const {
    return group_size < 0 ? 1 : (in + group_size - 1) / group_size;
}

void check_gptq(const GptqLayout& layout) {
    const auto& [name, out, in, bits, group_size] = layout;
    if (!holds_bits(bits)) bad_input(name, ": the gptq format holds 2, 3, 4 or 8 bits, not ", bits);
    if (group_size == 0 || group_size < -1)
        bad_input(name, ": a group size of ", group_size, " cannot be; it is positive, or -1");
    const std::int64_t multiple = whole_words(bits);
    for (const auto& [axis, size] : {std::pair{"inputs", in}, std::pair{"outputs", out}})
        if (size <= 0 || size % multiple != 0)
            bad_input(name, ": the gptq format holds ", bits, "-bit weights of a multiple of ", multiple, " ", axis,
                      ", not of ", size,
                      "; leave this layer dense (exclude it from the stage) or choose another format");
}

bool gptq_fits(const GptqLayout& layout) {
    if (!holds_bits(layout.bits) || layout.group_size == 0 || layout.group_size < -1) return false;
    const std::int64_t multiple = whole_words(layout.bits);
    return layout.in > 0 && layout.out > 0 && layout.in % multiple == 0 && layout.out % multiple == 0;
}

std::vector<PlannedTensor> gptq_tensors(const GptqLayout& layout) {
    check_gptq(layout);
    return {{layout.name + ".g_idx", DType::i32, {layout.in}},
            {layout.name + ".qweight", DType::i32, {layout.qweight_rows(), layout.out}},
            {layout.name + ".qzeros", DType::i32, {layout.groups(), layout.qzeros_columns()}},
            {layout.name + ".scales", DType::f16, {layout.groups(), layout.out}}};
}

GptqPacked gptq_pack(const GptqLayout& layout, const GptqView& layer, GptqVersion version) {
    check_gptq(layout);
    const auto fits = [](std::size_t size, std::int64_t wanted) { return size == static_cast<std::size_t>(wanted); };
    if (!fits(layer.codes.size(), layout.out * layout.in) || !fits(layer.scales.size(), layout.out * layout.groups()) ||
        !fits(layer.zeros.size(), layout.out * layout.groups()) || !fits(layer.group_index.size(), layout.in))
        internal_error(layout.name, ": codes, scales, zeros or groups do not have the layer's size");
    check_group_index(layout, layer.group_index);
    return {packed_codes(layout, layer.codes), packed_zeros(layout, layer.zeros, version),
            packed_scales(layout, layer.scales),
            bytes_of(std::vector<std::int32_t>(layer.group_index.begin(), layer.group_index.end()))};
}

GptqCodes gptq_unpack(const GptqLayout& layout, const GptqPackedView& packed, GptqVersion version) {
    check_packed(layout, packed);
    GptqCodes layer;
    layer.codes.resize(static_cast<std::size_t>(layout.out * layout.in));
    for_each_code(layout, packed.qweight, [&](std::int64_t o, std::int64_t c, std::uint32_t code) {
        layer.codes[static_cast<std::size_t>(o * layout.in + c)] = static_cast<std::uint8_t>(code);
    });
    layer.scales = transposed(scales_of(layout, packed.scales), layout.groups(), layout.out);
    layer.zeros = transposed(zeros_of(layout, packed.qzeros, version), layout.groups(), layout.out);
    layer.group_index = group_index_of(layout, packed.g_idx);
    return layer;
}

void gptq_decode(const GptqLayout& layout, const GptqPackedView& packed, GptqVersion version, std::span<float> weight) {
    check_packed(layout, packed);
    if (weight.size() != static_cast<std::size_t>(layout.out * layout.in))
        internal_error(layout.name, ": ", weight.size(), " places for a weight of [", layout.out, ", ", layout.in, "]");
    const auto scales = scales_of(layout, packed.scales);         // [groups, out]
    const auto zeros = zeros_of(layout, packed.qzeros, version);  // [groups, out]
    const auto group_index = group_index_of(layout, packed.g_idx);
    for_each_code(layout, packed.qweight, [&](std::int64_t o, std::int64_t c, std::uint32_t code) {
        const auto at = static_cast<std::size_t>(group_index[static_cast<std::size_t>(c)] * layout.out + o);
        weight[static_cast<std::size_t>(o * layout.in + c)] = scales[at] * (static_cast<float>(code) - zeros[at]);
    });
}

}  // namespace kerf::core
