// SPDX-License-Identifier: Apache-2.0
// Where a stage's memory goes, from the graph alone. The terms mirror what block_runner.cpp and evaluate.cpp hold at
// once; a test compares the sum with the measured peak.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "core/curvature/moments.hpp"
#include "core/exec/program.hpp"
#include "core/pipeline/basis_stage.hpp"
#include "core/pipeline/block_runner.hpp"
#include "core/pipeline/model_stage.hpp"
#include "core/pipeline/prepared.hpp"
#include "core/pipeline/survey.hpp"

namespace kerf::core {
namespace {

/// Weights of a Program: everything but embedding tables, which are read by row.
std::uint64_t program_bytes(const std::vector<Op>& ops, DType compute) {
    const bool narrow = compute == DType::bf16 && has_bfloat16_hardware();
    std::uint64_t sum = 0;
    for (const auto& op : ops) {
        if (op.kind == OpKind::linear) sum += std::uint64_t(op.rows * op.columns) * (narrow ? 2 : 4);
        if (op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm) sum += std::uint64_t(op.rows) * 8;
    }
    return sum;
}

/// Floats per token that an op needs beside its inputs and its output.
std::int64_t temporary_width(const Op& op, std::int64_t out) {
    switch (op.kind) {
        case OpKind::rms_norm:
            return 2 * out;
        case OpKind::softcap:
        case OpKind::combine:  // the sum in float32, and an expert's weighted rows
            return 2 * out;
        case OpKind::attention:
            return op.heads * std::max(op.head_dim, value_dim(op)) * (op.kv_heads == op.heads ? 1 : 3);
        default:
            return 0;
    }
}

/// Features of an op's output `o`, given those of what it reads.
std::int64_t width_made(const Op& op, std::size_t o, std::map<std::string, std::int64_t>& width) {
    switch (op.kind) {
        case OpKind::split:
            return op.sizes[o];
        case OpKind::embedding:
            return op.columns;
        case OpKind::linear:
            return op.rows;
        case OpKind::combine:
            return width[op.in[1]];
        case OpKind::attention:
            return op.heads * value_dim(op);
        default:
            return width[op.in[0]];
    }
}

/// Features alive per token. Values of experts have rows for their tokens alone, and every token has top_k experts: at
/// worst all tokens go to the top_k experts that hold the widest values.
class Alive {
public:
    explicit Alive(const std::vector<Op>& ops) {
        for (const auto& op : ops) top_k_ += op.kind == OpKind::route ? op.top_k : 0;
    }
    void add(std::int64_t expert, std::int64_t features) { (expert < 0 ? all_ : of_expert_[expert]) += features; }
    std::int64_t widest() const {
        std::vector<std::int64_t> experts;
        for (const auto& [expert, features] : of_expert_) experts.push_back(features);
        std::sort(experts.rbegin(), experts.rend());
        experts.resize(std::min(experts.size(), std::size_t(top_k_)));
        return std::accumulate(experts.begin(), experts.end(), all_);
    }

private:
    std::int64_t top_k_ = 0, all_ = 0;
    std::map<std::int64_t, std::int64_t> of_expert_;
};

/// Largest number of features alive per token while the ops run one after the other.
std::int64_t live_width(const std::vector<Op>& ops, std::int64_t input) {
    std::map<std::string, std::int64_t> width{{"x", input}}, expert{{"x", -1}};
    std::map<std::string, std::size_t> last;
    for (std::size_t i = 0; i < ops.size(); ++i)
        for (const auto& name : ops[i].in) last[name] = i;
    std::int64_t largest = input;
    for (std::size_t i = 0; i < ops.size(); ++i) {
        const Op& op = ops[i];
        std::int64_t made = 0;
        for (std::size_t o = 0; o < op.out.size(); ++o) {
            const std::int64_t features = width_made(op, o, width);
            width[op.out[o]] = features;
            expert[op.out[o]] = op.expert;
            made += features;
        }
        Alive alive(ops);
        alive.add(op.expert, temporary_width(op, made));
        for (const auto& [name, features] : width) alive.add(expert[name], features);
        largest = std::max(largest, alive.widest());
        for (const auto& name : op.in)
            if (last[name] == i) width.erase(name);
    }
    return largest;
}

std::int64_t unit_length(std::int64_t length, std::int64_t samples) {
    return std::min(std::max<std::int64_t>(1, Units::unit_tokens / std::max<std::int64_t>(1, length)), samples) *
           length;
}

std::uint64_t activation_bytes(const std::vector<Op>& ops, std::int64_t hidden, std::int64_t unit, std::int64_t length,
                               DType compute, std::int64_t threads) {
    // Widened bfloat16 products hold a float32 copy of an operand and of the result beside the values themselves.
    const std::uint64_t bytes = compute == DType::bf16 && has_bfloat16_hardware() ? 2 : 4;
    std::int64_t scores = 0;
    for (const auto& op : ops)
        if (op.kind == OpKind::attention) scores = std::max(scores, attention_scratch(op, length));
    return std::uint64_t(threads * unit * (live_width(ops, hidden) + hidden)) * bytes +
           std::uint64_t(threads * scores) * sizeof(float);
}

/// compress(): the weight before, after, and their difference in float32, codes, what the method asked for, H and its
/// factor.
std::uint64_t compress_bytes(const InputGroup& group, bool with_refit) {
    const bool gram = (group.needs & KERF_NEEDS_INPUT_GRAM) != 0;
    std::uint64_t largest = 0;
    std::uint64_t refit = 0;
    for (const AxisTarget* target : group.axes) {
        // The weight before, after, and their difference in float32; a refit works in float64.
        const std::uint64_t elements = std::uint64_t(target->facts.out_features * target->facts.in_features);
        const std::uint64_t own = target->scratch_bytes + elements * 16;
        largest = std::max(largest, own);
        refit = std::max(refit, elements * 36 + std::uint64_t(group.features * group.features) * 16);
    }
    if (with_refit) largest = std::max(largest, refit);
    for (const Target* target : group.targets) {
        const std::uint64_t elements = std::uint64_t(target->out * target->in);
        largest = std::max(largest, elements * (gram ? 16 : 13) + elements + target->cost.scratch_bytes);
    }
    const std::uint64_t square = std::uint64_t(group.features * group.features);
    return largest + MomentAccumulator::result_memory(group.features, group.needs) + (gram ? square * 4 * 2 : 0);
}

}  // namespace

std::uint64_t stage_memory(const Model& model, const Stage& stage, const Stage* sharer, DType compute,
                           std::int64_t threads) {
    if (stage.bases) return stage.bases->memory(stage.windows->length, stage.windows->samples, compute, threads);
    const std::uint64_t streams = stage.dense_stream ? 2 : 1;
    const Graph& graph = model.graph();
    std::uint64_t peak = stage.whole ? stage.whole->memory(graph, threads) : 0;
    if (stage.surveys()) peak = std::max(peak, stage_memory(model, survey_of(stage), nullptr, compute, threads));
    for (std::size_t block = 0; block <= graph.blocks.size(); ++block) {
        if (block == graph.blocks.size() && stage.in_block(block).empty()) continue;
        const auto& ops = block_ops(graph, block);
        const auto groups = input_groups(ops, stage, block);
        // What the next stage will need of these values, as wide as they are here.
        const auto lent = sharer ? input_groups(ops, *sharer, block) : std::vector<InputGroup>();
        const bool whole = stage.sequential == Sequential::block || stage.sequential == Sequential::none;
        std::uint64_t grams = 0, compress = 0, held = 0;
        const auto add_sums = [&](std::int64_t features, std::uint64_t needs) {
            const std::uint64_t one = MomentAccumulator::memory(features, needs);
            grams = whole ? grams + one : std::max(grams, one);
        };
        for (const auto& group : lent) {
            add_sums(group.features, group.needs);
            held += MomentAccumulator::result_memory(group.features, group.needs);
        }
        for (const auto& group : groups) {
            if (stage.has_stream()) add_sums(group.features, group.needs);
            if (stage.calibrated && !stage.has_stream())
                held += MomentAccumulator::result_memory(group.features, group.needs);
            compress = std::max(compress, compress_bytes(group, stage.refit) + (whole && stage.calibrated ? grams : 0));
        }
        if (!stage.has_stream()) {
            peak = std::max(peak, compress + held);
            continue;
        }
        const std::int64_t unit = unit_length(stage.windows->length, stage.windows->samples);
        const std::uint64_t run =
            grams + activation_bytes(ops, graph.hidden, unit, stage.windows->length, compute, threads);
        peak = std::max(peak, streams * program_bytes(ops, compute) + held + std::max(run, compress));
    }
    return peak;
}

std::uint64_t evaluation_memory(const Model& model, std::int64_t length, std::int64_t samples, bool with_reference,
                                DType compute, std::int64_t threads) {
    const Graph& graph = model.graph();
    const std::int64_t unit = unit_length(length, samples);
    std::uint64_t body = 0;
    for (const auto& block : graph.blocks)
        body = std::max(body, program_bytes(block.ops, compute) +
                                  activation_bytes(block.ops, graph.hidden, unit, length, compute, threads));
    constexpr std::int64_t slice = 4096, token_record = 40;
    const std::int64_t rows = std::min(slice, graph.vocabulary);
    const int sides = with_reference ? 2 : 1;
    const std::uint64_t head =
        std::uint64_t(sides) * std::uint64_t(rows * graph.hidden * 4 + threads * unit * (rows + 2 * graph.hidden) * 4);
    return std::max(body, head) + std::uint64_t(sides * samples * length * token_record);
}

}  // namespace kerf::core
