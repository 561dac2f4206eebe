// SPDX-License-Identifier: Apache-2.0
#include "core/graph/cost.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "core/codec/gptq_format.hpp"

namespace kerf::core {
namespace {

/// Pairs of query and key in causal attention over `length` tokens, of which each sees itself and at most `window` - 1
/// before it (0: all).
double attended_pairs(std::int64_t length, std::int64_t window) {
    const double n = double(length), w = window > 0 ? double(std::min(window, length)) : n;
    return w * (w + 1) / 2 + (n - w) * w;
}

/// Tokens that are in the cache after `length`.
std::int64_t cached_tokens(const Op& attention, std::int64_t length) {
    return attention.window > 0 ? std::min(attention.window, length) : length;
}

/// Scores and the sum of values: a multiplication and an addition a feature and pair for each.
double attention_flops(const Op& op, double pairs) {
    return 2.0 * double(op.heads * (op.head_dim + value_dim(op))) * pairs;
}

double linear_flops(const Op& op) {
    return 2.0 * double(op.rows) * double(op.columns);
}

/// A token's FLOPs in one op, as the mean over a sequence of `length`.
double prefill_flops(const Op& op, std::int64_t length) {
    if (op.kind == OpKind::linear) return linear_flops(op);
    if (op.kind == OpKind::attention) return attention_flops(op, attended_pairs(length, op.window) / double(length));
    return 0;
}

/// FLOPs of the token after `length` cached ones, which attends to itself as well.
double decode_flops(const Op& op, std::int64_t length) {
    if (op.kind == OpKind::linear) return linear_flops(op);
    if (op.kind == OpKind::attention) return attention_flops(op, double(cached_tokens(op, length + 1)));
    return 0;
}

/// Adds what `ops` cost; tensors that are in `counted` already count no more.
void add_cost(const std::vector<Op>& ops, std::int64_t length, std::set<std::string>& counted, Cost& cost) {
    double active = 0;
    for (const auto& op : ops) {
        for (const auto& tensor : expected_tensors({op})) {
            if (!counted.insert(tensor.name).second) continue;
            const std::int64_t elements = parameter_count({tensor});
            cost.parameters += elements;
            active += op.share * double(elements);
        }
        cost.prefill_flops += op.share * prefill_flops(op, length);
        cost.decode_flops += op.share * decode_flops(op, length);
        if (op.kind != OpKind::attention) continue;
        const std::int64_t values = op.kv_heads * (op.head_dim + value_dim(op));
        cost.kv_values_per_token += values;
        cost.kv_values += values * cached_tokens(op, length);
    }
    cost.active_parameters += std::llround(active);
}

bool is_packed(const Op& op, const WeightFormat& format, GptqLayout& layout) {
    layout = {op.name, op.rows, op.columns, format.bits, format.group_size};
    return op.kind == OpKind::linear && format.bits > 0 && gptq_fits(layout);
}

/// Bytes of the tensors of an op that are not in `counted` yet.
std::uint64_t op_bytes(const Op& op, const WeightFormat& format, bool in_block, std::set<std::string>& counted) {
    GptqLayout layout;
    const bool packed = in_block && is_packed(op, format, layout);
    std::uint64_t bytes = 0;
    for (const auto& tensor : expected_tensors({op})) {
        if (!counted.insert(tensor.name).second) continue;
        if (packed && tensor.name == op.weight)
            for (const auto& part : gptq_tensors(layout)) bytes += part.bytes();
        else
            bytes += std::uint64_t(parameter_count({tensor})) * dtype_bytes(format.dtype);
    }
    return bytes;
}

}  // namespace

Cost cost_of(const std::vector<Op>& ops, std::int64_t length) {
    std::set<std::string> counted;
    Cost cost;
    add_cost(ops, length, counted, cost);
    return cost;
}

GraphCost cost_of(const Graph& graph, std::int64_t length) {
    GraphCost cost;
    std::set<std::string> counted;
    const auto part = [&](const std::vector<Op>& ops) {
        add_cost(ops, length, counted, cost.total);
        return cost_of(ops, length);
    };
    cost.prologue = part(graph.prologue);
    for (const auto& block : graph.blocks) cost.blocks.push_back(part(block.ops));
    cost.epilogue = part(graph.epilogue);
    return cost;
}

double forward_flops(const std::vector<Op>& ops, std::size_t first, std::size_t last, std::int64_t tokens,
                     std::int64_t length) {
    double sum = 0;
    for (std::size_t i = first; i < last; ++i) sum += ops[i].share * prefill_flops(ops[i], length);
    return sum * double(tokens);
}

std::uint64_t weight_bytes(const Graph& graph, const WeightFormat& format) {
    std::set<std::string> counted;
    std::uint64_t bytes = 0;
    for (const auto& op : graph.prologue) bytes += op_bytes(op, format, false, counted);
    for (const auto& block : graph.blocks)
        for (const auto& op : block.ops) bytes += op_bytes(op, format, true, counted);
    for (const auto& op : graph.epilogue) bytes += op_bytes(op, format, false, counted);
    return bytes;
}

double bits_per_weight(const Graph& graph, const WeightFormat& format) {
    double bits = 0, weights = 0;
    std::set<std::string> counted;
    for (const auto& block : graph.blocks)
        for (Op op : block.ops) {
            if (op.kind != OpKind::linear) continue;
            op.bias.clear();
            bits += 8 * double(op_bytes(op, format, true, counted));
            weights += double(op.rows) * double(op.columns);
        }
    return weights > 0 ? bits / weights : 0;
}

}  // namespace kerf::core
