// SPDX-License-Identifier: Apache-2.0
#include "host/loader/trial.hpp"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/graph/axes.hpp"
#include "core/plugin_api/axis.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/job.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "core/support/text.hpp"
#include "host/loader/plugin.hpp"
#include "host/loader/trial_bases.hpp"

namespace kerf::host {
namespace {

using core::check_call;
using core::text;
using nlohmann::json;

// A layer as small as can be that still has several groups of 128 columns, a last one that is short, and rows that do
// not fill a vector register.
constexpr std::int64_t rows = 40, columns = 320, tokens = 1024;

/// Weights and a Gram matrix that are the same in every trial.
struct SampleLayer {
    std::vector<float> weight, gram;

    SampleLayer() : weight(rows * columns), gram(columns * columns) {
        for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = 0.1f * wave(i);
        // Diagonally dominant, so positive definite; unequal diagonal, so that column orders differ.
        for (std::int64_t i = 0; i < columns; ++i)
            for (std::int64_t j = 0; j < columns; ++j) {
                const auto near = std::exp(-0.1 * double(std::abs(i - j)));
                gram[std::size_t(i * columns + j)] =
                    float(near + (i == j ? 1.0 + 0.5 * std::abs(wave(std::size_t(i))) : 0.0));
            }
    }
    static float wave(std::size_t i) {
        return float(std::sin(0.7 * double(i)) + std::cos(0.013 * double(i * i % 1009)));
    }
};

class MethodTrial {
public:
    MethodTrial(const kerf_method& method, TrialReporter& reporter)
        : method_(method), reporter_(reporter), id_(method.id.data, method.id.size) {}

    void run() {
        begin("making an instance with the default options");
        const json options =
            core::validate_options({method_.options_schema.data, method_.options_schema.size}, json::object(), id_, {});
        if (!attempt([&](kerf_error* error) {
                return method_.create(core::host_table(), core::as_values(options), &self_, error);
            }))
            return;
        if (core::method_scope(method_) == KERF_SCOPE_LINEARS) {
            begin("asking what a layer costs");
            const auto cost = ask_cost();
            if (cost) try_compress(*cost);
        } else if (core::method_scope(method_) == KERF_SCOPE_BASES) {
            try_bases(method_, self_, id_, reporter_);
        } else {
            begin("asking what will go of an axis");
            const auto plan = ask_plan();
            if (plan && core::method_scope(method_) == KERF_SCOPE_AXES) try_prune(*plan);
        }
        begin("destroying the instance");
        method_.destroy(self_);
        method_.destroy(nullptr);
        if (core::plugin_allocations().live() != 0)
            problem(text("keeps ", core::plugin_allocations().live(), " bytes of the host's memory"));
    }

private:
    void begin(const char* step) { reporter_.begin(id_ + ": " + step); }
    void problem(const std::string& what) { reporter_.problem(id_ + ": " + what); }
    template <class Call>
    bool attempt(const Call& call) {
        try {
            check_call(id_, call);
            return true;
        } catch (const core::Error& error) {
            reporter_.problem(error.what());
        } catch (...) {
            problem("lets an exception out");
        }
        return false;
    }

    std::optional<kerf_cost> ask_cost() {
        const std::string name = "trial.layer";
        const kerf_linear_shape shape{sizeof(kerf_linear_shape), 0, rows, columns, tokens, {name.data(), name.size()}};
        kerf_cost cost{};
        cost.struct_size = sizeof(kerf_cost);
        if (!attempt([&](kerf_error* error) { return method_.cost(self_, &shape, &cost, error); })) return {};
        const std::string_view layout(cost.layout.data ? cost.layout.data : "", cost.layout.size);
        if (layout != "dense/1" && layout != "int-group/1")
            problem(text("announces the unknown layout \"", layout, "\""));
        if (!std::isfinite(cost.flops) || cost.flops < 0) problem(text("announces ", cost.flops, " FLOPs"));
        if (!std::isfinite(cost.bits_per_weight) || cost.bits_per_weight < 0)
            problem(text("announces ", cost.bits_per_weight, " bits per weight"));
        return cost;
    }

    void describe(kerf_layer& layer, core::Curvature& curvature) const {
        layer.name = "trial.layer";
        layer.out = rows;
        layer.in = columns;
        layer.weight = sample_.weight.data();
        if (method_.needs != 0) layer.curvature = &curvature;
    }

