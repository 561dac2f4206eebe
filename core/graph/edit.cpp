// SPDX-License-Identifier: Apache-2.0
#include "core/graph/edit.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/graph/pruned_ops.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

Shapes shapes_of(const Graph& graph) {
    Shapes shapes;
    for (auto& tensor : expected_tensors(graph)) shapes.emplace(tensor.name, std::move(tensor.shape));
    return shapes;
}

/// Units of a removal, ascending.
std::vector<std::int64_t> checked_units(const Axis& axis, const std::vector<std::int64_t>& units) {
    std::vector<std::int64_t> sorted = units;
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 0; i < sorted.size(); ++i) {
        if (sorted[i] < 0 || sorted[i] >= axis.size)
            bad_input(axis.name, ": there is no unit ", sorted[i], "; the axis has ", axis.size, ", numbered from 0");
        if (i > 0 && sorted[i] == sorted[i - 1]) bad_input(axis.name, ": unit ", sorted[i], " is named twice");
    }
    return sorted;
}

void check_removal(const Axis& axis, const std::vector<std::int64_t>& units) {
    if (!axis.fixed.empty() && !units.empty())
        bad_input(axis.name, ": nothing can be removed from this axis, because ", axis.fixed);
    const std::int64_t left = axis.size - std::int64_t(units.size());
    if (left < axis.keep)
        bad_input(axis.name, ": removing ", units.size(), " of ", axis.size, " units leaves ", left, ", at least ",
                  axis.keep, axis.kind == AxisKind::experts ? " are chosen for every token" : " must stay");
    if (axis.balanced <= 1) return;
    std::vector<std::int64_t> lost(std::size_t(axis.balanced), 0);
    for (const auto unit : units) ++lost[std::size_t(unit / (axis.size / axis.balanced))];
    for (std::size_t g = 1; g < lost.size(); ++g)
        if (lost[g] != lost[0])
            bad_input(axis.name, ": its ", axis.balanced, " groups of ", axis.size / axis.balanced,
                      " must lose equally many units, but group 0 loses ", lost[0], " and group ", g, " ", lost[g]);
}

/// The axis of every removal and its units, checked.
std::vector<std::pair<const Axis*, std::vector<std::int64_t>>> checked(const std::vector<Axis>& axes,
                                                                       std::span<const Removal> removals) {
    std::vector<std::pair<const Axis*, std::vector<std::int64_t>>> out;
    std::set<std::string> known;
    for (const auto& removal : removals) {
        const Axis& axis = axis_named(axes, removal.axis);
        if (!known.insert(axis.name).second) bad_input(axis.name, ": the axis is named twice");
        out.emplace_back(&axis, checked_units(axis, removal.units));
        check_removal(axis, out.back().second);
    }
    return out;
}

/// What the graph's tensors lose, from the places of the axes.
Cuts cuts_of(const Graph& graph, const std::vector<Axis>& axes, std::span<const Removal> removals) {
    Cuts cuts;
    const Shapes shapes = shapes_of(graph);
    for (const auto& [axis, units] : checked(axes, removals)) {
        for (const auto& place : axis->places) {
            const auto shape = shapes.find(place.tensor);
            if (shape == shapes.end() || shape->second[std::size_t(place.dimension)] != place.extent)
                internal_error(axis->name, ": an axis of another graph");
            Kept& kept = cuts.kept[{place.tensor, place.dimension}];
            if (kept.empty()) kept.assign(std::size_t(place.extent), true);
            for (const auto unit : units)
                for (const auto index : place.layout.indices(unit)) kept[std::size_t(index)] = false;
        }
        cuts.what += (cuts.what.empty() ? "" : ", ") + axis->name;
    }
    // Dimensions that lose nothing count as untouched.
    std::erase_if(cuts.kept, [](const auto& entry) {
        return std::find(entry.second.begin(), entry.second.end(), false) == entry.second.end();
    });
    return cuts;
}

std::vector<std::int64_t> indices_of(const Kept& kept) {
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < kept.size(); ++i)
        if (kept[i]) out.push_back(std::int64_t(i));
    return out;
}

/// Every tensor of the new graph, from the one of the old graph that it is cut from.
TensorEdits tensor_edits(const Graph& before, const Graph& after, const PrunedGraph& pruned, const Cuts& cuts) {
    TensorEdits out;
    const Shapes old_shapes = shapes_of(before);
    for (const auto& tensor : expected_tensors(after)) {
        const auto renamed = pruned.renamed.find(tensor.name);
        Selection selection;
        selection.source = renamed == pruned.renamed.end() ? tensor.name : renamed->second;
        const auto& old_shape = old_shapes.at(selection.source);
        for (std::size_t d = 0; d < old_shape.size(); ++d) {
            const auto found = cuts.kept.find({selection.source, int(d)});
            if (found == cuts.kept.end()) continue;
            selection.kept.resize(old_shape.size());
            selection.kept[d] = indices_of(found->second);
        }
        if (selected_shape(selection, old_shape) != tensor.shape)
            internal_error(tensor.name, ": the edited graph expects ", format_shape(tensor.shape), ", the cut gives ",
                           format_shape(selected_shape(selection, old_shape)));
        if (!selection.kept.empty() || selection.source != tensor.name)
            out.made.emplace(tensor.name, std::move(selection));
    }
    const Shapes new_shapes = shapes_of(after);
    for (const auto& [name, shape] : old_shapes)
        if (!new_shapes.contains(name)) out.dropped.push_back(name);
    return out;
}

