// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <fstream>
#include <set>

#include "core/curvature/moments.hpp"
#include "core/graph/cost.hpp"
#include "core/linalg/linalg.hpp"
#include "core/pipeline/basis_stage.hpp"
#include "core/pipeline/block_runner.hpp"
#include "core/pipeline/model_stage.hpp"
#include "core/pipeline/prepared.hpp"
#include "core/pipeline/stream_pass.hpp"
#include "core/pipeline/survey.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

std::uint64_t status_line(const char* key) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with(key)) return std::stoull(line.substr(std::string_view(key).size())) * 1024;
    return 0;
}

/// FLOPs of one stage: forward passes, Grams, factors, and the method itself.
double stage_flops(const Model& model, const Stage& stage) {
    if (stage.bases) return stage.bases->flops(stage.windows->length, stage.sequential != Sequential::none);
    double sum = stage.surveys() ? stage_flops(model, survey_of(stage)) : 0;
    for (const auto& target : stage.targets) sum += target.cost.flops;
    for (const auto& target : stage.axes) sum += target.flops;
    if (stage.whole) sum += stage.whole->flops + stage.whole->sweep_flops(model.graph());
    if (!stage.calibrated) return sum;
    const std::int64_t length = stage.windows->length, tokens = stage.windows->samples * length;
    const std::size_t last = stage.last_block();
    for (std::size_t block = 0; block <= last; ++block) {
        const auto& ops = block_ops(model.graph(), block);
        const auto groups = input_groups(ops, stage, block);
        for (const auto& group : groups) {
            const double n = double(group.features), factor = group.needs & KERF_NEEDS_INPUT_GRAM ? 2.0 / 3.0 : 0;
            sum += MomentAccumulator::flops_a_token(group.features, group.needs) * double(tokens) *
                       ops[group.reader].share +
                   factor * n * n * n;
        }
        if (!stage.has_stream()) continue;
        double forward = forward_flops(ops, 0, ops.size(), tokens, length);
        if (block == last && stage.sequential != Sequential::block && !groups.empty())  // nothing past the last input
            forward = forward_flops(ops, 0, groups.back().first_op, tokens, length);
        sum += forward * BlockRunner::block_runs(stage.sequential, block == last) * (stage.dense_stream ? 2 : 1);
    }
    return sum;
}

/// How often calibration tokens go through a block.
std::int64_t planned_block_runs(const Model& model, const Stage& stage, const Stage* sharer) {
    const auto blocks = std::int64_t(model.graph().blocks.size());
    if (stage.bases) return blocks * ((stage.bases->survey ? 1 : 0) + (stage.bases->needs_signals() ? 1 : 0));
    if (!stage.has_stream()) return 0;
    const std::size_t last = std::max(stage.last_block(), sharer ? sharer->last_block() : 0);
    std::int64_t out = stage.surveys() ? std::int64_t(survey_of(stage).last_block()) + 1 : 0;
    for (std::size_t block = 0; block <= last; ++block) out += BlockRunner::block_runs(stage.sequential, block == last);
    return out;
}

/// In a recipe without stages, the result is the input.
std::vector<const Model*> evaluated_models(const Prepared& prepared, const Recipe& recipe) {
    std::vector<const Model*> out;
    if (recipe.evaluation.before || recipe.evaluation.kl) out.push_back(&prepared.model);
    for (std::size_t i = 1; recipe.evaluation.between && i + 1 < prepared.models.size(); ++i)
        out.push_back(&prepared.models[i]);
    out.push_back(&prepared.models.back());
    return out;
}

double evaluation_flops(const Prepared& prepared, const Recipe& recipe) {
    double sum = 0;
    for (const auto& [name, windows] : prepared.evaluation)
        for (const Model* model : evaluated_models(prepared, recipe))
            sum +=
                double(windows.samples * windows.length) * cost_of(model->graph(), windows.length).total.prefill_flops;
    return sum;
}

