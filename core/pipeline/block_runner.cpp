// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/block_runner.hpp"

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>

#include "core/exec/activation_pool.hpp"
#include "core/graph/cost.hpp"
#include "core/graph/value_shapes.hpp"
#include "core/plugin_api/job.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

const std::string block_input = "x", block_output = "y";

/// An expert's values have rows for a share of the tokens that is not known before.
States::Room room_for(const std::vector<Op>& ops, const std::string& value) {
    for (const auto& op : ops)
        if (op.expert >= 0 && std::find(op.out.begin(), op.out.end(), value) != op.out.end())
            return States::Room::when_written;
    return States::Room::now;
}

/// One compress() call through the ABI.
Compressed run_method(const Target& target, const std::vector<float>& weight, Curvature* curvature,
                      const BlockRunner::Hooks& hooks) {
    kerf_job job;
    job.log = hooks.log;
    kerf_layer layer;
    layer.name = target.name;
    layer.out = target.out;
    layer.in = target.in;
    layer.weight = weight.data();
    layer.curvature = curvature;
    target.method->compress(&job, &layer);
    if (!layer.replacement)
        throw Error(Fault::internal,
                    text(target.name, ": ", target.method->method().id, " returned without replacing the weight"));
    Replacement& made = *layer.replacement;
    if (made.layout != target.cost.layout || made.bits != target.cost.bits)
        throw Error(Fault::internal,
                    text(target.name, ": ", target.method->method().id, " announced ", target.cost.layout, " with ",
                         target.cost.bits, " bits and made ", made.layout, " with ", made.bits));
    Compressed out;
    out.weight = made.to_dense();
    out.bits = made.bits;
    if (!made.dense())
        out.codes = GptqCodes{std::move(made.codes), std::move(made.scales), std::move(made.zeros),
                              std::move(made.group_index)};
    out.metrics = std::move(job.metrics);
    return out;
}

/// The group of what reads `value`, made when there is none.
InputGroup& group_of(std::vector<InputGroup>& groups, const std::vector<Op>& ops, std::size_t reader) {
    const std::string& value = ops[reader].in[0];
    for (auto& group : groups)
        if (group.value == value) return group;
    InputGroup made{value, 0, reader, ops[reader].columns, {}, {}, false, 0};
    while (std::find(ops[made.first_op].in.begin(), ops[made.first_op].in.end(), value) == ops[made.first_op].in.end())
        ++made.first_op;
    return groups.emplace_back(std::move(made));
}

void sort_groups(std::vector<InputGroup>& groups) {
    std::sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.first_op < b.first_op; });
}

}  // namespace

std::vector<InputGroup> input_groups(const std::vector<Op>& ops, const Stage& stage, std::size_t block) {
    std::vector<InputGroup> groups;
    for (const Target* target : stage.in_block(block)) {
        InputGroup& group = group_of(groups, ops, target->op);
        group.targets.push_back(target);
        group.needs |= target->method->moments();
    }
    for (const AxisTarget* target : stage.axes_in_block(block)) {
        InputGroup& group = group_of(groups, ops, target->consumers.front());
        group.axes.push_back(target);
        group.needs |= target->method->moments();
        // In a survey the dense model is the one that is there.
        if (!stage.dense_stream) group.needs &= ~std::uint64_t(KERF_NEEDS_DENSE_GRAM);
    }
    if (stage.refit)
        for (auto& group : groups) group.needs |= KERF_NEEDS_INPUT_GRAM;
    sort_groups(groups);
    return groups;
}

BlockRunner::BlockRunner(const Model& model, const Stage& stage, std::size_t block, const OutputLayout& layout,
                         const Hooks& hooks)
    : model_(model),
      stage_(stage),
      block_(block),
      ops_(block_ops(model.graph(), block)),
      layout_(layout),
      hooks_(hooks),
      groups_(input_groups(ops_, stage, block)) {}

void BlockRunner::compress_without_data() {
    for (const auto& group : groups_) {
        prune_group(group, nullptr, nullptr);
        for (const Target* target : group.targets) {
            hooks_.check_cancelled();
            hooks_.made(*target, compress_one(*target, nullptr));
            hooks_.progress(target->cost.flops);
        }
    }
}

