// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/run.hpp"

#include <algorithm>
#include <chrono>

#include "core/pipeline/basis_stage.hpp"
#include "core/pipeline/evaluation.hpp"
#include "core/pipeline/model_stage.hpp"
#include "core/pipeline/save.hpp"
#include "core/pipeline/stream_pass.hpp"
#include "core/pipeline/survey.hpp"
#include "core/report/environment.hpp"
#include "core/report/report.hpp"
#include "core/support/error.hpp"
#include "core/version.hpp"
#include "kerf/abi.h"

namespace kerf::core {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// The unfinished output beside its final place.
fs::path partial_folder(const fs::path& output) {
    fs::path folder = output;
    if (!folder.has_filename()) folder = folder.parent_path();
    return folder.string() + ".partial";
}

class Run {
public:
    Run(const Recipe& recipe, const Components& components, bool resume, const Observer& observer)
        : recipe_(recipe),
          components_(components),
          prepared_(prepare(recipe, components)),
          resume_(resume),
          meter_(observer, prepared_.plan.flops),
          partial_(partial_folder(recipe.output.path)),
          events_(partial_ / "metrics.jsonl") {}

    json execute() {
        const auto started = std::chrono::steady_clock::now();
        provenance_ = provenance();
        if (auto report = already_complete()) return *report;
        claim_folder();
        if (journal_->find("finished", -1, -1)) {
            report_ = read_json(partial_ / "report.json");
            publish();
            return report_;
        }
        meter_.keep_warnings([this](const std::string& message) {
            journal_->add({{"kind", "warning"}, {"message", message}});
            events_.add("warning", {{"message", message}});
        });
        try {
            work();
            report_["seconds"] = seconds_since(started);
            report_["peak_bytes"] = peak_resident_bytes();
            finish();
            publish();
        } catch (const Error& error) {
            // An interrupted run can go on later; one that failed leaves nothing.
            if (error.fault() != Fault::cancelled) remove_partial();
            throw;
        } catch (...) {
            remove_partial();
            throw;
        }
        return report_;
    }

private:
    std::optional<json> already_complete() const;
    void claim_folder();
    void remove_partial() const {
        std::error_code ignored;
        fs::remove_all(partial_, ignored);
    }
    json identity() const;
    json provenance() const;
    void work();
    Model run_stages(std::size_t first, std::size_t& past, const Model& input);
    RunTools tools() { return {recipe_, prepared_, *journal_, events_, meter_, partial_}; }
    struct Walk {
        double seconds = 0;
        std::int64_t block_runs = 0;
    };
    std::int64_t runs_of(std::size_t index) const;
    void report_forward();
    void report_stage(std::size_t index, const Model& input, const Model& result, const Walk& walk);
    void measure_stage(std::size_t index, const Model& result);
    void decide(std::size_t index, const Model& input);
    void survey_stage(std::size_t index, const Model& input);
    Model write_edited(std::size_t index, const Model& input, std::chrono::steady_clock::time_point started);
    fs::path prepare_folder(std::size_t index, const Model& input, const Model& result, const OutputLayout& layout);
    Model run_bases(std::size_t index, const Model& input);
    BasisStage surveyed(std::size_t index, const Model& input, const fs::path& scratch);
    BasisRunner::Hooks basis_hooks(std::size_t index, const BasisStage& stage);
    ResultWriter open_writer(std::size_t index, const OutputLayout& layout, const Model& result,
                             const fs::path& folder);
    void write_block(std::size_t index, std::size_t block, ResultWriter& writer);
    void resolve_again(std::size_t first, const Model& input);
    void write_side_files(const Model& model, const OutputLayout& layout);
    void finish();
    void publish();

