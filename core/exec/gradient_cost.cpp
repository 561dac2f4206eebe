// SPDX-License-Identifier: Apache-2.0
// What a backward sweep takes, from the graph alone. The terms mirror what gradient_sweep.cpp holds at once.
#include <algorithm>

#include "core/exec/gradient_sweep.hpp"
#include "core/exec/states.hpp"
#include "core/graph/cost.hpp"
#include "core/graph/value_shapes.hpp"

namespace kerf::core {
namespace {

std::uint64_t elements(const ExpectedTensor& tensor) {
    std::uint64_t out = 1;
    for (const auto size : tensor.shape) out *= std::uint64_t(size);
    return out;
}

/// Floats a token that autograd keeps until the way back is done: every value, what ops keep beside their results, and
/// the gradients of the few that are worked on.
std::int64_t kept_features(const std::vector<Op>& ops, std::int64_t input, std::int64_t length) {
    std::int64_t sum = input, widest = input;
    for (const auto& op : ops) {
        std::int64_t made = 0;
        for (const auto& value : op.out) made += features_of(ops, value, input);
        widest = std::max(widest, made);
        sum += std::int64_t(double(made) * op.share + 0.5);
        if (op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm || op.kind == OpKind::rope) sum += 3 * made;
        if (op.kind != OpKind::attention) continue;
        sum += 4 * op.heads * op.head_dim;
        // scores, capped scores, their softmax, and a gradient of each on the way
        if (op.softcap > 0 || op.alibi) sum += 6 * op.heads * length;
    }
    return sum + 4 * widest;
}

}  // namespace

SweepCost sweep_cost(const Graph& graph, std::int64_t samples, std::int64_t length, const SweepRequest& request,
                     std::int64_t threads) {
    constexpr std::uint64_t real = sizeof(float);
    const std::size_t last = graph.blocks.size() + 1;
    const std::int64_t unit = Units::sweep_tokens(samples, length, request.squares);
    const std::uint64_t state = std::uint64_t(samples * length * graph.hidden) * real;
    SweepCost out;
    std::size_t first = last;
    std::uint64_t peak = 0;
    for (std::size_t piece = 0; piece <= last; ++piece) {
        const auto& ops = piece == 0 ? graph.prologue : piece == last ? graph.epilogue : graph.blocks[piece - 1].ops;
        std::uint64_t weights = 0, wanted = 0, largest = 0;
        for (const auto& tensor : expected_tensors(ops)) {
            const bool table = piece == 0 && tensor.shape.size() == 2;
            if (!table) weights += elements(tensor);
            if (!request.wanted(tensor.name)) continue;
            first = std::min(first, piece);
            wanted += elements(tensor);
            largest = std::max(largest, elements(tensor));
        }
        std::uint64_t floats = weights + wanted * (request.squares ? 2 : 1);
        if (request.squares) floats += largest * std::uint64_t(threads);
        floats += std::uint64_t(threads * unit * kept_features(ops, graph.hidden, length));
        if (piece == last) floats += std::uint64_t(threads * unit * graph.vocabulary * 3);
        peak = std::max(peak, floats * real);
        const double forward = forward_flops(ops, 0, ops.size(), samples * length, length);
        out.flops += forward * (piece == last ? 3 : piece >= first ? 4 : 1);
    }
    out.memory_bytes = peak;
    out.disk_bytes = state * (last - std::min(first, last - 1) + 2);
    return out;
}

}  // namespace kerf::core
