// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "core/weights/tensor.hpp"

namespace kerf::core {

/// How a GGUF file holds the elements of a tensor: in blocks of `elements` that lie along a row, each of `bytes`.
struct GgufType {
    std::uint32_t id = 0;
    std::string_view name;
    std::int64_t elements = 1;
    std::int64_t bytes = 0;
    std::optional<DType> plain;                     ///< a type of ours, a block of one element
    void (*decode)(const std::byte*, float*) = {};  ///< one block, of a quantised type; null where kerf has no decoder

    bool readable() const noexcept { return plain || decode; }
};

/// nullptr for an id that no version of the format gives.
const GgufType* gguf_type(std::uint32_t id);

/// Whole blocks to float32, by the arithmetic of the format's reference reader in float32, bit for bit.
/// `bytes` holds out.size() / type.elements blocks; anything else is Error(internal).
void gguf_decode(const GgufType& type, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace kerf::core