    /// What the method says that it needs, and no more.
    core::Curvature sample_curvature() const {
        core::InputMoments moments;
        if (method_.needs & KERF_NEEDS_INPUT_GRAM)
            moments.gram = sample_.gram;
        else
            for (std::int64_t j = 0; j < columns; ++j)
                moments.diagonal.push_back(sample_.gram[std::size_t(j * columns + j)]);
        if (method_.needs & KERF_NEEDS_INPUT_MEAN) moments.mean.resize(std::size_t(columns));
        if (method_.needs & KERF_NEEDS_DENSE_GRAM) moments.dense_gram = sample_.gram;
        return {"trial.layer input", columns, tokens, std::move(moments)};
    }

    std::optional<core::Replacement> compress(int threads, const kerf_cost& cost) {
        core::set_threads(threads);
        core::Curvature curvature = sample_curvature();
        kerf_layer layer;
        describe(layer, curvature);
        kerf_job job;
        if (!attempt([&](kerf_error* error) { return method_.compress(self_, &job, &layer, error); })) return {};
        if (job.memory.live() != 0) problem(text("did not give ", job.memory.live(), " bytes back after a layer"));
        if (job.memory.peak() > cost.scratch_bytes)
            problem(text("held ", job.memory.peak(), " bytes of scratch, cost() announced ", cost.scratch_bytes));
        if (!layer.replacement)
            problem("ended without replacing the layer");
        else if (layer.replacement->layout != std::string_view(cost.layout.data, cost.layout.size))
            problem(text("gave the layout ", layer.replacement->layout, ", cost() announced ",
                         std::string_view(cost.layout.data, cost.layout.size)));
        return layer.replacement;
    }

    void try_compress(const kerf_cost& cost) {
        begin("compressing a layer");
        const auto first = compress(1, cost);
        if (!first) return;
        begin("compressing it again on 3 threads");
        const auto second = compress(3, cost);
        core::set_threads(1);
        if (second && second->to_dense() != first->to_dense()) problem("gives other bytes on 3 threads than on 1");
    }

    /// An MLP's width, read by the sample layer.
    static core::Axis sample_axis() {
        core::Axis axis;
        axis.name = "trial.mlp";
        axis.kind = core::AxisKind::mlp;
        axis.size = columns;
        axis.block = 0;
        std::vector<std::int32_t> own(columns);
        for (std::size_t u = 0; u < own.size(); ++u) own[u] = std::int32_t(u);
        for (const bool reads : {false, true}) {
            core::Place place;
            place.role = reads ? core::Place::Role::input : core::Place::Role::output;
            place.dimension = reads ? 1 : 0;
            place.module = reads ? "trial.layer" : "trial.maker";
            place.tensor = place.module + ".weight";
            place.extent = columns;
            place.layout = core::Layout(own, columns);
            axis.places.push_back(std::move(place));
        }
        return axis;
    }
    static core::AxisFacts sample_facts() { return {columns, rows, 2 * rows, 2 * rows * columns, 1, tokens}; }

    std::optional<kerf_axis_plan> ask_plan() {
        const core::Axis axis = sample_axis();
        const kerf_axis_shape shape = core::axis_shape(axis, sample_facts(), -1);
        kerf_axis_plan plan = core::blank_plan();
        const kerf_axis_shape* shapes[] = {&shape};
        kerf_axis_plan* plans[] = {&plan};
        if (!attempt([&](kerf_error* error) { return method_.plan_axes(self_, shapes, 1, plans, error); })) return {};
        if (plan.remove < -1 || plan.remove >= columns)
            problem(text("plans to remove ", plan.remove, " of ", columns, " units"));
        if (!std::isfinite(plan.flops) || plan.flops < 0) problem(text("announces ", plan.flops, " FLOPs"));
        return plan;
    }

