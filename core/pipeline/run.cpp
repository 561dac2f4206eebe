// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/run.hpp"

#include <chrono>

#include "core/eval/evaluate.hpp"
#include "core/pipeline/basis_stage.hpp"
#include "core/pipeline/block_runner.hpp"
#include "core/pipeline/journal.hpp"
#include "core/pipeline/meter.hpp"
#include "core/pipeline/prepared.hpp"
#include "core/pipeline/save.hpp"
#include "core/report/report.hpp"
#include "core/support/error.hpp"
#include "core/version.hpp"
#include "kerf/abi.h"

namespace kerf::core {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

json perplexity_json(const Perplexity& figure) {
    return {{"value", figure.value},
            {"standard_error", figure.standard_error},
            {"tokens", figure.tokens},
            {"windows", figure.windows}};
}

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
          partial_(partial_folder(recipe.output.path)) {}

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
    void evaluate_before();
    Model run_stage(std::size_t index, const Model& input);
    void report_stage(std::size_t index, std::chrono::steady_clock::time_point started);
    std::vector<Removal> removals_of(std::size_t index, std::int64_t block = -1) const;
    Model run_bases(std::size_t index, const Model& input, const fs::path& folder, bool last);
    BasisStage surveyed(std::size_t index, const Model& input, const fs::path& scratch);
    BasisRunner::Hooks basis_hooks(std::size_t index, const BasisStage& stage);
    void write_turned(std::size_t index, std::size_t block, ResultWriter& writer);
    void resolve_again(std::size_t first, const Model& input);
    void run_blocks(std::size_t index, const Model& input, const OutputLayout& layout, const fs::path& folder);
    void copy_outside(std::size_t index, ResultWriter& writer, const OutputLayout& layout);
    BlockRunner::Hooks hooks(ResultWriter& writer, json& linears, const Model& input, PrunedParts& parts);
    void add_metrics(json& linears, json line);
    Model finish_block_states(std::size_t index, const Model& input, const fs::path& folder) const;
    void evaluate_after(const Model& result);
    void write_side_files(const Model& model, const OutputLayout& layout);
    void finish();
    void publish();

    const Recipe& recipe_;
    const Components& components_;
    Prepared prepared_;
    bool resume_;
    Meter meter_;
    fs::path partial_;
    std::optional<Journal> journal_;
    json provenance_, report_;
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
    report_["before"] = json::object();
    report_["after"] = json::object();
    report_["stages"] = json::array();
    report_["parameters"] = {{"before", prepared_.plan.parameters_before}, {"after", prepared_.plan.parameters_after}};
    report_["bytes"] = {{"before", prepared_.plan.input_bytes}, {"after", prepared_.plan.output_bytes}};
    if (recipe_.evaluation.before && !recipe_.evaluation.kl) evaluate_before();

    Model current = prepared_.model;
    const std::size_t passes = std::max<std::size_t>(1, prepared_.stages.size());
    for (std::size_t index = 0; index < passes; ++index) {
        current = run_stage(index, current);
        // Of what a stage removes the plan knows the shapes alone, and a survey may have given other sizes.
        if (index + 1 < passes && (prepared_.stages[index].structural ||
                                   graph_json(current.graph()) != graph_json(prepared_.models[index + 1].graph())))
            resolve_again(index + 1, current);
    }
    report_["parameters"]["after"] = current.parameters();
    result_ = current;
    evaluate_after(current);
}

void Run::evaluate_before() {
    meter_.phase("evaluate before");
    for (const auto& [name, windows] : prepared_.evaluation) {
        json figure;
        if (const json* known = journal_->find("before " + name, -1, -1)) {
            figure = (*known)["figure"];
        } else {
            meter_.detail(name);
            const double flops_a_token = flops_of_a_step(prepared_.model.graph(), windows.length);
            figure = perplexity_json(
                evaluate(prepared_.model, nullptr, windows, recipe_.model.compute, partial_, [&](std::int64_t tokens) {
                    meter_.check_cancelled();
                    meter_.add(double(tokens) * flops_a_token);
                }).model);
            journal_->add({{"kind", "before " + name}, {"figure", figure}});
        }
        report_["before"]["perplexity"][name] = figure;
    }
}