/// What calibration states take on the disk: a block's input and output and the widest set of values between two
/// pieces.
std::uint64_t state_bytes(const Model& model, const Stage& stage, DType compute) {
    const std::uint64_t sweep = stage.whole ? stage.whole->disk_bytes(model.graph()) : 0;
    if (!stage.has_stream() && !stage.bases) return sweep;
    double widest = 0;
    for (const auto& block : model.graph().blocks) {
        double sum = 0;
        // The shares of all experts together are exact: every token is routed to top_k of them.
        for (const auto& op : block.ops)
            if (op.kind == OpKind::linear) sum += double(op.rows) * op.share;
        widest = std::max(widest, sum);
    }
    const std::uint64_t states = std::uint64_t(double(stage.windows->samples * stage.windows->length) *
                                               (2 * double(model.graph().hidden) + widest)) *
                                 dtype_bytes(compute) * (stage.dense_stream ? 2 : 1);
    return std::max(sweep, states);
}

std::map<std::string, Windows> evaluation_texts(const Recipe& recipe, const Model& model) {
    std::map<std::string, Windows> out;
    std::unique_ptr<Tokenizer> tokenizer;
    for (const auto& spec : recipe.evaluation.perplexity) {
        if (spec.text.source != "tokens" && !tokenizer) tokenizer = Tokenizer::open(model.folder());
        Windows windows = evaluation_windows(spec.text, tokenizer.get(), model.graph().vocabulary);
        model.check_length(windows.length, "evaluation " + spec.name);
        out.insert_or_assign(spec.name, std::move(windows));
    }
    return out;
}

PlannedStage plan_stage(const Model& model, const Stage& stage, const Stage* sharer, const OutputLayout& layout,
                        DType compute) {
    PlannedStage out;
    out.method = stage.method_id;
    for (const auto& target : stage.targets)
        out.linears.push_back(
            {target.name, target.out, target.in, target.cost.bits_per_weight, layout.linear_bytes(target.name)});
    const auto add_axis = [&](const Axis& axis, std::int64_t removed, std::int64_t unit_parameters) {
        out.axes.push_back(
            {axis.name, std::string(axis_kind_name(axis.kind)), axis.size, removed, removed * unit_parameters});
    };
    if (stage.whole)
        for (const auto& loss : stage.whole->losses)
            add_axis((*stage.all_axes)[loss.axis], std::int64_t(loss.units.size()), loss.unit_parameters);
    else
        for (const auto& target : stage.axes) add_axis(*target.axis, target.remove, target.facts.unit_parameters);
    const Model result = planned_result(model, stage);
    out.blocks_before = std::int64_t(model.graph().blocks.size());
    out.blocks_after = std::int64_t(result.graph().blocks.size());
    out.parameters_before = model.parameters();
    out.parameters_after = result.parameters();
    out.block_runs = planned_block_runs(model, stage, sharer);
    out.sweeps = stage.whole ? stage.whole->sweeps.count : 0;
    out.estimated = stage.bases && stage.bases->estimated;
    out.exact = !out.estimated && (!stage.whole || stage.whole->exact) && !stage.surveys();
    out.flops = stage_flops(model, stage);
    out.disk_bytes = state_bytes(model, stage, compute) + (stage.bases ? stage.bases->basis_bytes() : 0);
    if (stage.calibrated || stage.bases)
        out.tokens = stage.windows->samples * stage.windows->length;
    else if (stage.whole)
        out.tokens = stage.whole->sweeps.windows * stage.whole->sweeps.length;
    return out;
}

/// What the allocator needs beside the bytes that are asked for: rounding, headers, and the free ends of each thread's
/// heap.
std::uint64_t with_allocator_share(std::uint64_t bytes) {
    constexpr std::uint64_t heap_ends = 20u << 20;
    return bytes + bytes / 10 + heap_ends;
}

/// Peak of each stage and of the evaluation with `threads` threads, and the largest of them.
std::uint64_t plan_memory(const Recipe& recipe, const Prepared& prepared, std::int64_t threads,
                          std::vector<PlannedStage>* stages) {
    const DType compute = recipe.model.compute;
    warm_up_execution();
    const std::uint64_t idle = resident_bytes();
    std::uint64_t peak = idle;
    for (std::size_t i = 0; i < prepared.stages.size(); ++i) {
        const std::uint64_t bytes =
            idle + with_allocator_share(stage_memory(prepared.models[i], prepared.stages[i],
                                                     sharer_of(prepared.stages, i), compute, threads));
        if (stages) (*stages)[i].peak_bytes = bytes;
        peak = std::max(peak, bytes);
    }
    for (const auto& [name, windows] : prepared.evaluation)
        for (const Model* model : evaluated_models(prepared, recipe))
            peak =
                std::max(peak, idle + with_allocator_share(evaluation_memory(*model, windows.length, windows.samples,
                                                                             recipe.evaluation.kl, compute, threads)));
    return peak;
}

