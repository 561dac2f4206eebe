// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/structure.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>
#include <set>

#include "core/curvature/refit.hpp"
#include "core/pipeline/basis_stage.hpp"
#include "core/pipeline/model_stage.hpp"
#include "core/plugin_api/job.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "core/support/transpose.hpp"

namespace kerf::core {

std::vector<bool> columns_lost(const Axis& axis, const std::vector<std::int64_t>& units, const std::string& module,
                               std::int64_t columns) {
    std::vector<bool> lost(static_cast<std::size_t>(columns), false);
    for (const auto& place : axis.places) {
        if (place.role != Place::Role::input || place.module != module) continue;
        for (const auto unit : units)
            for (const auto index : place.layout.indices(unit)) lost[std::size_t(index)] = true;
    }
    return lost;
}

namespace {

PlaceValues place_values(const Model& model, const Graph& graph, const Place& place) {
    if (place.role == Place::Role::input || place.role == Place::Role::output)
        for (const auto& block : graph.blocks)
            for (const auto& op : block.ops)
                if (op.kind == OpKind::linear && op.name == place.module)
                    return {linear_weight(model.source(), op), {op.rows, op.columns}};
    return {model.source().whole(place.tensor), model.tensor(place.tensor).shape};
}

void zero_columns(std::vector<float>& weight, const std::vector<bool>& lost) {
    std::vector<std::size_t> columns;
    for (std::size_t c = 0; c < lost.size(); ++c)
        if (lost[c]) columns.push_back(c);
    for (std::size_t row = 0; row < weight.size(); row += lost.size())
        for (const auto c : columns) weight[row + c] = 0;
}

/// In pieces with a sum of their own each, which are added in order.
double squared_norm(const std::vector<float>& values) {
    constexpr std::int64_t grain = 1 << 15, lanes = 8;
    const auto size = std::int64_t(values.size());
    std::vector<double> parts(std::size_t((size + grain - 1) / grain));
    parallel_for(size, grain, [&](std::int64_t lo, std::int64_t hi) {
        std::array<double, lanes> sums{};  // one alone would wait for itself at every step
        for (std::int64_t i = lo; i < hi; ++i) {
            const double x = double(values[std::size_t(i)]);
            sums[std::size_t((i - lo) % lanes)] += x * x;
        }
        parts[std::size_t(lo / grain)] = std::accumulate(sums.begin(), sums.end(), 0.0);
    });
    return std::accumulate(parts.begin(), parts.end(), 0.0);
}

/// The layers that a method sees of one axis, each with its weight.
struct Hand {
    std::vector<std::vector<float>> weights;
    std::vector<std::unique_ptr<kerf_layer>> layers;
};

Hand take_consumers(const Model& model, const AxisTarget& target, const std::vector<Op>& ops, Curvature* curvature) {
    Hand hand;
    hand.weights.reserve(target.consumers.size());
    for (const std::size_t index : target.consumers) {
        const Op& op = ops[index];
        hand.weights.push_back(linear_weight(model.source(), op));
        auto layer = std::make_unique<kerf_layer>();
        layer->name = op.name;
        layer->out = op.rows;
        layer->in = op.columns;
        layer->weight = hand.weights.back().data();
        layer->curvature = curvature;
        layer->takes_bias_shift = !op.bias.empty();
        hand.layers.push_back(std::move(layer));
    }
    return hand;
}

void refit(const Stage& stage, const Op& op, const Curvature& curvature, const std::vector<bool>& lost,
           const std::vector<float>& before, PrunedConsumer& made,
           const std::function<void(int, const std::string&)>& log) {
    std::vector<std::int64_t> kept;
    for (std::size_t i = 0; i < lost.size(); ++i)
        if (!lost[i]) kept.push_back(std::int64_t(i));
    Refit fitted = refit_columns(curvature, before, op.rows, kept, stage.refit_damp);
    made.weight = std::move(fitted.weight);
    made.metrics["damp"] = fitted.damp;
    if (fitted.attempts > 1 && log)
        log(KERF_LOG_WARN,
            text(op.name, ": the Gram matrix was not positive definite with refit_damp = ", stage.refit_damp, "; ",
                 fitted.damp, " was used (more calibration tokens usually cure it)"));
}

void take_replacement(const Model& model, const Op& op, const Replacement& replacement, PrunedConsumer& made) {
    made.weight = replacement.to_dense();
    if (replacement.bias_shift.empty()) return;
    made.bias = model.source().whole(op.bias);
    for (std::size_t r = 0; r < made.bias.size(); ++r) made.bias[r] += replacement.bias_shift[r];
}

/// An axis as a method is handed it.
std::unique_ptr<kerf_axis> handle_of(const Model& model, const AxisTarget& target, const Hand& hand) {
    const Axis& axis = *target.axis;
    auto handle = std::make_unique<kerf_axis>(
        axis, target.facts, target.remove,
        [&model](const Place& place) { return place_values(model, model.graph(), place); },
        std::make_shared<PlaceValues>());
    for (std::size_t p = 0; p < axis.places.size(); ++p)
        for (const auto& layer : hand.layers)
            if (axis.places[p].role == Place::Role::input && axis.places[p].module == layer->name)
                handle->layers[p] = layer.get();
    return handle;
}

/// Has the method choose.
std::vector<std::int64_t> chosen_units(const Model& model, const AxisTarget& target, const Hand& hand, kerf_job& job) {
    const auto made = handle_of(model, target, hand);
    kerf_axis& handle = *made;
    target.method->prune(&job, &handle);
    if (!handle.removed || std::int64_t(handle.removed->size()) != target.remove)
        throw Error(Fault::internal,
                    text(target.axis->name, ": ", target.method->method().id, " planned to remove ", target.remove,
                         " units and removed ", handle.removed ? handle.removed->size() : 0));
    return *handle.removed;
}

}  // namespace

double relative_error(const std::vector<float>& before, const std::vector<float>& after, std::int64_t rows,
                      const Curvature* curvature) {
    constexpr std::int64_t grain = 1 << 16;
    std::vector<float> difference(before.size());
    parallel_for(std::int64_t(before.size()), grain, [&](std::int64_t lo, std::int64_t hi) {
        for (auto i = std::size_t(lo); i < std::size_t(hi); ++i) difference[i] = before[i] - after[i];
    });
    const auto size_of = [&](const std::vector<float>& values) {
        return curvature ? curvature->quadratic(values.data(), rows) : squared_norm(values);
    };
    const double error = size_of(difference), whole = size_of(before);
    return whole > 0 ? error / whole : 0.0;
}

std::vector<std::int64_t> last_units(const Axis& axis, std::int64_t count) {
    const std::int64_t runs = std::max<std::int64_t>(1, axis.balanced), each = axis.size / runs;
    std::vector<std::int64_t> out;
    for (std::int64_t r = 0; r < runs; ++r)
        for (std::int64_t u = each - count / runs; u < each; ++u) out.push_back(r * each + u);
    return out;
}

Pruned prune_axis(const Model& model, const Stage& stage, const AxisTarget& target, Curvature* curvature,
                  const std::function<void(int level, const std::string&)>& log) {
    const auto started = std::chrono::steady_clock::now();
    const auto& ops = model.graph().blocks[target.block].ops;
    const Axis& axis = *target.axis;
    Pruned out;
    if (target.remove == 0) return out;
    Hand hand = take_consumers(model, target, ops, curvature);
    kerf_job job;
    job.log = log;
    out.units = target.units ? *target.units : chosen_units(model, target, hand, job);
    for (std::size_t i = 0; i < hand.layers.size(); ++i) {
        const Op& op = ops[target.consumers[i]];
        PrunedConsumer made{target.consumers[i], {}, {}, job.metrics};
        const auto lost = columns_lost(axis, out.units, op.name, op.columns);
        if (stage.refit) {
            refit(stage, op, *curvature, lost, hand.weights[i], made, log);
            if (hand.layers[i]->replacement && !hand.layers[i]->replacement->bias_shift.empty() && log)
                log(KERF_LOG_WARN, text(op.name, ": refit = true fits the weight anew, and the bias that ",
                                        target.method->method().id, " fitted is left out"));
        } else if (hand.layers[i]->replacement)
            take_replacement(model, op, *hand.layers[i]->replacement, made);
        else
            made.weight = hand.weights[i];
        zero_columns(made.weight, lost);
        made.metrics["error"] = relative_error(hand.weights[i], made.weight, op.rows, curvature);
        if (curvature) made.metrics["tokens"] = double(curvature->tokens());
        made.metrics["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
        out.consumers.push_back(std::move(made));
    }
    return out;
}

AxisCurve survey_axis(const Model& model, const AxisTarget& target, Curvature& curvature,
                      const std::function<void(int level, const std::string&)>& log) {
    const Hand hand = take_consumers(model, target, model.graph().blocks[target.block].ops, &curvature);
    const auto handle = handle_of(model, target, hand);
    kerf_job job;
    job.log = log;
    AxisCurve curve = target.method->survey(&job, handle.get());
    const bool replaced = std::any_of(hand.layers.begin(), hand.layers.end(),
                                      [](const auto& layer) { return layer->replacement.has_value(); });
    if (handle->removed || replaced)
        throw Error(Fault::internal, text(target.axis->name, ": ", target.method->method().id,
                                          " removed or replaced something in a survey, where all stays"));
    return curve;
}

Model planned_result(const Model& model, const Stage& stage) {
    if (stage.bases) return stage.bases->result;
    if (stage.whole && !stage.whole->by_axes) return stage.whole->result;
    if (!stage.structural || stage.zeroed) return model;
    std::vector<Removal> removals;
    for (const auto& target : stage.axes)
        if (target.remove > 0)
            removals.push_back(
                {target.axis->name, target.units ? *target.units : last_units(*target.axis, target.remove)});
    return removals.empty() ? model : model.edited(remove(model.graph(), *stage.all_axes, removals));
}

void PrunedParts::add(const Model& model, const AxisTarget& target, Pruned&& pruned) {
    if (pruned.units.empty()) return;
    removals.push_back({target.axis->name, std::move(pruned.units)});
    for (auto& consumer : pruned.consumers) {
        const Op& op = model.graph().blocks[target.block].ops[consumer.op];
        weights[op.weight] = std::make_shared<const std::vector<float>>(
            op.transposed ? transposed(consumer.weight, op.rows, op.columns) : std::move(consumer.weight));
        if (!consumer.bias.empty())
            weights[op.bias] = std::make_shared<const std::vector<float>>(std::move(consumer.bias));
    }
}

Model pruned_model(const Model& model, const Stage& stage, const PrunedParts& parts) {
    if (parts.removals.empty()) return model;
    Edit edit;
    if (stage.zeroed)
        edit.graph = model.graph();
    else
        edit = remove(model.graph(), *stage.all_axes, parts.removals);
    for (const auto& [name, values] : parts.weights) {
        Selection& selection = edit.tensors.made[name];
        selection.source = name;
        selection.values = values;
    }
    return model.edited(edit);
}

Model streamed_model(const Model& model, const Stage& stage, std::size_t block, const std::vector<Removal>& removals,
                     const Checkpoint& written) {
    // What is kept of each tensor, as the file holds it.
    Edit cut;
    if (!stage.zeroed && !removals.empty()) cut = remove(model.graph(), *stage.all_axes, removals);
    Edit edit;
    edit.graph = model.graph();
    for (const AxisTarget* target : stage.axes_in_block(block)) {
        if (target->remove == 0) continue;
        for (const auto index : target->consumers) {
            const Op& op = model.graph().blocks[block].ops[index];
            const std::int64_t rows = op.transposed ? op.columns : op.rows,
                               columns = op.transposed ? op.rows : op.columns;
            const std::vector<float> small = written.read(model.stored_name(op.weight));
            std::vector<std::vector<std::int64_t>> kept(2);
            if (const auto at = cut.tensors.made.find(op.weight); at != cut.tensors.made.end()) kept = at->second.kept;
            kept.resize(2);
            for (const std::size_t d : {0, 1}) {
                if (!kept[d].empty()) continue;
                kept[d].resize(std::size_t(d == 0 ? rows : columns));
                std::iota(kept[d].begin(), kept[d].end(), 0);
            }
            std::vector<float> full(std::size_t(rows * columns), 0.0f);
            std::size_t from = 0;
            for (const auto r : kept[0])
                for (const auto c : kept[1]) full[std::size_t(r * columns + c)] = small[from++];
            Selection& selection = edit.tensors.made[op.weight];
            selection.source = op.weight;
            selection.values = std::make_shared<const std::vector<float>>(std::move(full));
            if (op.bias.empty() || cut.tensors.made.contains(op.bias)) continue;
            Selection& bias = edit.tensors.made[op.bias];
            bias.source = op.bias;
            bias.values = std::make_shared<const std::vector<float>>(written.read(model.stored_name(op.bias)));
        }
    }
    return model.edited(edit);
}

nlohmann::json removals_json(const std::vector<Removal>& removals) {
    nlohmann::json out = nlohmann::json::object();
    for (const auto& removal : removals) out[removal.axis] = removal.units;
    return out;
}

std::vector<Removal> removals_from(const nlohmann::json& entry) {
    std::vector<Removal> out;
    const nlohmann::json removed = entry.value("removed", nlohmann::json::object());
    for (const auto& [axis, units] : removed.items()) out.push_back({axis, units.get<std::vector<std::int64_t>>()});
    return out;
}

}  // namespace kerf::core
