// SPDX-License-Identifier: Apache-2.0
/// What the ops of a graph do to tensors [tokens, features]. Inside core/exec alone: LibTorch's headers.
#pragma once

#include <ATen/ATen.h>

#include <span>
#include <vector>

#include "core/exec/program.hpp"
#include "core/graph/graph.hpp"

namespace kerf::core::tensor_ops {

/// The rows of an embedding op's table that ids (or positions) ask for, float32 [ids, width]. Error(input) for an id
/// past the table.
at::Tensor gather(const Op& op, std::span<const std::int64_t> ids, const WeightSource& source);

at::Tensor activate(ActivationKind kind, const at::Tensor& x);

/// x / rms(x) · w in float32 over each of op.heads slices; rounded to x's dtype before the weight, as Llama's reference
/// does, or, for a weight with an offset (then float32), after it, as Gemma's does. There may be no weight.
at::Tensor rms_norm(const Op& op, const at::Tensor& x, const c10::optional<at::Tensor>& weight);
at::Tensor layer_norm(const Op& op, const at::Tensor& x, const c10::optional<at::Tensor>& weight,
                      const c10::optional<at::Tensor>& bias);

at::Tensor scale(const Op& op, const at::Tensor& x);
/// value · tanh(x / value)
at::Tensor softcap(double value, const at::Tensor& x);

std::vector<at::Tensor> split(const Op& op, const at::Tensor& x);

/// Router logits [tokens, experts] to weights: the softmax's top_k, zeros elsewhere.
at::Tensor route(const Op& op, const at::Tensor& logits);
/// The rows of x whose weight for op.expert is not zero, in their order.
at::Tensor dispatch(const Op& op, const at::Tensor& x, const at::Tensor& routing);
/// in: routing, then each expert's output on its rows. Σ weight · output, [tokens, features].
at::Tensor combine(const std::vector<at::Tensor>& in);

/// An op without parameters that makes one value whatever the positions of its tokens are: activation, mul, add, scale
/// and those of routed experts. Error(internal) for any other.
at::Tensor weightless(const Op& op, const std::vector<at::Tensor>& in);

}  // namespace kerf::core::tensor_ops