/// Fewer threads need less memory and change no byte of the result: the first thing to give when a budget is tight.
void hold_budget(const Recipe& recipe, Prepared& prepared) {
    Plan& plan = prepared.plan;
    plan.peak_bytes = plan_memory(recipe, prepared, threads(), &plan.stages);
    plan.minimum_bytes = plan_memory(recipe, prepared, 1, nullptr);
    const std::uint64_t budget = recipe.model.memory_budget;
    if (budget == 0) return;
    if (budget < plan.minimum_bytes)
        bad_input(recipe.file.string(), ": model.memory = ", format_bytes(double(budget)),
                  " is too little: this recipe needs at least ", format_bytes(double(plan.minimum_bytes)));
    for (int count = threads(); count > 1 && plan.peak_bytes > budget; --count) {
        set_threads(count - 1);
        plan.peak_bytes = plan_memory(recipe, prepared, threads(), &plan.stages);
    }
}

/// Linears, and the tensors of their weights, that a pruning stage changes.
std::map<std::string, std::string> pruned_linears(const Stage& stage, const Graph& graph) {
    std::map<std::string, std::string> out;
    for (const auto& target : stage.targets) out[target.name] = block_ops(graph, target.block)[target.op].weight;
    const auto add = [&](const Axis& axis) {
        for (const auto& place : axis.places)
            if (place.role == Place::Role::input || place.role == Place::Role::output) out[place.module] = place.tensor;
    };
    for (const auto& target : stage.axes)
        if (target.remove > 0) add(*target.axis);
    if (stage.whole)
        for (const auto& loss : stage.whole->losses) add((*stage.all_axes)[loss.axis]);
    return out;
}

/// Refuses the last stage when it prunes, or turns, weights that lie in integer codes by then: the rest would have to
/// be rounded once more, on a grid that was chosen for other weights.
void refuse_pruning_of_codes(const StageSpec& spec, const Prepared& prepared) {
    const Stage& stage = prepared.stages.back();
    if (!stage.bases && !stage.structural && (stage.method->table->capabilities & KERF_PRUNES) == 0) return;
    std::map<std::string, const Target*> coded;
    for (std::size_t i = 0; i + 1 < prepared.stages.size(); ++i)
        for (const auto& target : prepared.stages[i].targets)
            if (target.cost.bits > 0) coded[target.name] = &target;
    if (stage.bases && !coded.empty()) {
        const auto& [name, target] = *coded.begin();
        bad_input(spec.location, ": ", name, ": an earlier stage (", target->method->method().id,
                  ") has rounded this weight to ", target->cost.bits, "-bit codes, and ", stage.method_id,
                  " would multiply them by a basis; put ", stage.method_id, " first");
    }
    const Model& model = prepared.model;
    for (const auto& [name, weight] : pruned_linears(stage, prepared.models.back().graph())) {
        if (const auto found = coded.find(name); found != coded.end())
            bad_input(spec.location, ": ", name, ": an earlier stage (", found->second->method->method().id,
                      ") has rounded this weight to ", found->second->cost.bits, "-bit codes, and ", stage.method_id,
                      " would prune the codes; put ", stage.method_id, " first");
        const auto stored = model.stored_name(weight);
        const StoredTensor& tensor = model.checkpoint().at(stored);
        if (model.checkpoint().stored_bytes(stored) < std::uint64_t(tensor.elements()) * dtype_bytes(tensor.dtype))
            bad_input(spec.location, ": ", name, ": the model holds this weight in ",
                      model.checkpoint().storage(stored), " codes, and ", stage.method_id,
                      " would prune the codes; start from the unquantised model, or make a dense one of this "
                      "(kerf convert)");
    }
}

/// Refuses a stage that would share Grams that there are not.
void check_sharing(const StageSpec& spec, const std::vector<Stage>& before) {
    constexpr const char* key = "sequential = \"shared\"";
    if (before.empty())
        bad_input(spec.location, ": ", key, " takes the Gram matrices of the stage before, and this is the first one; ",
                  "leave it out");
    if (!before.back().has_stream())
        bad_input(spec.location, ": ", key, " takes the Gram matrices of the stage before, but ",
                  before.back().method_id, " there collects none; leave it out");
    if (spec.calibration)
        bad_input(spec.location, ": ", key,
                  " goes with the calibration of the stage before; leave out "
                  "[stage.calibration], or ",
                  key);
}