Model Run::run_stage(std::size_t index, const Model& given) {
    const auto started = std::chrono::steady_clock::now();
    const bool last = index + 1 >= prepared_.stages.size();
    const fs::path folder = last ? partial_ : partial_ / text("stage-", index);
    if (!last) fs::create_directories(folder);
    if (index < prepared_.stages.size() && prepared_.stages[index].bases) return run_bases(index, given, folder, last);
    const Stage* stage = index < prepared_.stages.size() ? &prepared_.stages[index] : nullptr;
    const Model input = stage ? stage->start(given) : given;
    const OutputLayout layout = layout_of(recipe_, prepared_, index, stage ? planned_result(input, *stage) : input);
    report_["bytes"]["after"] = layout.shards().total_bytes();
    const bool structural = stage && stage->structural;
    if (last && !structural)
        write_side_files(input, layout);
    else if (!last)
        write_atomically(folder / "config.json", input.config().dump());
    run_blocks(index, input, layout, folder);
    if (stage) report_stage(index, started);
    Model result = input;
    const auto removed = removals_of(index);
    if (structural && !stage->zeroed && !removed.empty())
        result = input.edited(remove(input.graph(), *stage->all_axes, removed));
    result = result.with_weights(Checkpoint::open(folder));
    if (last && structural) write_side_files(result, layout);
    return result;
}

void Run::report_stage(std::size_t index, std::chrono::steady_clock::time_point started) {
    const Stage& stage = prepared_.stages[index];
    json linears = json::array(), axes = json::array(), positions = json::array();
    for (const auto& entry : journal_->entries()) {
        if (entry.value("stage", std::int64_t{-1}) != std::int64_t(index)) continue;
        for (const auto& linear : entry.value("linears", json::array())) linears.push_back(linear);
    }
    for (std::size_t p = 0; stage.bases && p < stage.bases->bases.size(); ++p)
        if (const json* entry = journal_->find(text("position ", p), std::int64_t(index), -1))
            positions.push_back((*entry)["figures"]);
    const auto removed = removals_of(index);
    for (const auto& target : stage.axes) {
        std::vector<std::int64_t> units;
        for (const auto& removal : removed)
            if (removal.axis == target.axis->name) units = removal.units;
        axes.push_back({{"name", target.axis->name},
                        {"kind", axis_kind_name(target.axis->kind)},
                        {"units", target.axis->size},
                        {"removed", units}});
    }
    report_["stages"].push_back({{"method", stage.method_id},
                                 {"version", stage.method->version},
                                 {"options", stage.options},
                                 {"seconds", seconds_since(started)},
                                 {"peak_bytes", peak_resident_bytes()},
                                 {"linears", linears}});
    if (stage.structural) report_["stages"].back()["axes"] = axes;
    if (stage.bases) report_["stages"].back()["positions"] = positions;
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
    return {.chosen =
                [this, index, &stage](std::size_t position, const std::map<std::string, double>& metrics) {
                    const auto& at = stage.stream.positions[position];
                    json line{{"name", at.name}, {"block", at.block}, {"of", at.features}};
                    for (const auto& [key, value] : metrics) line[key] = value;
                    journal_->add(
                        {{"kind", text("position ", position)}, {"stage", index}, {"block", -1}, {"figures", line}});
                    meter_.detail(at.name);
                },
            .progress = [this](double flops) { meter_.add(flops); },
            .log = [this](int level, const std::string& message) { meter_.log(level, message); },
            .check_cancelled = [this] { meter_.check_cancelled(); }};
}

/// The stage over the weights that it really starts from, with the sizes that a survey gives where there is one.
BasisStage Run::surveyed(std::size_t index, const Model& input, const fs::path& scratch) {
    const Stage& stage = prepared_.stages[index];
    const std::int64_t tokens = stage.windows->samples * stage.windows->length;
    BasisStage planned = BasisStage::plan(stage.bases->method, input, tokens);
    if (!planned.survey) return planned;
    BasisRunner(planned, stage.windows.get(), recipe_.model.compute, false, scratch, partial_,
                basis_hooks(index, planned))
        .survey();
    return BasisStage::plan(stage.bases->method, input, tokens);
}

void Run::write_turned(std::size_t index, std::size_t block, ResultWriter& writer) {
    if (journal_->find("block", std::int64_t(index), std::int64_t(block))) return;
    const auto known = writer.checksums();
    writer.write_copied(block);
    writer.sync();
    json checksums = json::object();
    for (const auto& [name, sum] : writer.checksums())
        if (!known.contains(name)) checksums[name] = sum;
    journal_->add({{"kind", "block"}, {"stage", index}, {"block", block}, {"checksums", checksums}});
}