    struct Pruned {
        std::vector<std::int64_t> removed;
        std::vector<float> weight;
        bool operator==(const Pruned&) const = default;
    };
    std::optional<Pruned> prune(int threads, const kerf_axis_plan& plan) {
        core::set_threads(threads);
        core::Curvature curvature = sample_curvature();
        kerf_layer layer;
        describe(layer, curvature);
        const core::Axis axis = sample_axis();
        const auto read = [&](const core::Place& place) -> core::PlaceValues {
            if (place.role == core::Place::Role::input) return {sample_.weight, {rows, columns}};
            return {sample_.weight, {columns, rows}};
        };
        kerf_axis handle(axis, sample_facts(), plan.remove, read, std::make_shared<core::PlaceValues>());
        handle.layers[1] = &layer;
        kerf_job job;
        if (!attempt([&](kerf_error* error) { return method_.prune_axis(self_, &job, &handle, error); })) return {};
        if (job.memory.live() != 0) problem(text("did not give ", job.memory.live(), " bytes back after an axis"));
        if (job.memory.peak() > plan.scratch_bytes)
            problem(text("held ", job.memory.peak(), " bytes of scratch, the plan announced ", plan.scratch_bytes));
        if (!handle.removed) {
            problem("ended without calling remove()");
            return {};
        }
        if (plan.exact && std::int64_t(handle.removed->size()) != plan.remove)
            problem(text("removed ", handle.removed->size(), " units, the plan announced ", plan.remove));
        return Pruned{*handle.removed, layer.replacement ? layer.replacement->to_dense() : std::vector<float>()};
    }

    std::optional<core::AxisCurve> survey(int threads, const kerf_axis_plan& plan) {
        core::set_threads(threads);
        core::Curvature curvature = sample_curvature();
        kerf_layer layer;
        describe(layer, curvature);
        const core::Axis axis = sample_axis();
        kerf_axis handle(
            axis, sample_facts(), plan.remove, [](const core::Place&) { return core::PlaceValues{}; },
            std::make_shared<core::PlaceValues>());
        handle.layers[1] = &layer;
        kerf_job job;
        core::AxisCurve out;
        if (!attempt([&](kerf_error* error) {
                return method_.survey_axis(self_, &job, &handle, core::take_curve, &out, error);
            }))
            return {};
        if (job.memory.peak() > plan.survey_bytes)
            problem(text("held ", job.memory.peak(), " bytes of scratch in its survey, the plan announced ",
                         plan.survey_bytes));
        if (handle.removed || layer.replacement) problem("removed or replaced something in its survey");
        return out;
    }

    void try_survey(const kerf_axis_plan& plan) {
        begin("surveying an axis");
        if (!KERF_HAS(kerf_method, &method_, survey_axis) || !KERF_HAS(kerf_method, &method_, allocate_axes))
            return problem("plans a survey, but has no survey_axis() and allocate_axes()");
        const auto first = survey(1, plan);
        if (first && survey(3, plan) != first) problem("says something else on 3 threads than on 1");
        core::set_threads(1);
    }

    void try_prune(const kerf_axis_plan& plan) {
        if (plan.remove < 0) return;
        if (plan.survey) try_survey(plan);
        begin("pruning an axis");
        const auto first = prune(1, plan);
        if (!first) return;
        begin("pruning it again on 3 threads");
        const auto second = prune(3, plan);
        core::set_threads(1);
        if (second && !(*second == *first)) problem("gives another result on 3 threads than on 1");
    }

    const kerf_method& method_;
    TrialReporter& reporter_;
    std::string id_;
    void* self_ = nullptr;
    SampleLayer sample_;
};

void try_adapter(const kerf_adapter& adapter, TrialReporter& reporter) {
    const std::string id(adapter.id.data, adapter.id.size);
    const json foreign{{"model_type", "no-such-family"}, {"hidden_size", 64}}, empty = json::object();
    for (const json* config : {&foreign, &empty}) {
        reporter.begin(text(id, ": showing it ", config == &empty ? "an empty config.json" : "a foreign config.json"));
        std::int32_t yes = 0;
        try {
            check_call(id, [&](kerf_error* error) {
                return adapter.accepts(core::host_table(), core::as_values(*config), &yes, error);
            });
        } catch (const core::Error&) {
            continue;  // saying why not is as good as saying no
        }
        if (yes)
            reporter.problem(
                text(id, ": accepts ", config == &empty ? "an empty config.json" : "a model_type that does not exist"));
    }
}

}  // namespace

void try_plugin(const std::filesystem::path& file, TrialReporter& reporter) {
    reporter.begin("loading it and reading its tables");
    const auto plugin = load_plugin(file);
    for (const auto* method : plugin.methods) MethodTrial(*method, reporter).run();
    for (const auto* adapter : plugin.adapters) try_adapter(*adapter, reporter);
}

}  // namespace kerf::host
