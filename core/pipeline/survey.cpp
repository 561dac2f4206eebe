// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/survey.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <span>

#include "core/eval/evaluate.hpp"
#include "core/pipeline/block_runner.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;
constexpr const char* kind = "survey";

/// One over the mean of 1 / ‖x‖² over the tokens. The sums of units are added in order.
double stream_size(const Units& units, const States& states) {
    std::vector<double> sums(std::size_t(units.count()));
    const std::int64_t n = states.features("x");
    parallel_for(units.count(), 1, [&](std::int64_t unit, std::int64_t) {
        const Value value = states.get("x", unit);
        std::vector<float> widened;
        const std::span<const float> x = value.floats(widened);
        for (auto row = x.begin(); row != x.end(); row += n) {
            const double square = std::inner_product(row, row + n, row, 0.0);
            if (square > 0) sums[std::size_t(unit)] += 1 / square;
        }
    });
    const double sum = std::accumulate(sums.begin(), sums.end(), 0.0);
    return sum > 0 ? double(units.tokens()) / sum : 0.0;
}

class Survey {
public:
    Survey(const RunTools& tools, std::size_t index, const Stage& stage, const Model& input)
        : tools_(tools),
          index_(std::int64_t(index)),
          stage_(stage),
          input_(input),
          layout_(layout_of(tools.recipe, tools.prepared, index, input)) {}

    void run() {
        const std::size_t last = stage_.last_block();
        if (is_done(last)) return;  // they are done in order
        const DType compute = tools_.recipe.model.compute;
        const Units units(*stage_.windows);
        States states(units, tools_.folder, compute);
        embed_all(input_, units, compute, states);
        for (std::size_t block = 0; block <= last; ++block) {
            tools_.meter.check_cancelled();
            input_.prefetch(block + 1);
            if (is_done(block))
                run_block(input_, block, units, compute, states, {});
            else
                ask(block, units, states, block == last);
        }
    }

private:
    bool is_done(std::size_t block) const { return tools_.journal.find(kind, index_, std::int64_t(block)) != nullptr; }

    void ask(std::size_t block, const Units& units, States& states, bool last) {
        const double stream = stream_size(units, states);
        json curves = json::object();
        const auto log = [this](int level, const std::string& message) { tools_.meter.log(level, message); };
        const BlockRunner::Hooks hooks{
            .made = {},
            .pruned = {},
            .progress = [this](double flops) { tools_.meter.add(flops); },
            .log = log,
            .check_cancelled = [this] { tools_.meter.check_cancelled(); },
            .survey =
                [&](const AxisTarget& asked, Curvature& curvature) {
                    AxisTarget target = asked;
                    target.facts.stream = stream;
                    tools_.meter.detail(target.axis->name);
                    const AxisCurve curve = survey_axis(input_, target, curvature, log);
                    curves[target.axis->name] = {{"units", curve.units}, {"costs", curve.costs}};
                    tools_.meter.add(target.flops);
                }};
        BlockRunner(input_, stage_, block, layout_, hooks)
            .run(units, states, nullptr, tools_.recipe.model.compute, last);
        tools_.journal.add(
            {{"kind", kind}, {"stage", index_}, {"block", block}, {"block_runs", 1}, {"curves", curves}});
    }

    const RunTools& tools_;
    std::int64_t index_;
    const Stage& stage_;
    const Model& input_;
    OutputLayout layout_;
};

/// By axis.
std::map<std::string, AxisCurve> curves_of(const Journal& journal, std::size_t index) {
    std::map<std::string, AxisCurve> out;
    for (const auto* entry : journal.of_stage(kind, std::int64_t(index)))
        for (const auto& [axis, curve] : entry->at("curves").items())
            out[axis] = {curve["units"].get<std::vector<std::int64_t>>(), curve["costs"].get<std::vector<double>>()};
    return out;
}

AxisTarget* target_of(Stage& stage, const std::string& axis) {
    const auto found = std::find_if(stage.axes.begin(), stage.axes.end(),
                                    [&](const AxisTarget& target) { return target.axis->name == axis; });
    return found == stage.axes.end() ? nullptr : &*found;
}

}  // namespace

Stage survey_of(const Stage& stage) {
    Stage out = stage;
    std::erase_if(out.axes, [](const AxisTarget& target) { return !target.surveyed; });
    for (auto& target : out.axes) {
        target.scratch_bytes = target.survey_bytes;
        target.flops = target.survey_flops;
        target.surveyed = false;
    }
    out.sequential = Sequential::group;
    out.dense_stream = out.refit = false;
    return out;
}

void survey(const RunTools& tools, std::size_t index, Stage& stage, const Model& input) {
    tools.meter.phase(stage.method_id + " survey");
    Survey(tools, index, survey_of(stage), input).run();
    const auto known = curves_of(tools.journal, index);
    std::vector<kerf_axis_shape> shapes;
    std::vector<const AxisCurve*> curves;
    const auto facts = axis_facts(input.graph(), *stage.all_axes, stage.windows->samples * stage.windows->length,
                                  stage.windows->samples);
    for (const std::size_t i : stage.offered) {
        const Axis& axis = (*stage.all_axes)[i];
        const AxisTarget* target = target_of(stage, axis.name);
        shapes.push_back(axis_shape(axis, facts[i], target ? target->remove : -1));
        curves.push_back(target && target->surveyed ? &known.at(axis.name) : nullptr);
    }
    const std::vector<std::int64_t> remove = stage.own->allocate(shapes, curves);
    json counts = json::object();
    for (std::size_t k = 0; k < remove.size(); ++k) {
        if (!curves[k]) continue;
        AxisTarget& target = *target_of(stage, (*stage.all_axes)[stage.offered[k]].name);
        const auto point = std::find(curves[k]->units.begin(), curves[k]->units.end(), remove[k]);
        if (point == curves[k]->units.end())
            throw Error(Fault::internal, text(target.axis->name, ": ", stage.method_id, " chose to remove ", remove[k],
                                              " units, of which its survey said nothing"));
        check_count(stage.method_id, *target.axis, remove[k], "chose to remove");
        target.remove = remove[k];
        target.cost = curves[k]->costs[std::size_t(point - curves[k]->units.begin())];
        counts[target.axis->name] = {{"removed", target.remove}, {"cost", target.cost}};
    }
    tools.events.add(kind, {{"stage", index}, {"axes", counts}});
}

}  // namespace kerf::core
