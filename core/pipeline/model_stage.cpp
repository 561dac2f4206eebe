// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/model_stage.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/pipeline/structure.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

/// Units of every axis that went, in the numbers that they had before the first step.
std::map<std::string, std::vector<std::int64_t>> units_gone(const std::vector<Axis>& axes,
                                                            const std::vector<ModelEdit>& edits) {
    std::map<std::string, std::vector<std::int64_t>> left, gone;
    for (const auto& edit : edits)
        for (const auto& removal : edit.removals) {
            auto& now = left[removal.axis];
            if (now.empty()) {
                now.resize(std::size_t(axis_named(axes, removal.axis).size));
                std::iota(now.begin(), now.end(), 0);
            }
            std::vector<bool> goes(now.size(), false);
            for (const auto unit : removal.units) goes[std::size_t(unit)] = true;
            std::vector<std::int64_t> next;
            for (std::size_t i = 0; i < now.size(); ++i) (goes[i] ? gone[removal.axis] : next).push_back(now[i]);
            now = std::move(next);
        }
    for (auto& [axis, units] : gone) std::sort(units.begin(), units.end());
    return gone;
}

/// Losses as the stream of blocks cuts them; nothing when it cannot.
std::optional<std::vector<AxisTarget>> targets_of(const ModelStage& whole, const std::vector<Axis>& axes,
                                                  const std::vector<AxisFacts>& facts, const Graph& graph) {
    std::vector<AxisTarget> out;
    std::vector<Removal> removals;
    for (const auto& loss : whole.losses) {
        const Axis& axis = axes[loss.axis];
        if (axis.block < 0 || facts[loss.axis].in_features == 0) return {};
        AxisTarget target{};
        target.axis = &axis;
        target.facts = facts[loss.axis];
        target.block = std::size_t(axis.block);
        target.consumers = consumers_of(axis, graph.blocks[target.block].ops);
        target.method = whole.method;
        target.remove = std::int64_t(loss.units.size());
        target.units = loss.units;
        removals.push_back({axis.name, loss.units});
        out.push_back(std::move(target));
    }
    const Graph cut = removals.empty() ? graph : remove(graph, axes, removals).graph;
    if (graph_json(cut) != graph_json(whole.result.graph())) return {};
    return out;
}

/// How many blocks stay by a plan: one that loses all units of all its axes goes.
std::int64_t planned_blocks(const ModelPlan& plan, const Graph& graph, const std::string& id) {
    std::vector<bool> goes(graph.blocks.size(), false);
    for (const auto& axis : plan.axes)
        if (axis.block >= 0) goes[std::size_t(axis.block)] = true;
    std::vector<bool> whole(plan.axes.size(), false);
    for (const auto& removal : plan.removals) whole[removal.axis] = removal.plan.remove == plan.axes[removal.axis].size;
    for (std::size_t i = 0; i < plan.axes.size(); ++i)
        if (plan.axes[i].block >= 0 && !whole[i]) goes[std::size_t(plan.axes[i].block)] = false;
    const auto first = std::find(goes.begin(), goes.end(), true);
    if (std::find(first, goes.end(), false) != goes.end())
        throw Error(Fault::internal,
                    text(id, ": plans to remove ", graph.blocks[std::size_t(first - goes.begin())].name,
                         " and to keep a later block; blocks go from the end"));
    return first - goes.begin();
}

/// What a plan comes to, with the last units standing for those that the method will choose.
std::vector<ModelEdit> planned_edits(const ModelPlan& plan, const Graph& graph, const std::string& id) {
    const std::int64_t blocks = planned_blocks(plan, graph, id);
    ModelEdit removals, last;
    last.keep_blocks = blocks;
    for (const auto& removal : plan.removals) {
        const Axis& axis = plan.axes[removal.axis];
        if (axis.block >= blocks || removal.plan.remove == 0) continue;
        const std::int64_t run = std::max<std::int64_t>(1, axis.balanced);
        if (removal.plan.remove > axis.size - axis.keep || removal.plan.remove % run != 0)
            bad_input(id, ": plans to remove ", removal.plan.remove, " of the ", axis.size, " units of ", axis.name,
                      run > 1 ? text(", which come in ", run, " runs") : "", "; at least ", axis.keep, " must stay");
        removals.removals.push_back({axis.name, last_units(axis, removal.plan.remove)});
    }
    std::vector<ModelEdit> out;
    if (!removals.removals.empty()) out.push_back(std::move(removals));
    if (blocks < std::int64_t(graph.blocks.size())) {
        if (blocks == 0) bad_input(id, ": plans to remove all ", graph.blocks.size(), " blocks; at least 1 must stay");
        out.push_back(std::move(last));
    }
    return out;
}

/// The windows of a sweep have to be there.
void check_sweeps(const kerf_axis_plan& plan, const Windows& windows, const std::string& where) {
    if (plan.sweep_first < 0 || plan.sweep_first >= windows.samples ||
        plan.sweep_windows > windows.samples - plan.sweep_first)
        bad_input(where, ": gradients over ", plan.sweep_windows > 0 ? text(plan.sweep_windows) : "all",
                  " windows from number ", plan.sweep_first, " on: calibration has ", windows.samples,
                  " windows, counted from 0");
    if (plan.sweep_length > windows.length)
        bad_input(where, ": gradients over ", plan.sweep_length, " tokens of each window: those of calibration have ",
                  windows.length);
}