void check_sharer(const StageSpec& spec, const Prepared& prepared) {
    const std::size_t index = prepared.stages.size() - 1;
    if (!prepared.stages.back().calibrated)
        bad_input(spec.location, ": ", spec.method, " needs no Gram matrices, so there is nothing to share; leave out ",
                  "sequential = \"shared\"");
    if (prepared.stages.back().dense_stream || prepared.stages.back().expanded || prepared.stages.back().surveys())
        bad_input(spec.location, ": ", spec.method,
                  " needs a pass of its own with these options (a dense target, a survey, keys of ",
                  "their own for every head); leave out sequential = \"shared\"");
    const std::size_t blocks = prepared.models[index - 1].graph().blocks.size();
    if (end_of_pass(prepared.stages, index - 1, blocks) <= index)
        bad_input(spec.location, ": ", spec.method, " cannot go through the blocks together with ",
                  prepared.stages[index - 1].method_id, " before it; leave out sequential = \"shared\"");
}

/// Whether a pruner that knows its counts leaves every axis, and the model, as it is.
bool takes_nothing(const Stage& stage, const Model& input, const Model& result) {
    return stage.structural && !stage.surveys() && input.parameters() == result.parameters() &&
           std::all_of(stage.axes.begin(), stage.axes.end(), [](const auto& target) { return target.remove == 0; });
}

}  // namespace

const Stage* sharer_of(const std::vector<Stage>& stages, std::size_t index) {
    const bool shares = index + 1 < stages.size() && stages[index + 1].sequential == Sequential::shared;
    return shares ? &stages[index + 1] : nullptr;
}

std::uint64_t resident_bytes() {
    return status_line("VmRSS:");
}
std::uint64_t peak_resident_bytes() {
    return status_line("VmHWM:");
}

OutputLayout layout_of(const Recipe& recipe, const Prepared& prepared, std::size_t index, const Model& model) {
    const bool last = index + 1 >= prepared.stages.size();
    const Stage* stage = index < prepared.stages.size() ? &prepared.stages[index] : nullptr;
    OutputLayout::Options options;
    options.shard_bytes = recipe.output.shard_bytes;
    options.keep_exact = !last;
    if (last) {
        options.format = recipe.output.format;
        options.dtype = recipe.output.dtype;
    }
    return OutputLayout(model, prepared.model, stage, options);
}

std::uint64_t bytes_of_dense(const Recipe& recipe, const Prepared& prepared, const Model& model) {
    OutputLayout::Options options;
    options.shard_bytes = recipe.output.shard_bytes;
    options.dtype = recipe.output.dtype;
    return OutputLayout(model, prepared.model, nullptr, options).shards().total_bytes();
}