void BlockRunner::lend(const std::vector<InputGroup>& groups) {
    for (const auto& wanted : groups) {
        const auto reader = std::find_if(ops_.begin(), ops_.end(), [&](const Op& op) {
            return op.kind == OpKind::linear && op.in[0] == wanted.value;
        });
        if (reader == ops_.end()) throw Error(Fault::internal, text(wanted.value, ": no linear of the block reads it"));
        InputGroup& group = group_of(groups_, ops_, std::size_t(reader - ops_.begin()));
        group.lent = true;
        group.needs |= wanted.needs;
    }
    sort_groups(groups_);
}

void BlockRunner::compress_with(Grams& lent) {
    for (const auto& group : groups_) {
        const auto found = lent.find(group.value);
        if (found == lent.end() || found->second.features() != group.features)
            throw Error(Fault::internal, text(ops_[group.reader].name, " input: the stage before lends no Gram of it"));
        compress_group(group, found->second, nullptr);
        lent.erase(found);
    }
}

void BlockRunner::run(const Units& units, States& states, States* dense, DType compute, bool last) {
    Program program(ops_, model_.source(), compute, units.length());
    std::optional<Program> dense_program;
    Streams streams{{&states, &program}};
    if (dense) {
        dense_program.emplace(ops_, model_.source(), compute, units.length());
        streams.push_back({dense, &*dense_program});
    }
    input_width_ = states.features(block_input);
    if (stage_.sequential == Sequential::block || stage_.sequential == Sequential::none)
        run_whole_block(units, streams, last);
    else
        run_one_pass(units, streams, last);
}

/// The values that ops [first, last) read or moments are made of, sorted.
std::vector<std::string> BlockRunner::read_by(std::size_t first, std::size_t last, const Accumulators& sums) const {
    std::set<std::string> read;
    for (std::size_t i = first; i < last; ++i) read.insert(ops_[i].in.begin(), ops_[i].in.end());
    for (const auto& [value, moments] : sums) read.insert(value);
    return {read.begin(), read.end()};
}

/// Ops [first, last) on one unit; gives the values that moments are made of.
Values BlockRunner::run_unit(const Units& units, std::int64_t unit, const Stream& stream, std::size_t first,
                             std::size_t last, const std::vector<std::string>& live_out,
                             const Accumulators& sums) const {
    const std::vector<std::string> live_in = live_at(ops_, first), read = read_by(first, last, sums);
    std::vector<std::string> keep = live_out;
    for (const auto& [value, moments] : sums) keep.push_back(value);
    Values values;
    for (const auto& name : live_in)
        if (std::binary_search(read.begin(), read.end(), name)) values.emplace(name, stream.states->get(name, unit));
    stream.program->run(values, units.batch(unit), first, last, keep);
    for (const auto& name : live_out)
        if (std::find(live_in.begin(), live_in.end(), name) == live_in.end())
            stream.states->put(name, unit, values.at(name));
    std::erase_if(values, [&](const auto& entry) { return !sums.contains(entry.first); });
    return values;
}