    const Recipe& recipe_;
    const Components& components_;
    Prepared prepared_;
    bool resume_;
    Meter meter_;
    fs::path partial_;
    Events events_;
    std::optional<Journal> journal_;
    json provenance_, report_;
    std::int64_t pass_ = 0;        ///< walks over the blocks so far
    std::optional<Model> result_;  ///< once the stages are through
    bool any_shape_ = false;       ///< whether the family's class in transformers cannot express the result
};

/// --resume after a run whose last steps alone were missing, or none at all: its report, once what it left is tidied
/// up.
std::optional<json> Run::already_complete() const {
    const fs::path& output = recipe_.output.path;
    std::error_code status;
    if (!resume_ || fs::exists(partial_ / "journal.jsonl", status) || !fs::exists(output / "kerf.json", status))
        return {};
    const json kerf = read_json(output / "kerf.json");
    if (kerf.value("provenance", json::object()) != provenance_) return {};
    fs::remove(output / "journal.jsonl", status);
    remove_partial();
    meter_.log(KERF_LOG_INFO, text(output.string(), ": is complete already"));
    return read_json(output / "report.json");
}

void Run::claim_folder() {
    const fs::path& output = recipe_.output.path;
    std::error_code status;
    const bool there = fs::exists(partial_ / "journal.jsonl", status);
    if (fs::exists(output, status) && !recipe_.output.overwrite)
        bad_input(output.string(), ": is there already; choose another output.path or set output.overwrite = true");
    if (!resume_ && there && !recipe_.output.overwrite)
        bad_input(partial_.string(),
                  ": an unfinished run is there; add --resume to go on with it, or remove that folder");
    if (resume_ && there) {
        for (const auto& entry : fs::directory_iterator(partial_))
            if (entry.path().filename().string().starts_with(File::temporary_prefix) ||
                entry.path().extension() == ".tmp")
                fs::remove(entry.path());
        journal_ = Journal::reopen(partial_ / "journal.jsonl", identity());
        return;
    }
    remove_partial();
    fs::create_directories(partial_, status);
    if (status) bad_environment(partial_.string(), ": cannot create the output folder: ", status.message());
    try {
        journal_ = Journal::create(partial_ / "journal.jsonl", identity());
    } catch (...) {
        remove_partial();
        throw;
    }
}

json Run::identity() const {
    const std::string recipe = recipe_.text;
    return {{"version of kerf", version()},
            {"recipe", sha256(std::as_bytes(std::span(recipe)))},
            {"input or plugin", provenance_["inputs"]}};
}

json Run::provenance() const {
    json inputs = json::object();
    for (const auto& file : prepared_.model.checkpoint().files()) inputs[file.filename().string()] = sha256_file(file);
    if (const fs::path config = prepared_.model.folder() / "config.json"; fs::exists(config))
        inputs["config.json"] = sha256_file(config);
    json plugins = json::object();
    for (const auto& stage : prepared_.stages)
        plugins[stage.method->plugin] = {{"version", stage.method->version},
                                         {"sha256", sha256_file(stage.method->file)}};
    const auto& adapter = prepared_.model.adapter();
    plugins[adapter.plugin] = {{"version", adapter.version}, {"sha256", sha256_file(adapter.file)}};
    json seeds = json::array();
    for (const auto& stage : prepared_.stages)
        if (stage.windows)
            seeds.push_back({{"stage", stage.method_id},
                             {"tokens_sha256", stage.windows->sha256},
                             {"samples", stage.windows->samples},
                             {"length", stage.windows->length}});
    return {{"kerf", version()},
            {"recipe", recipe_.text},
            {"inputs", {{"files", inputs}, {"plugins", plugins}}},
            {"calibration", seeds}};
}

void Run::work() {
    report_ = {
        {"kerf", version()}, {"model", prepared_.model.folder().string()}, {"output", recipe_.output.path.string()}};
    for (const auto& warning : prepared_.plan.warnings) meter_.log(KERF_LOG_WARN, warning);
    report_["before"] = json::object();
    report_["after"] = json::object();
    report_["stages"] = json::array();
    report_["parameters"] = {{"before", prepared_.plan.parameters_before}, {"after", prepared_.plan.parameters_after}};
    report_["bytes"] = {{"before", prepared_.plan.input_bytes}, {"after", prepared_.plan.output_bytes}};
    if (recipe_.evaluation.before && !recipe_.evaluation.kl) {
        meter_.phase("evaluate before");
        report_["before"]["perplexity"] = perplexities(tools(), prepared_.model, "before", -1);
    }

    Model current = prepared_.model;
    const std::size_t count = std::max<std::size_t>(1, prepared_.stages.size());
    for (std::size_t index = 0, past = 0; index < count; index = past) {
        current = run_stages(index, past, current);
        // Of what a stage removes the plan knows the shapes alone, and a survey may have given other sizes.
        if (past < count && (prepared_.stages[past - 1].structural ||
                             graph_json(current.graph()) != graph_json(prepared_.models[past].graph())))
            resolve_again(past, current);
    }
    report_forward();
    report_["parameters"]["after"] = current.parameters();
    result_ = current;
    meter_.phase("evaluate");
    evaluate_result(tools(), current, report_);
}

/// Stage `first` and those that go through the blocks with it; `past` becomes one past the last of them.
Model Run::run_stages(std::size_t first, std::size_t& past, const Model& input) {
    const auto started = std::chrono::steady_clock::now();
    past = first + 1;
    const Stage* stage = first < prepared_.stages.size() ? &prepared_.stages[first] : nullptr;
    if (stage && stage->bases) return run_bases(first, input);
    if (stage && stage->whole) decide(first, input);
    if (stage && stage->whole && !stage->whole->by_axes) return write_edited(first, input, started);
    if (stage && stage->surveys()) survey_stage(first, input);
    if (stage) past = end_of_pass(prepared_.stages, first, input.graph().blocks.size());
    const double before = seconds_since(started);
    StreamPass pass(tools(), first, past, input);
    report_["bytes"]["after"] = pass.layout(past - first - 1).shards().total_bytes();
    const auto finish_folder = [&] { write_side_files(pass.view(past - first - 1), pass.layout(past - first - 1)); };
    const bool last = past >= prepared_.stages.size(), prunes = stage && prepared_.stages[past - 1].structural;
    // What says that weights are packed has to be there before they are opened, by a resumed run or in the end; which
    // units stay is known only then.
    if (last && !prunes) finish_folder();
    pass.run();
    if (last && prunes) finish_folder();
    const Model result = pass.result(past - first - 1);
    for (std::size_t index = first; stage && index < past; ++index)
        report_stage(index, pass.input(index - first), pass.result(index - first),
                     {pass.seconds(index - first) + (index == first ? before : 0), runs_of(index)});
    ++pass_;
    return result;
}

/// How often the tokens went through a block, in the runs that finished it.
std::int64_t Run::runs_of(std::size_t index) const {
    std::int64_t out = 0;
    for (const auto* kind : {"survey", "block"})
        for (const auto* entry : journal_->of_stage(kind, std::int64_t(index)))
            out += entry->value("block_runs", std::int64_t{0});
    return out;
}

/// Of all stages.
void Run::report_forward() {
    std::int64_t runs = 0;
    double passes = 0;
    for (const auto& stage : report_["stages"]) {
        runs += stage["forward"]["block_runs"].get<std::int64_t>();
        passes += stage["forward"]["passes"].get<double>();
    }
    report_["forward"] = {{"block_runs", runs}, {"passes", passes}};
}

void Run::report_stage(std::size_t index, const Model& input, const Model& result, const Walk& walk) {
    const Stage& stage = prepared_.stages[index];
    json linears = json::array(), axes = json::array(), positions = json::array();
    for (const auto& entry : journal_->entries()) {
        if (entry.value("stage", std::int64_t{-1}) != std::int64_t(index)) continue;
        for (const auto& linear : entry.value("linears", json::array())) linears.push_back(linear);
    }
    for (std::size_t p = 0; stage.bases && p < stage.bases->bases.size(); ++p) {
        json figures = json::object();
        for (const char* kind : {"position ", "readers "})
            if (const json* entry = journal_->find(text(kind, p), std::int64_t(index), -1))
                figures.update((*entry)["figures"]);
        if (!figures.empty()) positions.push_back(std::move(figures));
    }
    const auto add_axis = [&](const Axis& axis, const std::vector<std::int64_t>& units) {
        axes.push_back({{"name", axis.name},
                        {"kind", axis_kind_name(axis.kind)},
                        {"block", axis.block},
                        {"units", axis.size},
                        {"removed", units}});
    };
    const auto removed = removals_of(*journal_, stage, index);
    for (const auto& target : stage.axes) {
        const auto found = std::find_if(removed.begin(), removed.end(),
                                        [&](const Removal& removal) { return removal.axis == target.axis->name; });
        add_axis(*target.axis, found == removed.end() ? std::vector<std::int64_t>() : found->units);
        if (target.surveyed) axes.back()["cost"] = target.cost;
    }
    for (const auto& removal : removed)
        if (stage.axes.empty()) add_axis(axis_named(*stage.all_axes, removal.axis), removal.units);
    report_["stages"].push_back(
        {{"method", stage.method_id},
         {"version", stage.method->version},
         {"options", stage.options},
         {"seconds", walk.seconds},
         {"pass", pass_},
         {"forward", forward_json(walk.block_runs, std::int64_t(input.graph().blocks.size()))},
         {"peak_bytes", peak_resident_bytes()},
         {"parameters", {{"before", input.parameters()}, {"after", result.parameters()}}},
         {"blocks", {{"before", input.graph().blocks.size()}, {"after", result.graph().blocks.size()}}},
         {"linears", linears}});
    if (stage.structural) report_["stages"].back()["axes"] = axes;
    if (stage.sequential == Sequential::shared) report_["stages"].back()["shares_grams"] = true;
    if (stage.whole && stage.whole->sweeps.count > 0) report_["stages"].back()["sweeps"] = stage.whole->sweeps.count;
    if (stage.whole)
        report_["stages"].back()["metrics"] = (*journal_->find("decided", std::int64_t(index), -1))["metrics"];
    if (stage.bases) report_["stages"].back()["positions"] = positions;
    measure_stage(index, result);
}

/// Size and perplexities of what a stage leaves; those of the last one are the run's.
void Run::measure_stage(std::size_t index, const Model& result) {
    json& stage = report_["stages"].back();
    const bool last = index + 1 >= prepared_.stages.size();
    stage["bytes"] = last ? report_["bytes"]["after"].get<std::uint64_t>() : bytes_of_dense(recipe_, prepared_, result);
    if (!last && recipe_.evaluation.between && !prepared_.evaluation.empty()) {
        meter_.phase(text("evaluate after ", prepared_.stages[index].method_id));
        stage["perplexity"] = perplexities(tools(), result, "after stage", std::int64_t(index));
    }
    json event{{"stage", index}};
    for (const char* key : {"method", "seconds", "peak_bytes", "parameters", "blocks", "bytes", "forward"})
        event[key] = stage[key];
    events_.add("stage", std::move(event));
}

/// What comes later is checked against the model that there is, no longer the planned one.
void Run::resolve_again(std::size_t first, const Model& input) {
    for (std::size_t index = first; index < prepared_.stages.size(); ++index) {
        const Model& from = index == first ? input : prepared_.models[index];
        prepared_.stages[index] = resolve_stage(recipe_, index, from, components_, prepared_.stages[index].windows);
        const Model start = prepared_.stages[index].start(from);
        prepared_.models[index] = start;
        prepared_.models[index + 1] = planned_result(start, prepared_.stages[index]);
    }
}

BasisRunner::Hooks Run::basis_hooks(std::size_t index, const BasisStage& stage) {
    using Figures = std::map<std::string, double>;
    const auto keep = [this, index, &stage](const char* kind, std::size_t position, const Figures& metrics) {
        const auto& at = stage.stream.positions[position];
        json line{{"name", at.name}, {"block", at.block}, {"of", at.features}};
        for (const auto& [key, value] : metrics) line[key] = value;
        journal_->add({{"kind", text(kind, position)}, {"stage", index}, {"block", -1}, {"figures", line}});
        meter_.detail(at.name);
        line["stage"] = index;
        events_.add("position", std::move(line));
    };
    return {.chosen = [keep](std::size_t position, const Figures& metrics) { keep("position ", position, metrics); },
            .fitted = [keep](std::size_t position, const Figures& metrics) { keep("readers ", position, metrics); },
            .progress = [this](double flops) { meter_.add(flops); },
            .log = [this](int level, const std::string& message) { meter_.log(level, message); },
            .check_cancelled = [this] { meter_.check_cancelled(); }};
}

/// The stage over the weights that it really starts from, with the sizes that a survey gives where there is one.
BasisStage Run::surveyed(std::size_t index, const Model& input, const fs::path& scratch) {
    const Stage& stage = prepared_.stages[index];
    const std::int64_t tokens = stage.windows->samples * stage.windows->length;
    BasisStage planned = BasisStage::plan(stage.bases->method, input, tokens, stage.bases->refit_damp);
    if (!planned.survey) return planned;
    BasisRunner(planned, stage.windows.get(), recipe_.model.compute, false, scratch, partial_,
                basis_hooks(index, planned))
        .survey();
    return BasisStage::plan(stage.bases->method, input, tokens, stage.bases->refit_damp);
}

ResultWriter Run::open_writer(std::size_t index, const OutputLayout& layout, const Model& result,
                              const fs::path& folder) {
    const bool begun = journal_->find("files", std::int64_t(index), -1) != nullptr;
    ResultWriter writer(layout, result, folder, begun);
    if (!begun) journal_->add({{"kind", "files"}, {"stage", index}, {"block", -1}});
    return writer;
}

/// A block of a result that is an edited view of the input.
void Run::write_block(std::size_t index, std::size_t block, ResultWriter& writer) {
    if (journal_->find("block", std::int64_t(index), std::int64_t(block))) return;
    const auto known = writer.checksums();
    writer.write_copied(block);
    writer.sync();
    json checksums = json::object();
    for (const auto& [name, sum] : writer.checksums())
        if (!known.contains(name)) checksums[name] = sum;
    journal_->add({{"kind", "block"}, {"stage", index}, {"block", block}, {"checksums", checksums}});
}

/// The folder that the result of a stage goes into, with all but the weights in it.
fs::path Run::prepare_folder(std::size_t index, const Model& input, const Model& result, const OutputLayout& layout) {
    const fs::path folder = tools().folder_of(index);
    fs::create_directories(folder);
    report_["bytes"]["after"] = layout.shards().total_bytes();
    if (folder == partial_)
        write_side_files(result, layout);
    else
        write_atomically(folder / "config.json", input.config().dump());
    return folder;
}

Model Run::run_bases(std::size_t index, const Model& input) {
    const auto started = std::chrono::steady_clock::now();
    const Stage& stage = prepared_.stages[index];
    meter_.phase(stage.method_id);
    const fs::path scratch = partial_ / text("bases-", index);
    fs::create_directories(scratch);
    BasisStage bases = surveyed(index, input, scratch);
    const OutputLayout layout = layout_of(recipe_, prepared_, index, bases.result);
    const fs::path folder = prepare_folder(index, input, bases.result, layout);
    ResultWriter writer = open_writer(index, layout, bases.result, folder);
    BasisRunner runner(bases, stage.windows.get(), recipe_.model.compute, stage.sequential != Sequential::none, scratch,
                       partial_, basis_hooks(index, bases));
    runner.start();
    const std::size_t blocks = input.graph().blocks.size();
    for (std::size_t block = 0; block < blocks; ++block) {
        meter_.check_cancelled();
        input.prefetch(block + 1);
        runner.block(block);
        write_block(index, block, writer);
        runner.forget(block);
    }
    write_block(index, layout.outside(), writer);
    const Model result = bases.result.with_weights(Checkpoint::open(folder));
    report_stage(index, input, result, {seconds_since(started), prepared_.plan.stages[index].block_runs});
    ++pass_;
    return result;
}

/// Has a method that sees the whole model say what goes, or reads what an interrupted run had it say.
void Run::decide(std::size_t index, const Model& input) {
    Stage& stage = prepared_.stages[index];
    meter_.phase(stage.method_id);
    if (!journal_->find("decided", std::int64_t(index), -1)) {
        const BlockRunner::Hooks hooks{
            .made = {},
            .pruned = {},
            .progress = [this](double flops) { meter_.add(flops); },
            .log = [this](int level, const std::string& message) { meter_.log(level, message); },
            .check_cancelled = [this] { meter_.check_cancelled(); }};
        const PrunedModel pruned = prune_model(input, *stage.whole->method, stage.windows.get(), partial_, hooks);
        journal_->add({{"kind", "decided"},
                       {"stage", index},
                       {"block", -1},
                       {"edits", edits_json(pruned.edits)},
                       {"metrics", pruned.metrics}});
        json event(pruned.metrics);
        event["stage"] = index;
        events_.add("decided", std::move(event));
    }
    settle(stage, input, edits_from((*journal_->find("decided", std::int64_t(index), -1))["edits"]));
    // Later stages may go through the blocks with this one.
    if (index + 1 < prepared_.stages.size()) resolve_again(index + 1, planned_result(input, stage));
}

/// Has a pruner say how many units go, of all axes at once. Later stages may go through the blocks with this one.
void Run::survey_stage(std::size_t index, const Model& input) {
    Stage& stage = prepared_.stages[index];
    survey(tools(), index, stage, stage.start(input));
    if (index + 1 < prepared_.stages.size()) resolve_again(index + 1, planned_result(stage.start(input), stage));
}

/// A result that no stream of blocks has to make: hidden channels or whole layers went.
Model Run::write_edited(std::size_t index, const Model& input, std::chrono::steady_clock::time_point started) {
    const Model& edited = prepared_.stages[index].whole->result;
    const OutputLayout layout = layout_of(recipe_, prepared_, index, edited);
    const fs::path folder = prepare_folder(index, input, edited, layout);
    ResultWriter writer = open_writer(index, layout, edited, folder);
    for (std::size_t block = 0; block <= layout.outside(); ++block) {
        meter_.check_cancelled();
        write_block(index, block, writer);
    }
    const Model result = edited.with_weights(Checkpoint::open(folder));
    report_stage(index, input, result, {seconds_since(started), 0});
    ++pass_;
    return result;
}

void Run::write_side_files(const Model& model, const OutputLayout& layout) {
    const auto [config, stock] = final_config(model, layout, components_);
    any_shape_ = !stock;
    write_config(partial_, config, model.graph(), any_shape_);
    if (const auto settings = layout.quantization_config(); !settings.is_null())
        write_atomically(partial_ / "quantize_config.json", settings.dump(2) + "\n");
    copy_side_files(prepared_.model.folder(), partial_);
}

/// Writes what speaks of the whole run. From the journal's last line on, nothing is left to do but to clear up.
void Run::finish() {
    json checksums = json::object();
    const std::size_t last = std::max<std::size_t>(1, prepared_.stages.size()) - 1;
    for (const auto& entry : journal_->entries())
        if (entry.value("kind", "") == "block" && entry.value("stage", std::size_t{0}) == last)
            checksums.update(entry["checksums"]);
    json removed = json::array();
    for (std::size_t index = 0; index < prepared_.stages.size(); ++index)
        if (prepared_.stages[index].structural)
            removed.push_back(
                {{"stage", index}, {"units", removals_json(removals_of(*journal_, prepared_.stages[index], index))}});
    json kerf{{"kerf", version()},
              {"edited", any_shape_},
              {"graph", graph_json(result_->graph())},
              {"provenance", provenance_},
              {"crc32", checksums}};
    if (!removed.empty()) kerf["removed"] = std::move(removed);
    write_atomically(partial_ / "kerf.json", kerf.dump(1) + "\n");
    json warnings = json::array();
    for (const auto& entry : journal_->entries())
        if (entry.value("kind", "") == "warning" &&
            std::find(warnings.begin(), warnings.end(), entry["message"]) == warnings.end())
            warnings.push_back(entry["message"]);  // once, although a block begun again has the same to say
    report_["warnings"] = std::move(warnings);
    report_["environment"] = environment_json();
    report_["provenance"] = provenance_;
    write_report(report_, partial_);
    events_.add("finished", {{"seconds", report_["seconds"]}, {"peak_bytes", report_["peak_bytes"]}});
    journal_->add({{"kind", "finished"}});
}

/// One rename makes the result appear. The journal goes last: as long as it is there, --resume knows what is left to
/// do.
void Run::publish() {
    for (std::size_t index = 0; index + 1 < prepared_.stages.size(); ++index)
        fs::remove_all(partial_ / text("stage-", index));
    for (std::size_t index = 0; index < prepared_.stages.size(); ++index)
        fs::remove_all(partial_ / text("bases-", index));
    sync_folder(partial_);
    const fs::path& output = recipe_.output.path;
    replace_folder(partial_, output);
    fs::remove(output / "journal.jsonl");
    journal_.reset();
    remove_partial();
}

}  // namespace

json run_recipe(const Recipe& recipe, const Components& components, bool resume, const Observer& observer) {
    return Run(recipe, components, resume, observer).execute();
}

}  // namespace kerf::core