Model Run::run_bases(std::size_t index, const Model& input, const fs::path& folder, bool last) {
    const auto started = std::chrono::steady_clock::now();
    const Stage& stage = prepared_.stages[index];
    meter_.phase(stage.method_id);
    const fs::path scratch = partial_ / text("bases-", index);
    fs::create_directories(scratch);
    BasisStage bases = surveyed(index, input, scratch);
    const OutputLayout layout = layout_of(recipe_, prepared_, index, bases.result);
    report_["bytes"]["after"] = layout.shards().total_bytes();
    if (last)
        write_side_files(bases.result, layout);
    else
        write_atomically(folder / "config.json", input.config().dump());
    const bool begun = journal_->find("files", std::int64_t(index), -1) != nullptr;
    ResultWriter writer(layout, bases.result, folder, begun);
    if (!begun) journal_->add({{"kind", "files"}, {"stage", index}, {"block", -1}});

    BasisRunner runner(bases, stage.windows.get(), recipe_.model.compute, stage.sequential != Sequential::none, scratch,
                       partial_, basis_hooks(index, bases));
    runner.start();
    const std::size_t blocks = input.graph().blocks.size();
    for (std::size_t block = 0; block < blocks; ++block) {
        meter_.check_cancelled();
        input.prefetch(block + 1);
        runner.block(block);
        write_turned(index, block, writer);
        runner.forget(block);
    }
    write_turned(index, layout.outside(), writer);
    report_stage(index, started);
    return bases.result.with_weights(Checkpoint::open(folder));
}

void Run::copy_outside(std::size_t index, ResultWriter& writer, const OutputLayout& layout) {
    constexpr std::int64_t outside = -2;
    if (journal_->find("block", std::int64_t(index), outside)) return;
    writer.write_copied(layout.outside());
    writer.sync();
    journal_->add({{"kind", "block"}, {"stage", index}, {"block", outside}, {"checksums", writer.checksums()}});
}

/// Units that the stage removed: in one block, or in all.
std::vector<Removal> Run::removals_of(std::size_t index, std::int64_t block) const {
    std::vector<Removal> out;
    for (const auto& entry : journal_->entries()) {
        if (entry.value("kind", "") != "block" || entry.value("stage", std::int64_t{-1}) != std::int64_t(index))
            continue;
        if (block >= 0 && entry.value("block", std::int64_t{-1}) != block) continue;
        for (auto& removal : removals_from(entry)) out.push_back(std::move(removal));
    }
    return out;
}

/// A line of metrics.jsonl and of the report.
void Run::add_metrics(json& linears, json line) {
    line["rss_bytes"] = resident_bytes();
    File metrics = File::open(partial_ / "metrics.jsonl",
                              fs::exists(partial_ / "metrics.jsonl") ? File::Mode::read_write : File::Mode::write_new);
    metrics.append(line.dump() + "\n");
    meter_.detail(line["name"]);
    linears.push_back(std::move(line));
}

BlockRunner::Hooks Run::hooks(ResultWriter& writer, json& linears, const Model& input, PrunedParts& parts) {
    return {.made =
                [this, &writer, &linears](const Target& target, const Compressed& made) {
                    writer.write_linear(target, made);
                    json line{{"name", target.name}, {"shape", {target.out, target.in}}};
                    for (const auto& [key, value] : made.metrics) line[key] = value;
                    add_metrics(linears, std::move(line));
                },
            .pruned =
                [this, &linears, &input, &parts](const AxisTarget& target, Pruned&& pruned) {
                    for (const auto& consumer : pruned.consumers) {
                        const Op& op = input.graph().blocks[target.block].ops[consumer.op];
                        json line{{"name", op.name},
                                  {"shape", {op.rows, op.columns}},
                                  {"axis", target.axis->name},
                                  {"units", target.axis->size},
                                  {"removed", pruned.units.size()}};
                        for (const auto& [key, value] : consumer.metrics) line[key] = value;
                        add_metrics(linears, std::move(line));
                    }
                    parts.add(input, target, std::move(pruned));
                },
            .progress = [this](double flops) { meter_.add(flops); },
            .log = [this](int level, const std::string& message) { meter_.log(level, message); },
            .check_cancelled = [this] { meter_.check_cancelled(); }};
}

