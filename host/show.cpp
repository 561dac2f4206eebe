// SPDX-License-Identifier: Apache-2.0
#include "host/show.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/support/text.hpp"
#include "host/console/format.hpp"
#include "host/show_pruning.hpp"

namespace kerf::host {
namespace {

using core::format_bytes;
using core::format_seconds;
using core::text;
using nlohmann::json;
using Rows = std::vector<std::vector<std::string>>;

/// A number at a path of keys; NaN when something on the way is missing.
double number_at(const json& from, std::initializer_list<const char*> path) {
    const json* at = &from;
    for (const auto* key : path) {
        if (!at->is_object() || !at->contains(key)) return NAN;
        at = &at->at(key);
    }
    return at->is_number() ? at->get<double>() : NAN;
}

std::string text_at(const json& from, const char* key) {
    return from.is_object() && from.contains(key) && from[key].is_string() ? from[key].get<std::string>() : "";
}

json part(const json& from, const char* key) {
    return from.is_object() && from.contains(key) ? from[key] : json();
}

std::string with_error(const json& figure) {
    const double error = number_at(figure, {"standard_error"});
    return fixed(number_at(figure, {"value"}), 3) + (std::isfinite(error) ? " ± " + fixed(error, 3) : "");
}

double mean_bits(const core::PlannedStage& stage) {
    double bits = 0, weights = 0;
    for (const auto& linear : stage.linears) {
        const double size = double(linear.out_features) * double(linear.in_features);
        bits += linear.bits_per_weight * size;
        weights += size;
    }
    return weights > 0 ? bits / weights : 0;
}

/// "4 M to 2.9 M parameters (-27.5 %)"
std::string parameters_line(double before, double after) {
    return text(short_count(before), " to ", short_count(after), " parameters (", signed_percent(after / before - 1),
                ")");
}

/// Of the calibration tokens through all blocks.
std::string planned_passes(const core::PlannedStage& stage) {
    const double passes = double(stage.block_runs) / double(std::max<std::int64_t>(1, stage.blocks_before));
    return fixed(passes, passes == std::floor(passes) ? 0 : 2);
}

/// What pruning stages take, a line each.
std::string plan_of_pruning(const core::Plan& plan) {
    std::string out;
    for (std::size_t i = 0; i < plan.stages.size(); ++i) {
        const auto& stage = plan.stages[i];
        json axes = json::array();
        for (const auto& axis : stage.axes)
            axes.push_back({{"kind", axis.kind}, {"units", axis.units}, {"removed", axis.removed}});
        const std::string pruned = show_pruned(axes, {{"before", stage.blocks_before}, {"after", stage.blocks_after}});
        if (pruned.empty() && stage.parameters_before == stage.parameters_after) continue;
        out += text("stage ", i, "  ", stage.method,
                    stage.estimated ? ": at most "
                    : stage.exact   ? ": "
                                    : ": about ",
                    pruned, pruned.empty() ? "" : " go, ",
                    parameters_line(double(stage.parameters_before), double(stage.parameters_after)), "\n");
    }
    return out.empty() ? out : out + "\n";
}

/// "28 linears", or of a stage that removes "8 of 16 KV groups (50 %) removed, …", or of one that turns the residual
/// stream "9 positions, 160 to 192 of 256 features"
std::string what_of(const json& stage, std::size_t linears) {
    const json positions = part(stage, "positions");
    if (const std::string pruned = show_pruned(part(stage, "axes"), part(stage, "blocks")); !pruned.empty())
        return text(
            pruned, " removed, ",
            parameters_line(number_at(stage, {"parameters", "before"}), number_at(stage, {"parameters", "after"})));
    if (positions.empty()) return text(linears, " linears");
    double least = INFINITY, most = 0;
    for (const auto& position : positions) {
        least = std::min(least, number_at(position, {"features"}));
        most = std::max(most, number_at(position, {"features"}));
    }
    return text(positions.size(), " positions, ", fixed(least, 0), least < most ? " to " + fixed(most, 0) : "", " of ",
                fixed(number_at(positions[0], {"of"}), 0), " features");
}

/// "1 forward pass", "2 forward passes"; a pass that ends before the last block counts by its blocks: "0.75".
std::string count_of_passes(double passes) {
    const bool whole = passes == std::floor(passes);
    return text(fixed(passes, whole ? 0 : 2), passes == 1 ? " forward pass" : " forward passes");
}

/// How calibration tokens went through the blocks for a stage.
std::string passes_of(const json& stage) {
    const double passes = number_at(stage, {"forward", "passes"}), sweeps = number_at(stage, {"sweeps"});
    std::string out;
    if (sweeps > 0) out = text(fixed(sweeps, 0), sweeps == 1 ? " backward sweep" : " backward sweeps");
    if (passes > 0) out += (out.empty() ? "" : ", ") + count_of_passes(passes);
    if (stage.is_object() && stage.value("shares_grams", false)) out = "on the pass of the stage before";
    return out;
}

/// "28 linears, error 0.0081 on average, at most 0.021 (model.layers.3.mlp.down_proj)"
std::string stage_line(const json& stage, std::size_t number) {
    double sum = 0, worst = -1;
    std::string worst_name;
    std::size_t known = 0;
    const json linears = part(stage, "linears");
    for (const auto& linear : linears) {
        const double error = number_at(linear, {"error"});
        if (!std::isfinite(error)) continue;
        sum += error;
        ++known;
        if (error > worst) {
            worst = error;
            worst_name = text_at(linear, "name");
        }
    }
    std::string out = text("stage ", number, "  ", text_at(stage, "method"), " ", text_at(stage, "version"), ": ",
                           what_of(stage, linears.size()));
    if (known > 0)
        out += text(", error ", significant(sum / double(known)), " on average, at most ", significant(worst), " (",
                    worst_name, ")");
    if (const std::string walked = passes_of(stage); !walked.empty()) out += ", " + walked;
    if (const json figures = part(stage, "perplexity"); figures.is_object())
        for (const auto& [name, figure] : figures.items()) out += text(", perplexity ", name, " ", with_error(figure));
    return out + text(", ", format_seconds(number_at(stage, {"seconds"}))) + "\n";
}

void add_perplexities(const json& run, Rows& rows) {
    const json before = part(part(run, "before"), "perplexity"), after = part(part(run, "after"), "perplexity");
    std::set<std::string> names;
    for (const auto* figures : {&before, &after})
        if (figures->is_object())
            for (const auto& [name, figure] : figures->items()) names.insert(name);
    for (const auto& name : names) {
        const json was = part(before, name.c_str()), is = part(after, name.c_str());
        const double change = number_at(is, {"value"}) / number_at(was, {"value"}) - 1;
        rows.push_back({"perplexity " + name, with_error(was), with_error(is),
                        std::isfinite(change) ? signed_percent(change) : ""});
    }
}

void add_agreement(const json& run, Rows& rows) {
    const json kl = part(run, "kl"), top1 = part(run, "top1_agreement");
    if (!kl.is_object()) return;
    for (const auto& [name, value] : kl.items()) {
        const double error = number_at(run, {"kl_standard_error", name.c_str()});
        rows.push_back({"KL divergence " + name, "",
                        significant(number_at(kl, {name.c_str()})) +
                            (std::isfinite(error) ? " ± " + significant(error) : "") + " nats",
                        ""});
        rows.push_back({"top-1 agreement " + name, "", percent(number_at(top1, {name.c_str()})), ""});
    }
}

/// "model.layers.0.mlp.up_proj" in block "model.layers.0" → "mlp.up_proj"
std::string inside(const std::string& block, const std::string& name) {
    return name.starts_with(block + ".") ? name.substr(block.size() + 1) : name;
}

std::string shape_of(const json& linear) {
    const json shape = part(linear, "shape");
    return shape.is_array() ? core::format_shape(shape.get<std::vector<std::int64_t>>()) : "";
}

Rows linear_rows(const std::string& block, const json& linears) {
    Rows rows{{"linear", "shape", "dtype", "bias", "parameters"}};
    for (const auto& linear : linears) {
        double parameters = 1;
        for (const auto& size : part(linear, "shape")) parameters *= size.get<double>();
        rows.push_back({"  " + inside(block, text_at(linear, "name")), shape_of(linear), text_at(linear, "dtype"),
                        linear.value("bias", false) ? "yes" : "", short_count(parameters)});
    }
    return rows;
}

/// Whether two blocks differ in their names alone.
bool alike(const json& a, const json& b) {
    for (const auto* key : {"parameters", "flops_per_token", "kv_cache"})
        if (part(a, key) != part(b, key)) return false;
    return linear_rows(text_at(a, "name"), part(a, "linears")) == linear_rows(text_at(b, "name"), part(b, "linears"));
}

/// "204 k", or with experts "204 k, 51 k of them active"; `unit` follows the first number.
std::string parameters_of(const json& cost, std::string_view unit = "") {
    const double all = number_at(cost, {"parameters"}), active = number_at(cost, {"active_parameters"});
    const std::string whole = text(short_count(all), unit);
    return active < all ? text(whole, ", ", short_count(active), " of them active") : whole;
}

/// The first line of a run of `count` blocks.
std::string block_line(const json& block, std::size_t count) {
    return text(count > 1 ? " each " : " ", parameters_of(block, " parameters"), ", ",
                format_bytes(number_at(block, {"bytes"})), ", ",
                short_count(number_at(block, {"flops_per_token", "decode"})), " FLOPs and ",
                format_bytes(number_at(block, {"kv_cache", "bytes_per_token"})), " of KV cache a token\n");
}

/// What a token takes, in rows of the head.
void add_token_costs(const json& model, Rows& head) {
    const std::string length = text(model.value("length", std::int64_t{0}));
    const auto flops = [&](const char* when) { return short_count(number_at(model, {"flops_per_token", when})); };
    const auto cache = [&](const char* what) { return format_bytes(number_at(model, {"kv_cache", what})); };
    head.push_back({"FLOPs per token",
                    text(flops("prefill"), " in a prefill of ", length, ", ", flops("decode"), " after ", length)});
    head.push_back({"KV cache", text(cache("bytes_per_token"), " a token, ", cache("bytes"), " after ", length, " (",
                                     text_at(part(model, "kv_cache"), "dtype"), ")")});
}

/// What all weights take in each format.
std::string show_formats(const json& model) {
    Rows sizes{{"weights as", "size", "bits a weight"}};
    for (const auto& format : part(model, "formats")) {
        const std::string packed = format.contains("bits") ? text(number_at(format, {"bits"}), " bits, groups of ",
                                                                  number_at(format, {"group_size"}))
                                                           : text_at(format, "dtype");
        sizes.push_back(
            {packed, format_bytes(number_at(format, {"bytes"})), fixed(number_at(format, {"bits_per_weight"}), 2)});
    }
    return aligned_table(sizes, "lrr");
}

std::string show_blocks(const json& blocks) {
    std::string out;
    for (std::size_t first = 0, last = 0; first < blocks.size(); first = last + 1) {
        last = first;
        while (last + 1 < blocks.size() && alike(blocks[first], blocks[last + 1])) ++last;
        const std::string name = text_at(blocks[first], "name");
        out += "\n" + name;
        if (last > first) out += text(" to ", text_at(blocks[last], "name"), " (", last - first + 1, " alike)");
        out += text(":", block_line(blocks[first], last - first + 1));
        out += aligned_table(linear_rows(name, part(blocks[first], "linears")), "lrllr");
    }
    return out;
}

}  // namespace

std::string show_plan(const core::Recipe& recipe, const core::Plan& plan) {
    Rows rows{{"stage", "linears", "bits", "passes", "peak memory", "disk", "FLOPs"}};
    for (const auto& stage : plan.stages)
        rows.push_back({stage.method, text(stage.linears.size()),
                        stage.linears.empty() ? "–" : fixed(mean_bits(stage), 2), planned_passes(stage),
                        format_bytes(double(stage.peak_bytes)), format_bytes(double(stage.disk_bytes)),
                        short_count(stage.flops)});
    std::string out = text(recipe.model.path.string(), " to ", recipe.output.path.string(), " (", recipe.output.format,
                           ")\n\n", aligned_table(rows, "lrrrrrr"), "\n", plan_of_pruning(plan));
    const double ratio = plan.input_bytes > 0 ? double(plan.output_bytes) / double(plan.input_bytes) : NAN;
    const bool estimated =
        std::any_of(plan.stages.begin(), plan.stages.end(), [](const auto& stage) { return stage.estimated; });
    const std::string bound = estimated ? "at most " : plan.exact ? "" : "about ";
    Rows totals{{"output size", text(bound, format_bytes(double(plan.output_bytes)), ", ", percent(ratio, 0), " of ",
                                     format_bytes(double(plan.input_bytes)))},
                {"parameters", bound + short_count(double(plan.parameters_after)) +
                                   (plan.parameters_after == plan.parameters_before
                                        ? ""
                                        : " of " + short_count(double(plan.parameters_before)))},
                {"peak memory", text(format_bytes(double(plan.peak_bytes)), "; at least ",
                                     format_bytes(double(plan.minimum_bytes)), " with --memory")},
                {"disk", format_bytes(double(plan.disk_bytes))},
                {"work", short_count(plan.flops) + (plan.flops < 999.5 ? " FLOPs" : "FLOPs")}};
    if (plan.seconds > 0) totals.push_back({"time", "about " + format_seconds(plan.seconds)});
    out += aligned_table(totals, "ll");
    for (const auto& warning : plan.warnings) out += text("warning: ", warning, "\n");
    return out;
}

std::string show_run(const json& run) {
    Rows rows{{"", "before", "after", ""}};
    add_perplexities(run, rows);
    add_agreement(run, rows);
    const double parameters = number_at(run, {"parameters", "after"}), bytes = number_at(run, {"bytes", "after"});
    const double bytes_before = number_at(run, {"bytes", "before"});
    rows.push_back({"parameters", short_count(number_at(run, {"parameters", "before"})), short_count(parameters), ""});
    rows.push_back({"size", format_bytes(bytes_before), format_bytes(bytes), percent(bytes / bytes_before, 0)});
    std::string out = aligned_table(rows, "lrrr") + "\n";
    std::size_t number = 0;
    for (const auto& stage : part(run, "stages")) out += stage_line(stage, number++);
    const std::string folder = text_at(run, "output");
    if (const double passes = number_at(run, {"forward", "passes"}); passes > 0)
        out += text("forward  ", count_of_passes(passes), " of the calibration tokens, ",
                    fixed(number_at(run, {"forward", "block_runs"}), 0), " runs of a block\n");
    out += text("time     ", format_seconds(number_at(run, {"seconds"})), ", peak memory ",
                format_bytes(number_at(run, {"peak_bytes"})), "\n");
    return out + text("output   ", folder, "\nreport   ", folder, "/report.html\n");
}

std::string show_evaluation(const json& evaluation) {
    const json perplexity = part(evaluation, "perplexity"), reference = part(evaluation, "reference");
    Rows rows{{"", "perplexity", "tokens"}};
    if (!reference.is_null()) rows[0] = {"", "perplexity", "reference", "KL divergence", "top-1 agreement", "tokens"};
    for (const auto& [name, figure] : perplexity.items()) {
        std::vector<std::string> row{name, with_error(figure)};
        if (!reference.is_null()) {
            row.push_back(with_error(part(reference, name.c_str())));
            row.push_back(significant(number_at(evaluation, {"kl", name.c_str()})));
            row.push_back(percent(number_at(evaluation, {"top1_agreement", name.c_str()})));
        }
        row.push_back(text(figure.value("windows", 0), " windows, ", figure.value("tokens", std::int64_t{0})));
        rows.push_back(std::move(row));
    }
    return aligned_table(rows, std::string("l") + std::string(rows[0].size() - 1, 'r'));
}

std::string show_model(const json& model) {
    const json adapter = part(model, "adapter");
    Rows head{{"model", text_at(model, "model")},
              {"family", text(text_at(model, "family"), " (adapter ", text_at(adapter, "id"), " ",
                              text_at(adapter, "version"), ")")},
              {"parameters", text(parameters_of(model), " (", model.value("parameters", std::int64_t{0}), ")")},
              {"size", text(format_bytes(number_at(model, {"bytes"})),
                            model.value("weights", true) ? "" : ", as config.json announces; no weights here")},
              {"hidden size", fixed(number_at(model, {"hidden"}), 0)},
              {"vocabulary", fixed(number_at(model, {"vocabulary"}), 0)},
              {"positions", fixed(number_at(model, {"positions"}), 0)}};
    const json dtypes = part(model, "bytes_by_dtype");
    if (dtypes.is_object())
        for (const auto& [dtype, bytes] : dtypes.items())
            head.push_back({"of dtype " + dtype, format_bytes(bytes.get<double>())});
    add_token_costs(model, head);
    std::string out = text(aligned_table(head, "ll"), "\n", show_formats(model), show_blocks(part(model, "blocks")));
    json outside = json::array();
    for (const auto* place : {"prologue", "epilogue"})
        for (const auto& linear : part(part(model, "outside"), place)) outside.push_back(linear);
    if (!outside.empty()) out += "\noutside the blocks\n" + aligned_table(linear_rows("", outside), "lrllr");
    return out;
}

}  // namespace kerf::host