const Op* linear_named(const Graph& graph, std::string_view name) {
    for (const auto* ops : all_ops(graph))
        for (const auto& op : *ops)
            if (op.kind == OpKind::linear && op.name == name) return &op;
    return nullptr;
}

/// A softmax term of e^(−1e30) is 0 in float32 and in bfloat16, whatever the other logits are.
constexpr float silent_logit = -1e30f;

/// Gives the router of an axis of experts a bias that keeps the units from being chosen.
void silence_experts(const Axis& axis, const std::vector<std::int64_t>& units, Edit& edit) {
    const Place& rows = *std::find_if(axis.places.begin(), axis.places.end(),
                                      [](const Place& place) { return place.role == Place::Role::output; });
    for (auto& block : edit.graph.blocks)
        for (auto& op : block.ops) {
            if (op.kind != OpKind::linear || op.name != rows.module) continue;
            Selection bias;
            if (op.bias.empty()) {
                op.bias = op.name + ".bias";
                bias.values = std::make_shared<const std::vector<float>>(std::size_t(op.rows), 0.0f);
            } else {
                bias.source = op.bias;
            }
            bias.fills.push_back({0, units, silent_logit});
            edit.tensors.made[op.bias] = std::move(bias);
        }
}

}  // namespace

void check_units(const Axis& axis, std::vector<std::int64_t>& units) {
    units = checked_units(axis, units);
    check_removal(axis, units);
}

Edit remove(const Graph& graph, const std::vector<Axis>& axes, std::span<const Removal> removals,
            RemoveOptions options) {
    Cuts cuts = cuts_of(graph, axes, removals);
    cuts.keep_divisor = options.keep_divisor;
    PrunedGraph pruned = pruned_graph(graph, cuts);
    // The edited graph passes the same checks as one that an adapter makes.
    Edit edit;
    edit.graph = parse_graph(graph_json(pruned.graph), text("removing from ", cuts.what));
    edit.tensors = tensor_edits(graph, edit.graph, pruned, cuts);
    return edit;
}

Edit zero(const Graph& graph, const std::vector<Axis>& axes, std::span<const Removal> removals) {
    Edit edit;
    edit.graph = graph;
    for (const auto& [axis, units] : checked(axes, removals)) {
        if (units.empty()) continue;
        if (axis->kind == AxisKind::experts) {
            silence_experts(*axis, units, edit);
            continue;
        }
        for (const auto& place : axis->places) {
            Selection& selection = edit.tensors.made[place.tensor];
            selection.source = place.tensor;
            Selection::Fill fill{place.dimension, {}, float(place.zero)};
            for (const auto unit : units)
                for (const auto index : place.layout.indices(unit)) fill.indices.push_back(index);
            std::sort(fill.indices.begin(), fill.indices.end());
            selection.fills.push_back(std::move(fill));
        }
    }
    return edit;
}

Edit keep_blocks(const Graph& graph, std::int64_t count) {
    const auto blocks = std::int64_t(graph.blocks.size());
    if (count < 1 || count > blocks)
        bad_input("a model of ", blocks, " layers cannot keep the first ", count, "; from 1 to ", blocks, " can stay");
    Edit out{graph, {}};
    out.graph.blocks.resize(std::size_t(count));
    return out;
}

Edit mask(const Graph& graph, std::string_view linear, const std::vector<bool>& keep) {
    const Op* op = linear_named(graph, linear);
    if (op == nullptr) bad_input("the model has no linear \"", linear, "\"; kerf inspect MODEL lists them");
    if (std::int64_t(keep.size()) != op->rows * op->columns)
        bad_input(linear, ": a mask of ", keep.size(), " elements for a weight of ",
                  format_shape({op->rows, op->columns}));
    auto stored = std::make_shared<std::vector<bool>>(keep);
    if (op->transposed)
        for (std::int64_t out = 0; out < op->rows; ++out)
            for (std::int64_t in = 0; in < op->columns; ++in)
                (*stored)[std::size_t(in * op->rows + out)] = keep[std::size_t(out * op->columns + in)];
    Edit edit;
    edit.graph = graph;
    Selection selection;
    selection.source = op->weight;
    selection.mask = std::move(stored);
    edit.tensors.made.emplace(op->weight, std::move(selection));
    return edit;
}

}  // namespace kerf::core