void BlockRunner::segment(const Units& units, const Streams& streams, std::size_t first, std::size_t last,
                          const std::vector<std::string>& live_out, Accumulators& sums) {
    for (const auto& stream : streams)
        for (const auto& name : live_out)
            if (!stream.states->has(name))
                stream.states->declare(name, features_of(ops_, name, input_width_), room_for(ops_, name));

    // As many units at a time as there are threads. Sums take them one by one in order, so that neither the number of
    // threads nor the size of a round shows in them.
    const std::int64_t round = threads(), lanes = std::int64_t(streams.size());
    std::vector<Values> captured(std::size_t(round * lanes));
    for (std::int64_t start = 0; start < units.count(); start += round) {
        hooks_.check_cancelled();
        const std::int64_t here = std::min(round, units.count() - start);
        parallel_for(here * lanes, 1, [&](std::int64_t i, std::int64_t) {
            captured[std::size_t(i)] =
                run_unit(units, start + i / lanes, streams[std::size_t(i % lanes)], first, last, live_out, sums);
        });
        std::int64_t tokens = 0;
        double flops = 0;
        for (std::int64_t i = 0; i < here; ++i) {
            const auto values = captured.begin() + i * lanes;
            for (const auto& [name, moments] : sums) {
                const Value& value = values->at(name);
                const std::byte* dense = lanes > 1 ? values[1].at(name).bytes().data() : nullptr;
                flops += moments->flops_a_token() * double(value.tokens());
                if (streams[0].program->compute() == DType::bf16)
                    moments->add_bf16(reinterpret_cast<const std::uint16_t*>(value.bytes().data()),
                                      reinterpret_cast<const std::uint16_t*>(dense), value.tokens());
                else
                    moments->add(reinterpret_cast<const float*>(value.bytes().data()),
                                 reinterpret_cast<const float*>(dense), value.tokens());
            }
            for (std::int64_t lane = 0; lane < lanes; ++lane) values[lane].clear();
            tokens += units.batch(start + i).tokens();
        }
        hooks_.progress(flops + double(lanes) * forward_flops(ops_, first, last, tokens, units.length()));
    }
    captured.clear();
    trim_activations();
}

void BlockRunner::run_one_pass(const Units& units, const Streams& streams, bool last) {
    std::size_t done = 0;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
        const InputGroup& group = groups_[g];
        Accumulators sums;
        sums.emplace(group.value,
                     std::make_unique<MomentAccumulator>(
                         text(model_.graph().blocks.size() > block_ ? model_.graph().blocks[block_].name : "epilogue",
                              ".", group.value),
                         group.features, group.needs));
        const std::vector<std::string> live = live_at(ops_, group.first_op);
        segment(units, streams, done, group.first_op, live, sums);
        for (const auto& name : live_at(ops_, done))
            if (std::find(live.begin(), live.end(), name) == live.end())
                for (const auto& stream : streams) stream.states->drop(name);
        done = group.first_op;
        Curvature curvature = curvature_of(group, *sums.begin()->second);
        sums.clear();
        compress_group(group, curvature, streams[0].program);
    }
    if (last) return;
    Accumulators none;
    const std::vector<std::string> live_in = live_at(ops_, done);
    segment(units, streams, done, ops_.size(), {block_output}, none);
    for (const auto& stream : streams) {
        for (const auto& name : live_in) stream.states->drop(name);
        stream.states->rename(block_output, block_input);
    }
}

void BlockRunner::run_whole_block(const Units& units, const Streams& streams, bool last) {
    Accumulators sums;
    for (const auto& group : groups_)
        sums.emplace(group.value, std::make_unique<MomentAccumulator>(text(ops_[group.reader].name, " input"),
                                                                      group.features, group.needs));
    const bool none = stage_.sequential == Sequential::none;
    segment(units, streams, 0, ops_.size(), none ? std::vector{block_output} : std::vector<std::string>(), sums);
    for (const auto& group : groups_) {
        Curvature curvature = curvature_of(group, *sums.at(group.value));
        sums.erase(group.value);
        compress_group(group, curvature, none ? nullptr : streams[0].program);
    }
    if (last) return;
    if (!none) {
        Accumulators nothing;
        segment(units, streams, 0, ops_.size(), {block_output}, nothing);
    }
    for (const auto& stream : streams) {
        stream.states->drop(block_input);
        stream.states->rename(block_output, block_input);
    }
}