void Run::run_blocks(std::size_t index, const Model& input, const OutputLayout& layout, const fs::path& folder) {
    const bool any_stage = index < prepared_.stages.size();
    const Stage* stage = any_stage ? &prepared_.stages[index] : nullptr;
    const std::size_t blocks = input.graph().blocks.size();
    meter_.phase(stage ? stage->method_id : "copy");
    ResultWriter writer(layout, input, folder, journal_->find("block", std::int64_t(index), -2) != nullptr);
    copy_outside(index, writer, layout);

    const bool data = stage && stage->calibrated;
    std::optional<Units> units;
    std::optional<States> states, dense_states;
    if (data) {
        units.emplace(*stage->windows);
        const auto begin = [&](std::optional<States>& stream) {
            stream.emplace(*units, partial_, recipe_.model.compute);
            embed_all(input, *units, recipe_.model.compute, *stream);
        };
        begin(states);
        if (stage->dense_stream) begin(dense_states);
    }
    const std::size_t last_with_target = stage ? stage->last_block() : 0;

    for (std::size_t block = 0; block <= blocks; ++block) {
        const bool epilogue = block == blocks;
        if (epilogue && (!stage || stage->in_block(block).empty())) break;
        meter_.check_cancelled();
        input.prefetch(block + 1);
        if (journal_->find("block", std::int64_t(index), std::int64_t(block))) {
            // Finished by an earlier run: its output is computed again from the weights on disk (from the dense ones
            // where that is what later blocks are to see).
            if (data && block < last_with_target) {
                const bool dense = stage->sequential == Sequential::none;
                const Model done = dense ? input
                                   : stage->structural
                                       ? streamed_model(input, *stage, block, removals_of(index, std::int64_t(block)),
                                                        Checkpoint::open(folder))
                                       : input.with_weights(Checkpoint::open(folder));
                run_block(done, block, *units, recipe_.model.compute, *states, {});
                if (dense_states) run_block(input, block, *units, recipe_.model.compute, *dense_states, {});
            }
            continue;
        }
        json linears = json::array();
        PrunedParts parts;
        const auto block_hooks = hooks(writer, linears, input, parts);
        const auto known = writer.checksums();
        if (stage) {
            BlockRunner runner(input, *stage, block, layout, block_hooks);
            if (!data)
                runner.compress_without_data();
            else if (block <= last_with_target)
                runner.run(*units, *states, dense_states ? &*dense_states : nullptr, recipe_.model.compute,
                           block == last_with_target);
        }
        if (!epilogue && parts.removals.empty()) writer.write_copied(block);
        if (!epilogue && !parts.removals.empty()) {
            const Model edited = pruned_model(input, *stage, parts);
            writer.write_copied(block, &edited);
        }
        writer.sync();
        json checksums = json::object();
        for (const auto& [name, sum] : writer.checksums())
            if (!known.contains(name)) checksums[name] = sum;
        json entry{
            {"kind", "block"}, {"stage", index}, {"block", block}, {"linears", linears}, {"checksums", checksums}};
        if (!parts.removals.empty()) entry["removed"] = removals_json(parts.removals);
        journal_->add(entry);
    }
}

void Run::evaluate_after(const Model& result) {
    meter_.phase("evaluate");
    const Model* reference = recipe_.evaluation.kl ? &prepared_.model : nullptr;
    for (const auto& [name, windows] : prepared_.evaluation) {
        meter_.detail(name);
        const double flops_a_token = flops_of_a_step(result.graph(), windows.length);
        const Evaluated figures =
            evaluate(result, reference, windows, recipe_.model.compute, partial_, [&](std::int64_t tokens) {
                meter_.check_cancelled();
                meter_.add(double(tokens) * flops_a_token);
            });
        report_["after"]["perplexity"][name] = perplexity_json(figures.model);
        if (!reference) continue;
        report_["before"]["perplexity"][name] = perplexity_json(figures.reference);
        report_["kl"][name] = figures.agreement.kl;
        report_["kl_standard_error"][name] = figures.agreement.kl_standard_error;
        report_["top1_agreement"][name] = figures.agreement.top1;
    }
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
            removed.push_back({{"stage", index}, {"units", removals_json(removals_of(index))}});
    json kerf{{"kerf", version()},
              {"edited", any_shape_},
              {"graph", graph_json(result_->graph())},
              {"provenance", provenance_},
              {"crc32", checksums}};
    if (!removed.empty()) kerf["removed"] = std::move(removed);
    write_atomically(partial_ / "kerf.json", kerf.dump(1) + "\n");
    report_["provenance"] = provenance_;
    write_report(report_, partial_);
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
            evaluate(model, reference ? &*reference : nullptr, windows, request.compute, fs::temp_directory_path(),
                     [&](std::int64_t tokens) {
                         if (observer.cancelled && observer.cancelled()) throw Error(Fault::cancelled, "interrupted");
                         done += double(tokens);
                         if (observer.progress) observer.progress("evaluate", spec.name, std::min(done, total), total);
                     });
        out["perplexity"][spec.name] = perplexity_json(figures.model);
        if (!reference) continue;
        out["reference"][spec.name] = perplexity_json(figures.reference);
        out["kl"][spec.name] = figures.agreement.kl;
        out["kl_standard_error"][spec.name] = figures.agreement.kl_standard_error;
        out["top1_agreement"][spec.name] = figures.agreement.top1;
    }
    out["seconds"] = seconds_since(started);
    return out;
}

}  // namespace kerf::core
