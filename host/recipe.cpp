// SPDX-License-Identifier: Apache-2.0
#include "host/recipe.hpp"

#include <algorithm>
#include <sstream>

#include "core/plugin_api/options.hpp"
#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "host/settings.hpp"
#include "host/toml_reader.hpp"

namespace kerf::host {
namespace {

using core::bad_input;
namespace fs = std::filesystem;

/// What a stage may hold beside its method's options.
const std::vector<std::string> stage_keys{"method",   "version",     "include", "exclude",    "sequential",
                                          "override", "calibration", "refit",   "refit_damp", "result"};

constexpr auto not_yet = " is not available in this version";

/// Reads the sections of one recipe; paths in it are relative to `folder`.
class RecipeReader {
public:
    RecipeReader(const toml::table& recipe, const fs::path& file)
        : root_(recipe, "", file.string()), file_(file), folder_(file.parent_path()) {}

    core::Recipe read() const {
        root_.allow_only({"model", "calibration", "stage", "evaluation", "output"});
        core::Recipe out;
        out.file = file_;
        out.model = read_model(section("model"));
        if (const auto table = root_.table("calibration")) out.calibration = read_calibration(*table);
        for (const auto& table : root_.tables("stage")) out.stages.push_back(read_stage(table));
        if (const auto table = root_.table("evaluation")) out.evaluation = read_evaluation(*table);
        out.output = read_output(section("output"));
        return out;
    }

private:
    TableReader section(std::string_view name) const {
        auto table = root_.table(name);
        if (!table) bad_input(file_.string(), ": the table [", name, "] with a path is missing");
        return *table;
    }
    fs::path path(const TableReader& table) const {
        const fs::path out = (folder_ / table.text("path")).lexically_normal();
        return out.has_filename() ? out : out.parent_path();
    }

    core::ModelSpec read_model(const TableReader& table) const;
    core::TextSource read_source(const TableReader& table, std::int64_t samples, std::int64_t least_length) const;
    core::TextSource read_calibration(const TableReader& table) const;
    core::StageSpec read_stage(const TableReader& table) const;
    core::EvaluationSpec read_evaluation(const TableReader& table) const;
    core::OutputSpec read_output(const TableReader& table) const;

