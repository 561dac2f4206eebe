// SPDX-License-Identifier: Apache-2.0
/// Inside core/exec alone: LibTorch's headers.
#pragma once

#include <ATen/ATen.h>

#include "core/exec/program.hpp"

namespace kerf::core {

/// Causal attention of every window by itself: q [tokens, heads · head_dim], k [tokens, kv_heads · head_dim], v
/// [tokens, kv_heads · value_dim], all of one dtype; the result is [tokens, heads · value_dim].
at::Tensor attend(const Op& op, Batch batch, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace kerf::core
