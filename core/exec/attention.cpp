// SPDX-License-Identifier: Apache-2.0
#include "core/exec/attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/exec/positions.hpp"

namespace kerf::core {
namespace {

at::Tensor attend_fused(const Op& op, Batch batch, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const auto heads_first = [&](const at::Tensor& x, std::int64_t heads) {
        return x.view({batch.samples, batch.length, heads, op.head_dim}).transpose(1, 2);
    };
    at::Tensor keys = heads_first(k, op.kv_heads), values = heads_first(v, op.kv_heads);
    if (op.kv_heads != op.heads) {
        keys = keys.repeat_interleave(op.heads / op.kv_heads, 1);
        values = values.repeat_interleave(op.heads / op.kv_heads, 1);
    }
    at::Tensor out;
    if (op.window > 0 && op.window < batch.length) {
        const at::Tensor position = at::arange(batch.length);
        const at::Tensor back = position.unsqueeze(1) - position.unsqueeze(0);
        const at::Tensor sees = back.ge(0).logical_and(back.lt(op.window));
        out = at::scaled_dot_product_attention(heads_first(q, op.heads), keys, values, sees, 0.0, false, op.value);
    } else {
        out = at::scaled_dot_product_attention(heads_first(q, op.heads), keys, values, {}, 0.0, true, op.value);
    }
    return out.transpose(1, 2).reshape({batch.tokens(), op.heads * op.head_dim});
}

/// Queries that are worked on at once where the scores have to be touched: a tile of 128 × 4096 float32 scores stays in
/// the second-level cache.
constexpr std::int64_t tile_rows = 128;

/// What alibi adds to head h's products with key j, float32 [heads, length].
at::Tensor alibi_table(std::int64_t heads, std::int64_t length) {
    at::Tensor out = at::empty({heads, length}, at::kFloat);
    float* to = out.data_ptr<float>();
    for (const float slope : alibi_slopes(heads))
        for (std::int64_t j = 0; j < length; ++j) *to++ = alibi_bias(slope, j);
    return out;
}

/// −∞ where query `first` + i does not see key `from` + j, else 0; float32 [rows, keys].
at::Tensor causal_mask(std::int64_t first, std::int64_t rows, std::int64_t from, std::int64_t keys,
                       std::int64_t window) {
    const at::Tensor back = at::arange(first, first + rows).unsqueeze(1) - at::arange(from, from + keys).unsqueeze(0);
    at::Tensor hidden = back.lt(0);
    if (window > 0) hidden = hidden.logical_or(back.ge(window));
    return at::zeros({rows, keys}, at::kFloat).masked_fill_(hidden, -std::numeric_limits<float>::infinity());
}

/// One head of one window, q, k and v [length, head_dim]: softmax(cap(scale · (q kᵀ + bias)) + mask) v, a tile of
/// queries at a time.
void attend_in_tiles(const Op& op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const at::Tensor& bias, at::Tensor out) {
    const std::int64_t length = q.size(0);
    for (std::int64_t first = 0; first < length; first += tile_rows) {
        const std::int64_t rows = std::min(tile_rows, length - first), end = first + rows;
        const std::int64_t from = op.window > 0 ? std::max<std::int64_t>(0, first - op.window + 1) : 0;
        at::Tensor scores = at::matmul(q.slice(0, first, end), k.slice(0, from, end).t()).to(at::kFloat);
        if (bias.defined()) scores.add_(bias.slice(0, from, end));
        scores.mul_(op.value);
        if (op.softcap > 0) scores.div_(op.softcap).tanh_().mul_(op.softcap);
        scores.add_(causal_mask(first, rows, from, end - from, op.window));
        out.slice(0, first, end).copy_(at::matmul(at::softmax(scores, -1).to(v.scalar_type()), v.slice(0, from, end)));
    }
}

at::Tensor attend_tiled(const Op& op, Batch batch, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const auto window_of = [&](const at::Tensor& x, std::int64_t heads) {
        return x.view({batch.samples, batch.length, heads, op.head_dim});
    };
    const at::Tensor queries = window_of(q, op.heads), keys = window_of(k, op.kv_heads),
                     values = window_of(v, op.kv_heads);
    at::Tensor out = at::empty_like(queries);
    const at::Tensor bias = op.alibi ? alibi_table(op.heads, batch.length) : at::Tensor();
    for (std::int64_t sample = 0; sample < batch.samples; ++sample) {
        for (std::int64_t head = 0; head < op.heads; ++head) {
            const std::int64_t group = head / (op.heads / op.kv_heads);
            const auto slice = [&](const at::Tensor& x, std::int64_t h) { return x.select(0, sample).select(1, h); };
            attend_in_tiles(op, slice(queries, head), slice(keys, group), slice(values, group),
                            bias.defined() ? bias.select(0, head) : bias, slice(out, head));
        }
    }
    return out.view({batch.tokens(), op.heads * op.head_dim});
}

}  // namespace

at::Tensor attend(const Op& op, Batch batch, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return op.softcap > 0 || op.alibi ? attend_tiled(op, batch, q, k, v) : attend_fused(op, batch, q, k, v);
}

std::int64_t attention_scratch(const Op& op, std::int64_t length) {
    if (op.softcap == 0 && !op.alibi) return 0;
    // scores, their softmax and the mask, and where the mask comes from (int64 distances)
    constexpr std::int64_t copies = 6;
    return copies * std::min(tile_rows, length) * length + (op.alibi ? op.heads * length : 0);
}

}  // namespace kerf::core