    TableReader root_;
    fs::path file_, folder_;
};

core::ModelSpec RecipeReader::read_model(const TableReader& table) const {
    table.allow_only({"path", "device", "compute_dtype", "memory"});
    core::ModelSpec out;
    out.path = path(table);
    out.device = table.text("device", "cpu");
    if (out.device == "cuda" || out.device.starts_with("cuda:"))
        table.refuse("device", " = \"", out.device, "\"", not_yet, "; use \"cpu\"");
    if (out.device != "cpu") table.refuse("device", " = \"", out.device, "\" is not a device; use \"cpu\"");
    const bool half = table.choice("compute_dtype", "float32", {"float32", "bfloat16"}) == "bfloat16";
    out.compute = half ? core::DType::bf16 : core::DType::f32;
    out.memory_budget = table.bytes("memory").value_or(0);
    return out;
}

/// What calibration and evaluation texts have in common.
core::TextSource RecipeReader::read_source(const TableReader& table, std::int64_t samples,
                                           std::int64_t least_length) const {
    core::TextSource out;
    out.source = table.choice("source", "text", {"text", "jsonl", "json", "c4", "alpaca", "tokens"});
    out.path = path(table);
    const bool stored = out.source == "tokens";
    const bool documents = out.source == "jsonl" || out.source == "json" || out.source == "c4";
    if (stored) out.tensor = table.text("tensor");
    if (!stored && table.has("tensor")) table.refuse("tensor", " goes with source = \"tokens\" alone");
    if (!documents && table.has("field"))
        table.refuse("field", " goes with source = \"jsonl\", \"json\" or \"c4\" alone");
    out.field = table.text("field", "text");
    out.samples = table.integer("samples", samples, 0);
    // Stored windows have their length already; 0 takes it as it is.
    out.length = table.integer("length", stored ? 0 : 2048, stored ? 0 : least_length);
    return out;
}

core::TextSource RecipeReader::read_calibration(const TableReader& table) const {
    table.allow_only({"source", "path", "tensor", "mask", "field", "samples", "length", "seed"});
    core::TextSource out = read_source(table, 128, 1);
    out.mask = table.text("mask", "");
    if (table.has("mask") && out.source != "tokens") table.refuse("mask", " goes with source = \"tokens\" alone");
    out.seed = static_cast<std::uint64_t>(table.integer("seed", 0, 0));
    return out;
}

/// ">=1.0", "1.2.3", "< 2".
bool is_version_requirement(std::string_view text) {
    for (const std::string_view relation : {">=", "<=", "==", ">", "<", "="}) {
        if (!text.starts_with(relation)) continue;
        text.remove_prefix(relation.size());
        break;
    }
    while (text.starts_with(' ')) text.remove_prefix(1);
    int numbers = 0;
    while (true) {
        const auto digits = std::min(text.find_first_not_of("0123456789"), text.size());
        if (digits == 0 || digits > 9 || ++numbers > 3) return false;
        text.remove_prefix(digits);
        if (text.empty()) return true;
        if (text.front() != '.') return false;
        text.remove_prefix(1);
    }
}

core::Sequential sequential_from(const std::string& word) {
    if (word == "linear") return core::Sequential::linear;
    if (word == "block") return core::Sequential::block;
    if (word == "shared") return core::Sequential::shared;
    return word == "none" ? core::Sequential::none : core::Sequential::group;
}

/// [stage.override."glob"] tables in the order of the file (what --set adds comes last).
void read_overrides(const TableReader& overrides, core::StageSpec& out) {
    std::vector<std::pair<toml::source_position, std::string>> order;
    for (const auto& [key, node] : overrides.raw()) {
        auto position = node.source().begin;
        const bool from_file = position.line != 0 && !location_of(node.source(), "").starts_with("--");
        if (!from_file) position.line = static_cast<toml::source_index>(-1);
        order.emplace_back(position, std::string(key.str()));
    }
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [position, glob] : order) {
        const TableReader values = *overrides.table(glob);
        for (const auto& [key, node] : values.raw()) {
            const std::string place = values.location(key.str());
            const std::string option(key.str());
            out.where.emplace(option, place);
            out.where[core::text("override.\"", glob, "\".", option)] = place;
        }
        out.overrides.emplace_back(glob, to_json(values.raw(), values.location()));
    }
}

core::StageSpec RecipeReader::read_stage(const TableReader& table) const {
    core::StageSpec out;
    out.location = table.location();
    out.method = table.text("method");
    out.version = table.text("version", "");
    if (!out.version.empty() && !is_version_requirement(out.version))
        table.refuse("version", " = \"", out.version, "\" is not a version; write it as in \">=1.0\" or \"1.2.3\"");
    out.include = table.texts("include");
    out.exclude = table.texts("exclude");
    out.sequential =
        sequential_from(table.choice("sequential", "group", {"linear", "group", "block", "none", "shared"}));
    out.refit = table.flag("refit", false);
    if (table.has("refit_damp")) {
        if (!out.refit) table.refuse("refit_damp", " goes with refit = true");
        out.refit_damp = table.real("refit_damp", 0.01);
        if (!(out.refit_damp >= 0 && out.refit_damp <= 1)) table.refuse("refit_damp", " should be between 0 and 1");
    }
    out.zeroed = table.choice("result", "pruned", {"pruned", "zeroed"}) == "zeroed";
    if (const auto calibration = table.table("calibration")) out.calibration = read_calibration(*calibration);

    out.options = nlohmann::json::object();
    for (const auto& [key, node] : table.raw()) {
        const std::string option(key.str());
        if (std::find(stage_keys.begin(), stage_keys.end(), option) != stage_keys.end()) continue;
        out.where[option] = table.location(option);
        out.options[option] = to_json(node, table.location(option));
    }
    if (const auto overrides = table.table("override")) read_overrides(*overrides, out);
    return out;
}

core::EvaluationSpec RecipeReader::read_evaluation(const TableReader& table) const {
    table.allow_only({"before", "between", "perplexity", "kl", "tasks", "tasks_path", "generate"});
    for (const auto* key : {"tasks", "tasks_path", "generate"})
        if (table.has(key)) table.refuse(key, not_yet, "; leave it out");
    core::EvaluationSpec out;
    out.before = table.flag("before", true);
    out.between = table.flag("between", true);
    out.kl = table.flag("kl", false);
    for (const auto& entry : table.tables("perplexity")) {
        entry.allow_only({"name", "source", "path", "tensor", "field", "length", "samples"});
        // A window of one token predicts nothing.
        core::PerplexitySpec spec{"", read_source(entry, 0, 2)};
        spec.name = entry.text("name", spec.text.path.stem().string());
        for (const auto& other : out.perplexity)
            if (other.name == spec.name)
                entry.refuse("name", " = \"", spec.name, "\" is there already; give each text a name of its own");
        out.perplexity.push_back(std::move(spec));
    }
    if (out.kl && out.perplexity.empty())
        table.refuse("kl", " = true needs a text to compare on; add one to evaluation.perplexity");
    return out;
}

core::OutputSpec RecipeReader::read_output(const TableReader& table) const {
    table.allow_only({"path", "format", "dtype", "overwrite", "shard_size"});
    core::OutputSpec out;
    out.path = path(table);
    out.format = table.choice("format", "hf", {"hf", "gptq", "compressed-tensors", "spqr", "kerf"});
    if (out.format != "hf" && out.format != "gptq")
        table.refuse("format", " = \"", out.format, "\"", not_yet, "; use \"hf\" or \"gptq\"");
    const auto dtype = table.choice("dtype", "auto", {"auto", "float32", "float16", "bfloat16"});
    if (dtype != "auto") out.dtype = core::dtype_from_name(dtype);
    out.overwrite = table.flag("overwrite", false);
    out.shard_bytes = table.bytes("shard_size").value_or(out.shard_bytes);
    return out;
}

/// The effective recipe as TOML with sorted keys: two recipes that say the same have the same text.
std::string canonical_text(const toml::table& recipe) {
    std::ostringstream out;
    out << toml::toml_formatter(recipe, toml::toml_formatter::default_flags) << '\n';
    return std::move(out).str();
}

}  // namespace