Prepared prepare(const Recipe& recipe, const Components& components) {
    initialise_execution();
    Prepared out{Model::open(recipe.model.path, components), {}, {}, {}, {}};
    if (recipe.output.format == "gptq" && recipe.stages.empty())
        bad_input(recipe.file.string(),
                  ": output.format = \"gptq\" needs a stage that quantises to integer codes (gptq, rtn)");
    out.models.push_back(out.model);
    for (std::size_t i = 0; i < recipe.stages.size(); ++i) {
        const bool shares = recipe.stages[i].sequential == Sequential::shared;
        if (shares) check_sharing(recipe.stages[i], out.stages);
        out.stages.push_back(
            resolve_stage(recipe, i, out.models.back(), components, shares ? out.stages.back().windows : nullptr));
        if (shares) check_sharer(recipe.stages[i], out);
        refuse_pruning_of_codes(recipe.stages[i], out);
        out.models.back() = out.stages.back().start(out.models.back());
        out.models.push_back(planned_result(out.models.back(), out.stages.back()));
        const auto warn = [&](const std::string& note) {
            out.plan.warnings.push_back(text("stage ", i, " (", recipe.stages[i].method, "): ", note));
        };
        for (const auto& note : out.stages.back().notes) warn(note);
        if (takes_nothing(out.stages.back(), out.models[i], out.models.back()))
            warn("its options take less than one unit of every axis, so that nothing goes");
    }
    if (recipe.output.format == "gptq" && !out.stages.empty() && out.stages.back().bases)
        bad_input(recipe.file.string(), ": output.format = \"gptq\" holds integer codes, but the last stage, ",
                  out.stages.back().method_id,
                  ", leaves floating-point weights; add a stage that quantises, or use format = \"hf\"");
    out.evaluation = evaluation_texts(recipe, out.model);

    Plan& plan = out.plan;
    for (const auto& file : out.model.checkpoint().files()) plan.input_bytes += std::filesystem::file_size(file);
    const std::size_t count = std::max<std::size_t>(1, out.stages.size());
    std::int64_t pass = 0;
    std::uint64_t written = 0;  // results of earlier stages stay until the run is complete: --resume needs them
    for (std::size_t i = 0, past = 0; i < count; i = past) {
        past = out.stages.empty() ? 1 : end_of_pass(out.stages, i, out.models[i].graph().blocks.size());
        std::uint64_t states = 0;  // of all stages that go through the blocks together
        for (; i < past; ++i) {
            const OutputLayout layout = layout_of(recipe, out, i, out.models[std::min(i + 1, out.models.size() - 1)]);
            written += layout.shards().total_bytes();
            plan.output_bytes = layout.shards().total_bytes();
            if (i >= out.stages.size()) continue;
            plan.stages.push_back(
                plan_stage(out.models[i], out.stages[i], sharer_of(out.stages, i), layout, recipe.model.compute));
            plan.stages.back().pass = pass;
            plan.flops += plan.stages.back().flops;
            plan.exact = plan.exact && plan.stages.back().exact;
            states += plan.stages.back().disk_bytes;
        }
        ++pass;
        plan.disk_bytes = std::max(plan.disk_bytes, written + states);
    }
    plan.flops += evaluation_flops(out, recipe);
    plan.parameters_before = out.model.parameters();
    plan.parameters_after = out.models.back().parameters();
    hold_budget(recipe, out);
    return out;
}

Plan make_plan(const Recipe& recipe, const Components& components) {
    Plan plan = prepare(recipe, components).plan;
    // Matrix products reach their peak rate; what lies between them costs about as much again as half of that.
    constexpr double overhead = 1.5, measuring_seconds = 0.1;
    plan.seconds = overhead * plan.flops / linalg::measured_gemm_rate(measuring_seconds);
    return plan;
}

json forward_json(std::int64_t block_runs, std::int64_t blocks) {
    return {{"block_runs", block_runs}, {"passes", double(block_runs) / double(std::max<std::int64_t>(1, blocks))}};
}

json plan_json(const Plan& plan) {
    json stages = json::array();
    for (const auto& stage : plan.stages) {
        json linears = json::array();
        for (const auto& linear : stage.linears)
            linears.push_back({{"name", linear.name},
                               {"shape", {linear.out_features, linear.in_features}},
                               {"bits", linear.bits_per_weight},
                               {"output_bytes", linear.output_bytes}});
        json axes = json::array();
        for (const auto& axis : stage.axes)
            axes.push_back({{"name", axis.name},
                            {"kind", axis.kind},
                            {"units", axis.units},
                            {"removed", axis.removed},
                            {"removed_parameters", axis.removed_parameters}});
        stages.push_back({{"method", stage.method},
                          {"linears", linears},
                          {"axes", axes},
                          {"blocks", {{"before", stage.blocks_before}, {"after", stage.blocks_after}}},
                          {"parameters", {{"before", stage.parameters_before}, {"after", stage.parameters_after}}},
                          {"exact", stage.exact},
                          {"pass", stage.pass},
                          {"forward", forward_json(stage.block_runs, stage.blocks_before)},
                          {"sweeps", stage.sweeps},
                          {"sizes", stage.estimated ? "upper bound" : "exact"},
                          {"flops", stage.flops},
                          {"peak_bytes", stage.peak_bytes},
                          {"disk_bytes", stage.disk_bytes},
                          {"tokens", stage.tokens}});
    }
    return {{"stages", stages},
            {"exact", plan.exact},
            {"warnings", plan.warnings},
            {"input_bytes", plan.input_bytes},
            {"output_bytes", plan.output_bytes},
            {"peak_bytes", plan.peak_bytes},
            {"minimum_bytes", plan.minimum_bytes},
            {"disk_bytes", plan.disk_bytes},
            {"flops", plan.flops},
            {"seconds", plan.seconds},
            {"parameters", {{"before", plan.parameters_before}, {"after", plan.parameters_after}}}};
}

}  // namespace kerf::core