ModelStage::Sweeps planned_sweeps(const ModelPlan& plan, const Windows* windows, const std::string& where) {
    ModelStage::Sweeps out;
    for (const auto& removal : plan.removals) {
        if (removal.plan.sweeps <= 0 || !windows) continue;
        check_sweeps(removal.plan, *windows, where);
        out.count = std::max<std::int64_t>(out.count, removal.plan.sweeps);
        out.squares = out.squares || removal.plan.sweep_squares != 0;
        const auto part = [](std::int64_t asked, std::int64_t all) { return asked > 0 ? std::min(asked, all) : all; };
        out.windows = std::max(out.windows, part(removal.plan.sweep_windows, windows->samples));
        out.length = std::max(out.length, part(removal.plan.sweep_length, windows->length));
        for (const auto& place : plan.axes[removal.axis].places) out.tensors.insert(place.tensor);
    }
    return out;
}

std::uint64_t largest_tensor(const Graph& graph) {
    std::uint64_t out = 0;
    for (const auto& tensor : expected_tensors(graph)) {
        std::uint64_t elements = 1;
        for (const auto size : tensor.shape) elements *= std::uint64_t(size);
        out = std::max(out, elements);
    }
    return out;
}

}  // namespace

SweepCost ModelStage::sweep_cost(const Graph& graph, std::int64_t threads) const {
    if (sweeps.count == 0) return {};
    SweepRequest request;
    request.wanted = [this](const std::string& tensor) { return sweeps.tensors.contains(tensor); };
    request.squares = sweeps.squares;
    return core::sweep_cost(graph, sweeps.windows, sweeps.length, request, threads);
}

std::uint64_t ModelStage::memory(const Graph& graph, std::int64_t threads) const {
    // A tensor as it is read and in the method's hands; with a sweep its mean and squares too.
    const std::uint64_t tensors = largest_tensor * sizeof(float) * (sweeps.count > 0 ? 4 : 2);
    return scratch_bytes + tensors + sweep_cost(graph, threads).memory_bytes;
}

double ModelStage::sweep_flops(const Graph& graph) const {
    return double(sweeps.count) * sweep_cost(graph, 1).flops;
}

std::uint64_t ModelStage::disk_bytes(const Graph& graph) const {
    return sweep_cost(graph, 1).disk_bytes;
}

void plan_model_stage(Stage& stage, const StageSpec& spec, const Model& input,
                      std::shared_ptr<const MethodInstance> method) {
    if (!spec.include.empty() || !spec.exclude.empty() || !spec.overrides.empty())
        bad_input(
            spec.location, ": ", spec.method,
            " weighs the whole model: include, exclude and override have no meaning here; its options say what it "
            "prunes (kerf plugins describe ",
            spec.method, ")");
    const Graph& graph = input.graph();
    const std::int64_t tokens = stage.windows ? stage.windows->samples * stage.windows->length : 0;
    const ModelPlan plan = plan_model(input, *method, tokens);
    ModelStage whole;
    whole.method = std::move(method);
    whole.largest_tensor = largest_tensor(graph);
    whole.sweeps = planned_sweeps(plan, stage.windows.get(), text(spec.location, ": ", spec.method));
    for (const auto& removal : plan.removals) {
        whole.exact = whole.exact && removal.plan.exact != 0;
        whole.scratch_bytes = std::max(whole.scratch_bytes, removal.plan.scratch_bytes);
        whole.flops += removal.plan.flops;
    }
    stage.all_axes = std::make_shared<const std::vector<Axis>>(plan.axes);
    stage.whole = std::make_shared<const ModelStage>(std::move(whole));
    settle(stage, input, planned_edits(plan, graph, spec.method));
}

void settle(Stage& stage, const Model& input, const std::vector<ModelEdit>& edits) {
    ModelStage whole = *stage.whole;
    whole.result = input;
    for (const auto& edit : edits) whole.result = edited(whole.result, edit);
    const auto& axes = *stage.all_axes;
    const std::int64_t tokens = stage.windows ? stage.windows->samples * stage.windows->length : 0;
    const auto facts = axis_facts(input.graph(), axes, tokens, stage.windows ? stage.windows->samples : 0);
    const auto gone = units_gone(axes, edits);
    whole.losses.clear();
    for (std::size_t i = 0; i < axes.size(); ++i)
        if (const auto found = gone.find(axes[i].name);
            found != gone.end() && axes[i].block < std::int64_t(whole.result.graph().blocks.size()))
            whole.losses.push_back({i, facts[i].unit_parameters, found->second});
    auto targets = targets_of(whole, axes, facts, input.graph());
    whole.by_axes = targets.has_value();
    if (!whole.by_axes && (stage.refit || stage.zeroed))
        bad_input(stage.method_id, ": ", stage.refit ? "refit = true" : "result = \"zeroed\"",
                  " is for heads and channels inside blocks, but what goes here is more than that (hidden channels or "
                  "whole layers); leave it out");
    stage.axes = targets ? std::move(*targets) : std::vector<AxisTarget>();
    stage.whole = std::make_shared<const ModelStage>(std::move(whole));
}

}  // namespace kerf::core