core::Recipe parse_recipe(std::string_view text, const fs::path& file, const RecipeChanges& changes) {
    toml::table table = parse_toml(text, file.string());
    for (const auto& setting : changes.set) apply_setting(table, setting);
    if (!changes.output.empty())
        put_text(table, "output.path", fs::absolute(changes.output).lexically_normal().string(), "--output");
    if (!changes.memory.empty()) put_text(table, "model.memory", changes.memory, "--memory");
    core::Recipe out = RecipeReader(table, file).read();
    out.text = canonical_text(table);
    return out;
}

core::Recipe read_recipe(const fs::path& file, const RecipeChanges& changes) {
    return parse_recipe(core::read_text(file), file, changes);
}

void check_stage_keys(const core::Recipe& recipe, const core::Components& components) {
    for (const auto& stage : recipe.stages) {
        const auto* method = components.method(stage.method);
        if (!method) continue;
        const auto schema = method->table->options_schema;
        std::vector<std::string> options;
        for (const auto& option : core::parse_schema({schema.data, schema.size}, method->id))
            options.push_back(option.name);
        std::vector<std::string> known = stage_keys;
        known.insert(known.end(), options.begin(), options.end());
        for (const auto& [key, value] : stage.options.items()) {
            if (std::find(options.begin(), options.end(), key) != options.end()) continue;
            const auto near = core::nearest(key, known);
            if (std::find(stage_keys.begin(), stage_keys.end(), near) != stage_keys.end())
                bad_input(stage.where.at(key), ": unknown key \"", key, "\" in a stage; did you mean \"", near, "\"?");
        }
    }
}

}  // namespace kerf::host
