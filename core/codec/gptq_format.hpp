// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/weights/safetensors_writer.hpp"

namespace kerf::core {

/// The packed layout of AutoGPTQ, GPTQModel and vLLM. A weight [out, in] of codes q, 0 <= q < 2^bits, becomes
///   P.qweight int32 [in·bits/32, out]       codes, packed along the input: a little-endian bit stream for each output
///   P.qzeros  int32 [groups, out·bits/32]   zeros, packed along the output likewise
///   P.scales  f16   [groups, out]
///   P.g_idx   int32 [in]                    the group of each input
/// and stands for w[o, c] = scale[g_idx[c], o] · (q[o, c] - zero[g_idx[c], o]), in float32 with the stored scale.

/// v1 ("gptq") stores zero - 1, so that a zero of 0 has no code; v2 ("gptq_v2") stores the zero itself.
enum class GptqVersion { v1, v2 };

/// One linear layer in this layout: everything that fixes the stored shapes.
struct GptqLayout {
    std::string name;  ///< P, as in "model.layers.0.mlp.up_proj"
    std::int64_t out = 0, in = 0;
    int bits = 4;
    std::int64_t group_size = -1;  ///< inputs that share scale and zero; -1: all

    std::int64_t groups() const;
    std::int64_t qweight_rows() const { return in * bits / 32; }
    std::int64_t qzeros_columns() const { return out * bits / 32; }
};

/// Error(input) that names the layer when the format has no place for it: bits other than 2, 3, 4, 8, a group size of
/// 0, or an `in` or `out` that does not fill whole words (3 bits: whole triples of words, that is, multiples of 32).
void check_gptq(const GptqLayout& layout);
/// Whether check_gptq would pass.
bool gptq_fits(const GptqLayout& layout);

/// The four tensors, in the order g_idx, qweight, qzeros, scales. Calls check_gptq.
std::vector<PlannedTensor> gptq_tensors(const GptqLayout& layout);

/// A layer before packing; the views have to live as long as the call.
struct GptqView {
    std::span<const std::uint8_t> codes;        // [out, in]
    std::span<const float> scales;              // [out, groups], rounded to f16 when packed
    std::span<const float> zeros;               // [out, groups], integers
    std::span<const std::int32_t> group_index;  // [in]
};

struct GptqCodes {
    std::vector<std::uint8_t> codes;        // [out, in]
    std::vector<float> scales;              // [out, groups]
    std::vector<float> zeros;               // [out, groups]
    std::vector<std::int32_t> group_index;  // [in]
};

/// The bytes of the four tensors, ready for ShardWriter.
struct GptqPacked {
    std::vector<std::byte> qweight, qzeros, scales, g_idx;
};

/// The four tensors as they lie in a file, at any alignment.
struct GptqPackedView {
    std::span<const std::byte> qweight, qzeros;
    StoredTensor scales;               // [groups, out], any floating type
    std::span<const std::byte> g_idx;  // empty: input c is of group c / group_size
};

/// Error(input) that names the layer for a code or zero that has no place in `bits` (in v1 a zero of 0 has none: fit
/// grids with zeros of 1 and more, or write v2), a scale that float16 cannot hold, or a group that does not exist.
GptqPacked gptq_pack(const GptqLayout& layout, const GptqView& layer, GptqVersion version);

/// Error(input) that names the layer when sizes are not the layout's or g_idx names a group that does not exist.
GptqCodes gptq_unpack(const GptqLayout& layout, const GptqPackedView& packed, GptqVersion version);

/// The float32 weight [out, in] that the packed tensors stand for. Errors as gptq_unpack.
void gptq_decode(const GptqLayout& layout, const GptqPackedView& packed, GptqVersion version, std::span<float> weight);

}  // namespace kerf::core
