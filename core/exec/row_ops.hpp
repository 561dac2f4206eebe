// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/graph/graph.hpp"

/// The ops of a graph on float32 rows, for decoding: plain loops over the few rows of a step, with none of a tensor
/// library's cost a call. What each op means is docs/graph.md's business; Program computes the same over whole windows.
namespace kerf::core::row_ops {

/// Rows [lo, hi) of values of `width` features in all of these; `out` is never `in`, but for the elementwise ones it
/// may be.
void rms_norm(const Op& op, const float* weight, std::int64_t lo, std::int64_t hi, const float* in, float* out);
/// weight and bias may be null, in a norm without them
void layer_norm(const Op& op, const float* weight, const float* bias, std::int64_t lo, std::int64_t hi, const float* in,
                float* out);
/// cosine and sine: [rows, rotary_dim / 2] of the rows' positions.
void rope(const Op& op, const float* cosine, const float* sine, std::int64_t lo, std::int64_t hi, const float* in,
          float* out);
/// The features that output `index` of a split takes, row by row.
void split(const Op& op, std::size_t index, std::int64_t lo, std::int64_t hi, const float* in, float* out);
/// Router logits to weights: the softmax's top_k, zeros elsewhere; of equal ones the first.
void route(const Op& op, std::int64_t lo, std::int64_t hi, const float* logits, float* routing);

void activate(ActivationKind kind, std::span<const float> in, std::span<float> out);
void scale(double value, std::span<const float> in, std::span<float> out);
void softcap(double value, std::span<const float> in, std::span<float> out);

/// The rows that `routing` [rows, experts] sends to an expert, in their order.
std::vector<std::int64_t> rows_of(const float* routing, std::int64_t rows, std::int64_t experts, std::int64_t expert);

/// e^x of each, within two units in the last place for −87 ≤ x ≤ 88, and clamped to that range.
void exponentials(std::span<float> values);
/// exp(v − largest) / Σ in place; the sum in float64.
void softmax(std::span<float> values);

}  // namespace kerf::core::row_ops