/// Ends the sums. An expert that the router sent no token to has no statistics: H = I stands for inputs of which
/// nothing is known, so that a calibrated method does with it what it does without data, and no weight counts as
/// unused.
Curvature BlockRunner::curvature_of(const InputGroup& group, MomentAccumulator& sums) const {
    const std::string name = text(ops_[group.reader].name, " input");
    const std::int64_t tokens = sums.tokens(), n = group.features;
    if (!group.axes.empty() && tokens > 0 && tokens < n)
        hooks_.log(KERF_LOG_WARN, text(name, ": ", tokens, " calibration tokens for ", n,
                                       " features; their Gram matrix "
                                       "has rank ",
                                       tokens, " at most, use at least ", n, " tokens"));
    if (tokens > 0 || ops_[group.reader].expert < 0) {
        Curvature curvature(name, n, tokens, sums.finish());
        const auto& diagonal = curvature.diagonal();
        const auto dead = std::count(diagonal.begin(), diagonal.end(), 0.0f);
        if (dead > 0 && hooks_.log)
            hooks_.log(KERF_LOG_WARN, text(name, ": ", dead, " of ", n,
                                           " features are zero in every calibration token; nothing is known of their "
                                           "columns' effect"));
        return curvature;
    }
    std::string linears;
    for (const AxisTarget* target : group.axes) linears += (linears.empty() ? "" : ", ") + target->axis->name;
    for (const Target* target : group.targets) linears += (linears.empty() ? "" : ", ") + target->name;
    hooks_.log(KERF_LOG_WARN,
               text(linears,
                    ": no calibration token was routed here; compressed as if all inputs were alike, more "
                    "calibration tokens usually reach every expert"));
    return {name, n, tokens, MomentAccumulator::unknown(n, group.needs)};
}

void BlockRunner::compress_group(const InputGroup& group, Curvature& curvature, Program* program) {
    const std::vector<bool> lost = prune_group(group, &curvature, program);
    for (const Target* target : group.targets) {
        hooks_.check_cancelled();
        const Compressed made = compress_one(*target, &curvature);
        if (program) program->set_weight(target->name, made.weight);
        hooks_.made(*target, made);
        hooks_.progress(target->cost.flops);
    }
    if (!group.lent) return;
    const bool whole = stage_.zeroed || std::find(lost.begin(), lost.end(), true) == lost.end();
    lent_.emplace(group.value, whole ? std::move(curvature) : curvature.without(lost));
}

/// Gives the columns that the pruned axes lost.
std::vector<bool> BlockRunner::prune_group(const InputGroup& group, Curvature* curvature, Program* program) {
    std::vector<bool> lost(static_cast<std::size_t>(group.features), false);
    for (const AxisTarget* target : group.axes) {
        hooks_.check_cancelled();
        if (hooks_.survey) {
            hooks_.survey(*target, *curvature);
            continue;
        }
        Pruned pruned = prune_axis(model_, stage_, *target, curvature, hooks_.log);
        for (auto& consumer : pruned.consumers) {
            const Op& op = ops_[consumer.op];
            round_to(layout_.dtype_of(model_.stored_name(op.weight)), consumer.weight);
            if (program) program->set_weight(op.name, consumer.weight);
            const auto columns = columns_lost(*target->axis, pruned.units, op.name, op.columns);
            for (std::size_t i = 0; i < lost.size(); ++i) lost[i] = lost[i] || columns[i];
            if (consumer.bias.empty()) continue;
            round_to(layout_.dtype_of(model_.stored_name(op.bias)), consumer.bias);
            if (program) program->set_bias(op.name, consumer.bias);
        }
        hooks_.pruned(*target, std::move(pruned));
        hooks_.progress(target->flops);
    }
    return lost;
}

Compressed BlockRunner::compress_one(const Target& target, Curvature* curvature) {
    const auto started = std::chrono::steady_clock::now();
    const Op& op = ops_[target.op];
    const std::vector<float> weight = linear_weight(model_.source(), op);
    Compressed made = run_method(target, weight, curvature, hooks_);
    // What follows, the figures included, sees the weight as it will lie on disk.
    if (!layout_.packed(target.name)) round_to(layout_.dtype_of(model_.stored_name(op.weight)), made.weight);
    // A method that knows its own error has computed it from the same H; it costs two products as large as the method.
    if (!made.metrics.contains("error"))
        made.metrics["error"] = relative_error(weight, made.weight, target.out, curvature);
    made.metrics["bits"] = target.cost.bits_per_weight;
    if (curvature) made.metrics["tokens"] = double(curvature->tokens());
    made.metrics["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return made;
}

}  // namespace kerf::core
