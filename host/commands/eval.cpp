// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>

#include "core/pipeline/run.hpp"
#include "core/support/error.hpp"
#include "host/commands/commands.hpp"
#include "host/show.hpp"
#include "host/show_axes.hpp"

namespace kerf::host {
namespace {

using core::bad_input;
namespace fs = std::filesystem;

void refuse_tasks(const CommandLine& line) {
    for (const auto* option : {"tasks", "tasks-path"})
        if (line.has(option)) bad_input("--", option, " is not available in this version; leave it out");
}

/// What all --perplexity texts have in common.
core::TextSource source_of(const CommandLine& line) {
    const std::vector<std::string> known{"text", "jsonl", "json", "c4", "alpaca", "tokens"};
    core::TextSource out;
    out.source = line.text("source", line.has("tensor") ? "tokens" : "text");
    if (std::find(known.begin(), known.end(), out.source) == known.end())
        bad_input("--source ", out.source, ": one of text, jsonl, json, c4, alpaca and tokens is expected");
    const bool stored = out.source == "tokens";
    if (stored && !line.has("tensor")) bad_input("--source tokens needs --tensor NAME, the tensor to take");
    if (!stored && line.has("tensor")) bad_input("--tensor goes with --source tokens alone");
    out.tensor = line.text("tensor");
    out.field = line.text("field", "text");
    out.samples = line.integer("samples", 0).value_or(0);
    // Stored windows have a length; 0 takes it as it is.
    out.length = line.integer("length", stored ? 0 : 2).value_or(0);
    return out;
}

core::PerplexitySpec perplexity_of(const std::string& argument, const core::TextSource& common) {
    core::PerplexitySpec out{"", common};
    std::error_code ignored;
    const auto equals = argument.find('=');
    const bool named = equals != std::string::npos && equals > 0 && !fs::exists(argument, ignored);
    out.text.path = named ? argument.substr(equals + 1) : argument;
    if (out.text.path.empty()) bad_input("--perplexity ", argument, ": a file is expected");
    out.name = named ? argument.substr(0, equals) : out.text.path.stem().string();
    return out;
}

/// The usual 2048, or as much as the model has positions for.
std::int64_t usual_length(const fs::path& model, const core::Components& components) {
    constexpr std::int64_t usual = 2048;
    const auto positions = core::inspect_model(model, components).value("positions", std::int64_t{0});
    return positions > 0 ? std::min(usual, positions) : usual;
}

core::EvalRequest request_of(const CommandLine& line) {
    core::EvalRequest out;
    out.model = line.words().front();
    out.reference = line.text("reference");
    const auto dtype = line.text("compute-dtype", "float32");
    if (dtype != "float32" && dtype != "bfloat16")
        bad_input("--compute-dtype ", dtype, ": float32 or bfloat16 is expected");
    out.compute = dtype == "float32" ? core::DType::f32 : core::DType::bf16;
    const core::TextSource common = source_of(line);
    for (const auto& argument : line.list("perplexity")) {
        out.perplexity.push_back(perplexity_of(argument, common));
        for (std::size_t i = 0; i + 1 < out.perplexity.size(); ++i)
            if (out.perplexity[i].name == out.perplexity.back().name)
                bad_input("--perplexity: two texts are called ", out.perplexity[i].name, "; write NAME=FILE");
    }
    if (out.perplexity.empty()) bad_input("there is nothing to evaluate; give a text with --perplexity FILE");
    return out;
}

}  // namespace

int eval_command(const CommandLine& line, Console& console) {
    refuse_tasks(line);
    core::EvalRequest request = request_of(line);
    const Registry plugins = find_plugins(line);
    plugins.require_sound();
    use_threads(line);
    catch_stop_signals();
    const auto components = plugins.components();
    for (auto& spec : request.perplexity)
        if (spec.text.length == 0 && spec.text.source != "tokens")
            spec.text.length = usual_length(request.model, components);
    const auto result = core::evaluate_model(request, components, console.observer());
    console.clear();
    if (line.has("json"))
        write_json(result);
    else
        write_out(show_evaluation(result));
    return 0;
}

int inspect_command(const CommandLine& line, Console&) {
    const Registry plugins = find_plugins(line);
    plugins.require_sound();
    if (line.has("axes")) {
        const auto axes = core::inspect_axes(line.words().front(), plugins.components());
        if (line.has("json"))
            write_json(axes);
        else
            write_out(show_axes(axes));
        return 0;
    }
    const auto model =
        core::inspect_model(line.words().front(), plugins.components(), line.integer("length", 1).value_or(0));
    if (line.has("json"))
        write_json(model);
    else
        write_out(show_model(model));
    return 0;
}

}  // namespace kerf::host
