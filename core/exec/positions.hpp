// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/graph/graph.hpp"

/// How positions enter a model: what rope turns by and what ALiBi adds. For whole windows and for decoding alike.
namespace kerf::core {

/// Inverse frequencies of a rope op, [rotary_dim / 2]. "llama3" scaling as in Llama 3.1's reference: long wavelengths
/// are divided by the factor, short ones kept, those between interpolated; "longrope" divides each by its own factor,
/// by the long ones for sequences `beyond` the original length.
std::vector<double> inverse_frequencies(const Op& op, bool beyond);

/// ALiBi slopes (arXiv:2108.12409): 2^(−8i/n) for n = 2^k heads; for other n those of the power of two below, and every
/// second one of the power above.
std::vector<float> alibi_slopes(std::int64_t heads);
/// What ALiBi adds to the product with the key at a position. In bfloat16, as Falcon was trained.
float alibi_bias(float slope, std::int64_t position);

}  // namespace kerf::core
