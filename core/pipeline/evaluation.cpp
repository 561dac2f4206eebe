// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/evaluation.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "core/eval/evaluate.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

json perplexity_json(const Perplexity& figure) {
    return {{"value", figure.value},
            {"standard_error", figure.standard_error},
            {"tokens", figure.tokens},
            {"windows", figure.windows}};
}

void add_agreement(json& out, const std::string& name, const Agreement& agreement) {
    out["kl"][name] = agreement.kl;
    out["kl_standard_error"][name] = agreement.kl_standard_error;
    out["top1_agreement"][name] = agreement.top1;
}

Evaluated measured(const RunTools& tools, const Model& model, const Model* reference, const std::string& name,
                   const Windows& windows) {
    tools.meter.detail(name);
    const double flops_a_token = flops_of_a_step(model.graph(), windows.length);
    return evaluate(model, reference, windows, tools.recipe.model.compute, tools.folder, [&](std::int64_t tokens) {
        tools.meter.check_cancelled();
        tools.meter.add(double(tokens) * flops_a_token);
    });
}

void add_event(const RunTools& tools, const std::string& when, std::int64_t stage, const std::string& name,
               json figures) {
    figures["when"] = when;
    figures["text"] = name;
    if (stage >= 0) figures["stage"] = stage;
    tools.events.add("evaluated", std::move(figures));
}

}  // namespace

json perplexities(const RunTools& tools, const Model& model, const std::string& when, std::int64_t stage) {
    json out = json::object();
    for (const auto& [name, windows] : tools.prepared.evaluation) {
        const std::string kind = text(when, " ", name);
        if (!tools.journal.find(kind, stage, -1)) {
            const json figure = perplexity_json(measured(tools, model, nullptr, name, windows).model);
            tools.journal.add({{"kind", kind}, {"stage", stage}, {"figure", figure}});
            add_event(tools, when, stage, name, figure);
        }
        out[name] = (*tools.journal.find(kind, stage, -1))["figure"];
    }
    return out;
}

void evaluate_result(const RunTools& tools, const Model& result, json& report) {
    const Model* reference = tools.recipe.evaluation.kl ? &tools.prepared.model : nullptr;
    for (const auto& [name, windows] : tools.prepared.evaluation) {
        const Evaluated figures = measured(tools, result, reference, name, windows);
        json event = perplexity_json(figures.model);
        report["after"]["perplexity"][name] = event;
        if (reference) {
            report["before"]["perplexity"][name] = perplexity_json(figures.reference);
            add_agreement(report, name, figures.agreement);
            event["kl"] = figures.agreement.kl;
            event["top1_agreement"] = figures.agreement.top1;
        }
        add_event(tools, "after", -1, name, std::move(event));
    }
}

json evaluate_model(const EvalRequest& request, const Components& components, const Observer& observer) {
    initialise_execution();
    const auto started = std::chrono::steady_clock::now();
    const Model model = Model::open(request.model, components);
    std::optional<Model> reference;
    if (!request.reference.empty()) reference = Model::open(request.reference, components);
    std::unique_ptr<Tokenizer> tokenizer;
    json out{{"model", request.model.string()}, {"perplexity", json::object()}};
    for (const auto& spec : request.perplexity) {
        if (spec.text.source != "tokens" && !tokenizer) tokenizer = Tokenizer::open(model.folder());
        const Windows windows = evaluation_windows(spec.text, tokenizer.get(), model.graph().vocabulary);
        model.check_length(windows.length, spec.name);
        const double total =
            double(windows.samples * windows.length) * double(model.graph().blocks.size() + 1) * (reference ? 2 : 1);
        double done = 0;
        const Evaluated figures =
            evaluate(model, reference ? &*reference : nullptr, windows, request.compute,
                     std::filesystem::temp_directory_path(), [&](std::int64_t tokens) {
                         if (observer.cancelled && observer.cancelled()) throw Error(Fault::cancelled, "interrupted");
                         done += double(tokens);
                         if (observer.progress) observer.progress("evaluate", spec.name, std::min(done, total), total);
                     });
        out["perplexity"][spec.name] = perplexity_json(figures.model);
        if (!reference) continue;
        out["reference"][spec.name] = perplexity_json(figures.reference);
        add_agreement(out, spec.name, figures.agreement);
    }
    out["seconds"] = seconds_since(started);
    return out;
}

}  // namespace kerf::core
