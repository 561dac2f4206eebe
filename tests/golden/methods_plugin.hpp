// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dlfcn.h>

#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/curvature/gram.hpp"
#include "core/plugin_api/axis.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/job.hpp"
#include "methods_case.hpp"

namespace kerf::test {

inline Owned<float> normal_weight(Shape shape, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    Owned<float> w(shape);
    for (auto& x : w.data) x = 0.02f * normal(random);
    return w;
}

/// H of inputs x_c = y_c + ½ x_{c−1}: full, positive definite.
inline Owned<float> chained_gram(std::int64_t columns) {
    Owned<float> h({columns, columns});
    for (std::int64_t i = 0; i < columns; ++i)
        for (std::int64_t j = 0; j < columns; ++j)
            h(i, j) =
                static_cast<float>((1 + i % 5) * (1 + j % 5)) * std::pow(0.5f, static_cast<float>(std::abs(i - j)));
    return h;
}

/// What one call of compress() left behind.
struct Compressed {
    core::Replacement replacement;
    std::vector<float> dense;
    std::map<std::string, double> metrics;
    std::uint64_t peak_bytes = 0;
};

/// A method with its options set.
class Instance {
public:
    Instance(const kerf_method* method, const nlohmann::json& given) : method_(method) {
        const std::string schema(method->options_schema.data, method->options_schema.size);
        const std::string id(method->id.data, method->id.size);
        const auto options = core::validate_options(schema, given, id, {});
        void* self = nullptr;
        core::check_call(
            id, [&](kerf_error* e) { return method->create(core::host_table(), core::as_values(options), &self, e); });
        self_ = {self, method->destroy};
    }
    kerf_cost cost(Shape shape) const {
        kerf_linear_shape ask{};
        ask.struct_size = sizeof(ask);
        ask.out_features = shape.rows;
        ask.in_features = shape.columns;
        kerf_cost cost{};
        cost.struct_size = sizeof(cost);
        core::check_call("cost", [&](kerf_error* e) { return method_->cost(self_.get(), &ask, &cost, e); });
        return cost;
    }
    Compressed compress(const Owned<float>& weight, const Owned<float>* gram) const {
        std::unique_ptr<core::Curvature> curvature;
        if (gram) curvature = std::make_unique<core::Curvature>("the input", gram->shape.rows, 512, gram->data);
        return compress_with(weight, curvature.get());
    }
    Compressed compress_with(const Owned<float>& weight, core::Curvature* curvature) const {
        kerf_layer layer;
        layer.name = "layer";
        layer.out = weight.shape.rows;
        layer.in = weight.shape.columns;
        layer.weight = weight.data.data();
        layer.curvature = curvature;
        kerf_job job;
        core::check_call("compress", [&](kerf_error* e) { return method_->compress(self_.get(), &job, &layer, e); });
        if (!layer.replacement) throw std::runtime_error("the method replaced nothing");
        Compressed out{*layer.replacement,
                       layer.replacement->dense() ? layer.replacement->weight : layer.replacement->to_dense(),
                       job.metrics, job.memory.peak()};
        if (job.memory.live() != 0) throw std::runtime_error("the method kept memory of its job");
        return out;
    }

    void prune(kerf_job* job, kerf_axis* axis) const {
        core::check_call("prune", [&](kerf_error* e) { return method_->prune_axis(self_.get(), job, axis, e); });
    }
    core::AxisCurve survey(kerf_job* job, kerf_axis* axis) const {
        core::AxisCurve out;
        core::check_call("survey", [&](kerf_error* e) {
            return method_->survey_axis(self_.get(), job, axis, core::take_curve, &out, e);
        });
        return out;
    }
    std::vector<kerf_axis_plan> plan(const std::vector<kerf_axis_shape>& axes) const {
        std::vector<kerf_axis_plan> plans(axes.size(), core::blank_plan());
        std::vector<const kerf_axis_shape*> asked;
        std::vector<kerf_axis_plan*> answers;
        for (std::size_t i = 0; i < axes.size(); ++i) {
            asked.push_back(&axes[i]);
            answers.push_back(&plans[i]);
        }
        core::check_call("plan", [&](kerf_error* e) {
            return method_->plan_axes(self_.get(), asked.data(), asked.size(), answers.data(), e);
        });
        return plans;
    }

private:
    const kerf_method* method_;
    std::unique_ptr<void, void (*)(void*)> self_{nullptr, nullptr};
};

/// A plugin as it is built, without the host's loader. Never unloaded, as in the host.
class Plugin {
public:
    explicit Plugin(const std::string& name) {
        const std::string file = KERF_BUILD "/lib/kerf/kerf-" + name + ".so";
        void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) throw std::runtime_error(dlerror());
        const auto entry = reinterpret_cast<kerf_plugin_entry_fn>(dlsym(library, KERF_ENTRY_NAME));
        kerf_plugin table{};
        table.struct_size = sizeof(table);
        table.abi = KERF_ABI_VERSION;
        core::check_call(name, [&](kerf_error* e) { return entry(core::host_table(), &table, e); });
        method_ = table.methods[0];
    }
    Instance make(const nlohmann::json& options) const { return {method_, options}; }
    const kerf_method* table() const { return method_; }

private:
    const kerf_method* method_ = nullptr;
};

}  // namespace kerf::test
