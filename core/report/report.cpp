// SPDX-License-Identifier: Apache-2.0
#include "core/report/report.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "core/report/charts.hpp"
#include "core/report/html.hpp"
#include "core/report/pruning.hpp"
#include "core/report/style.hpp"
#include "core/support/file.hpp"
#include "core/support/text.hpp"

namespace kerf::core {
namespace report {
namespace {

using nlohmann::json;
using Rows = std::vector<std::vector<std::string>>;

std::string bytes(double number) {
    return std::isfinite(number) ? format_bytes(number) : "–";
}
std::string seconds(double number) {
    return std::isfinite(number) ? format_seconds(number) : "–";
}

/// "/models/llama-tiny" → "llama-tiny"
std::string last_name(const std::string& path) {
    const auto end = path.find_last_not_of('/');
    const auto begin = end == std::string::npos ? end : path.find_last_of('/', end);
    return end == std::string::npos ? path
                                    : path.substr(begin == std::string::npos ? 0 : begin + 1,
                                                  end - (begin == std::string::npos ? -1 : begin));
}

std::string with_error(const json& figure, int digits = 3) {
    const double error = number_at(figure, {"standard_error"});
    return fixed(number_at(figure, {"value"}), digits) + (std::isfinite(error) ? " ± " + fixed(error, digits) : "");
}

const json& perplexities(const json& run, std::string_view when) {
    return part(part(run, when), "perplexity");
}

std::vector<std::string> evaluation_names(const json& run) {
    std::set<std::string> names;
    for (const auto* when : {"before", "after"}) {
        const json& figures = perplexities(run, when);
        if (!figures.is_object()) continue;
        for (const auto& [name, figure] : figures.items()) names.insert(name);
    }
    return {names.begin(), names.end()};
}

std::string section(std::string_view heading, const std::string& content) {
    return content.empty() ? "" : element("section", "", element("h2", "", escaped(heading)) + "\n" + content) + "\n";
}

std::string figure(const std::string& heading, const std::string& chart, const std::string& note = {}) {
    if (chart.empty()) return {};
    return element("figure", "",
                   element("h3", "", escaped(heading)) + "\n" + chart +
                       (note.empty() ? "" : element("figcaption", "", escaped(note)))) +
           "\n";
}

// ---- The head: what was done and the figures that matter most -------------------------------------------------------

std::string card(const std::string& name, const std::string& value, const std::string& note) {
    return element("div", "class=\"card\"",
                   element("dt", "", escaped(name)) +
                       element("dd", "", element("b", "", escaped(value)) + element("span", "", escaped(note)))) +
           "\n";
}

std::string cards(const json& run) {
    std::string out;
    const double before = number_at(run, {"bytes", "before"}), after = number_at(run, {"bytes", "after"});
    if (std::isfinite(after))
        out +=
            card("Size", bytes(after),
                 std::isfinite(before) && after > 0 ? text(fixed(before / after, 2), "× smaller, from ", bytes(before))
                                                    : "");
    const auto names = evaluation_names(run);
    if (!names.empty()) {
        const std::string& name = names.front();
        const double was = number_at(perplexities(run, "before"), {name, "value"}),
                     is = number_at(perplexities(run, "after"), {name, "value"});
        const double change = 100 * (is / was - 1);
        out += card(
            "Perplexity, " + name, fixed(is, 3),
            std::isfinite(change) ? text(change < 0 ? "" : "+", fixed(change, 2), " %, from ", fixed(was, 3)) : "");
        if (const double kl = number_at(run, {"kl", name}); std::isfinite(kl))
            out += card("KL divergence", significant(kl), "nats per token, from the input model");
        if (const double top = number_at(run, {"top1_agreement", name}); std::isfinite(top))
            out += card("Top-1 agreement", percent(top), "of tokens have the same likeliest successor");
    }
    const double peak = number_at(run, {"peak_bytes"});
    if (const double time = number_at(run, {"seconds"}); std::isfinite(time))
        out += card("Time", seconds(time), std::isfinite(peak) ? "peak memory " + bytes(peak) : "");
    return out.empty() ? out : element("dl", "class=\"cards\"", "\n" + out) + "\n";
}

std::string head(const json& run) {
    std::string stages;
    const json& list = part(run, "stages");
    for (const auto& stage : list) stages += (stages.empty() ? "" : ", then ") + text_at(stage, "method");
    const std::string model = last_name(text_at(run, "model"));
    std::string sub = escaped(stages.empty() ? "No compression stages" : stages);
    if (const auto output = text_at(run, "output"); !output.empty())
        sub += " · written to " + element("code", "", escaped(output));
    if (const auto version = text_at(run, "kerf"); !version.empty()) sub += " · kerf " + escaped(version);
    return element("header", "",
                   element("h1", "", escaped(model.empty() ? "kerf run" : model)) + element("p", "", sub)) +
           "\n" + cards(run);
}

// ---- Quality
// ----------------------------------------------------------------------------------------------------------

std::string perplexity_charts(const json& run, const std::vector<std::string>& names) {
    std::string out;
    for (const auto& name : names) {
        std::vector<Estimate> estimates;
        for (const auto* when : {"before", "after"}) {
            const json& found = part(perplexities(run, when), name);
            const double value = number_at(found, {"value"}), error = number_at(found, {"standard_error"});
            if (std::isfinite(value))
                estimates.push_back({when, value, std::isfinite(error) ? error : 0, with_error(found),
                                     when == std::string_view("after")});
        }
        out +=
            figure("Perplexity on " + name, estimate_chart("Perplexity on " + name + " before and after", estimates));
    }
    if (out.empty()) return out;
    return out + element("p", "class=\"note\"",
                         "Lower is better. Bars are one standard error; both models saw the same windows, so the "
                         "difference is surer than the bars suggest.");
}

std::string quality(const json& run) {
    const auto names = evaluation_names(run);
    if (names.empty()) return {};
    Rows rows;
    for (const auto& name : names) {
        const json& was = part(perplexities(run, "before"), name);
        const json& is = part(perplexities(run, "after"), name);
        rows.push_back({escaped(name), with_error(was, 4), with_error(is, 4), significant(number_at(run, {"kl", name})),
                        percent(number_at(run, {"top1_agreement", name}), 2), count(number_at(is, {"tokens"})),
                        fixed(number_at(is, {"windows"}), 0)});
    }
    return perplexity_charts(run, names) +
           table({"Text", "Before", "After", "KL, nats", "Top-1", "Tokens", "Windows"}, rows, "lrrrrrr");
}

// ---- Sizes and time
// -----------------------------------------------------------------------------------------------------

std::string sizes(const json& run) {
    const double before = number_at(run, {"bytes", "before"}), after = number_at(run, {"bytes", "after"});
    std::string out =
        figure("Checkpoint size",
               bar_chart("Checkpoint size before and after",
                         {{"before", before, bytes(before)},
                          {"after", after, text(bytes(after), " (", percent(after / before, 0), ")"), true}}));
    const double had = number_at(run, {"parameters", "before"}), has = number_at(run, {"parameters", "after"});
    if (std::isfinite(had) && std::isfinite(has) && had != has)
        out +=
            figure("Parameters", bar_chart("Parameters before and after",
                                           {{"before", had, count(had)},
                                            {"after", has, text(count(has), " (", percent(has / had, 0), ")"), true}}));
    return out;
}

std::string timings(const json& run) {
    const json& list = part(run, "stages");
    std::vector<Bar> bars;
    double sum = 0;
    for (const auto& stage : list) {
        const double time = number_at(stage, {"seconds"});
        if (!std::isfinite(time)) continue;
        sum += time;
        bars.push_back({text("stage ", bars.size(), ", ", text_at(stage, "method")), time, seconds(time), true});
    }
    const double all = number_at(run, {"seconds"});
    if (std::isfinite(all) && all >= sum) bars.push_back({"evaluation and the rest", all - sum, seconds(all - sum)});
    return figure("Time", bar_chart("Time of each stage", bars));
}

// ---- Stages
// -------------------------------------------------------------------------------------------------------------

/// A linear's place: "model.layers.3.mlp.up_proj" is block 3, role "mlp.up_proj".
struct Place {
    int block = -1;
    std::string role;
};

Place place_of(const std::string& name) {
    std::size_t begin = 0;
    while (begin < name.size()) {
        const auto end = std::min(name.find('.', begin), name.size());
        int block = 0;
        const auto [stop, status] = std::from_chars(name.data() + begin, name.data() + end, block);
        if (status == std::errc() && stop == name.data() + end && end < name.size())
            return {block, name.substr(end + 1)};
        begin = end + 1;
    }
    return {-1, name};
}

std::vector<Series> series_of(const json& linears, std::string_view key) {
    std::vector<Series> out;
    for (const auto& linear : linears) {
        const std::string name = text_at(linear, "name");
        const Place place = place_of(name);
        const double value = number_at(linear, {key});
        if (place.block < 0 || !std::isfinite(value)) continue;
        auto found = std::find_if(out.begin(), out.end(), [&](const auto& s) { return s.label == place.role; });
        if (found == out.end()) found = out.insert(out.end(), {place.role, {}});
        found->points.push_back({place.block, value, name + ": " + significant(value)});
    }
    for (auto& one : out)
        std::stable_sort(one.points.begin(), one.points.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
    return out;
}

double weights_of(const json& linear) {
    const json& shape = part(linear, "shape");
    double weights = shape.is_array() && !shape.empty() ? 1 : NAN;
    for (const auto& size : shape) weights *= size.is_number() ? size.get<double>() : NAN;
    return weights;
}

/// How many weights are stored in how many bits.
std::string bits_chart(const json& linears) {
    std::map<double, double> weights;
    double all = 0;
    for (const auto& linear : linears) {
        const double bits = number_at(linear, {"bits"}), count = weights_of(linear);
        if (!std::isfinite(bits) || !std::isfinite(count)) continue;
        weights[bits] += count;
        all += count;
    }
    std::vector<Bar> bars;
    for (const auto& [bits, count] : weights)
        bars.push_back({text(significant(bits), " bits"), count,
                        text(report::count(count), " weights, ", percent(count / all, 0)), true});
    return bar_chart("Weights by bits", bars);
}

/// Figures beyond the usual ones that some linear of the stage has.
std::vector<std::string> extra_metrics(const json& linears) {
    const std::set<std::string> usual{"name", "shape", "bits", "error", "seconds"};
    std::set<std::string> out;
    for (const auto& linear : linears) {
        if (!linear.is_object()) continue;
        for (const auto& [key, value] : linear.items())
            if (value.is_number() && !usual.contains(key)) out.insert(key);
    }
    return {out.begin(), out.end()};
}

std::string metric(const std::string& key, double value) {
    if (key.ends_with("bytes")) return bytes(value);
    if (std::isfinite(value) && value == std::floor(value) && std::abs(value) < 1e15) return fixed(value, 0);
    return significant(value, 4);
}

std::string linears_table(const json& linears) {
    const auto extra = extra_metrics(linears);
    std::vector<std::string> head{"Linear", "Shape", "Bits", "Error", "Seconds"};
    for (const auto& key : extra) head.push_back(escaped(key));
    Rows rows;
    for (const auto& linear : linears) {
        const json& shape = part(linear, "shape");
        std::string sizes;
        for (const auto& size : shape)
            sizes += (sizes.empty() ? "" : " × ") + fixed(size.is_number() ? size.get<double>() : NAN, 0);
        rows.push_back({element("code", "", escaped(text_at(linear, "name"))), sizes,
                        significant(number_at(linear, {"bits"})), significant(number_at(linear, {"error"}), 4),
                        significant(number_at(linear, {"seconds"}))});
        for (const auto& key : extra) rows.back().push_back(metric(key, number_at(linear, {key})));
    }
    return table(head, rows, "lr" + std::string(3 + extra.size(), 'r'));
}

std::string options_of(const json& stage) {
    const json& options = part(stage, "options");
    if (!options.is_object() || options.empty()) return {};
    std::string out;
    for (const auto& [name, value] : options.items())
        out += element("span", "class=\"chip\"",
                       escaped(name) + " = " +
                           escaped(value.is_string() ? value.get<std::string>()
                                                     : value.dump(-1, ' ', false, json::error_handler_t::replace)));
    return element("p", "class=\"chips\"", out) + "\n";
}

/// The linears that lost most, for who wants to treat them better.
std::string worst_of(const json& linears) {
    std::vector<std::pair<double, std::string>> errors;
    for (const auto& linear : linears)
        if (const double error = number_at(linear, {"error"}); std::isfinite(error))
            errors.emplace_back(error, text_at(linear, "name"));
    constexpr std::size_t shown = 3;
    if (errors.size() <= shown) return {};
    std::stable_sort(errors.begin(), errors.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    std::string out;
    for (std::size_t i = 0; i < shown; ++i)
        out += (i ? ", " : "") + element("code", "", escaped(errors[i].second)) + " (" + significant(errors[i].first) +
               ")";
    return element("p", "", "Highest: " + out + ".") + "\n";
}

/// How often the calibration tokens went through the blocks.
std::string passes_of(const json& stage) {
    const double runs = number_at(stage, {"forward", "block_runs"}), passes = number_at(stage, {"forward", "passes"}),
                 sweeps = number_at(stage, {"sweeps"});
    std::string out;
    if (runs > 0)
        out = text(", ", significant(passes), passes == 1 ? " forward pass (" : " forward passes (", fixed(runs, 0),
                   runs == 1 ? " run of a block)" : " runs of a block)");
    if (sweeps > 0) out += text(", ", fixed(sweeps, 0), sweeps == 1 ? " backward sweep" : " backward sweeps");
    if (part(stage, "shares_grams") == true) out += ", on the pass of the stage before";
    return out;
}

std::string stage_section(const json& stage, std::size_t number) {
    const json& linears = part(stage, "linears");
    const double peak = number_at(stage, {"peak_bytes"});
    std::string facts = text(linears.size(), linears.size() == 1 ? " linear" : " linears", " in ",
                             seconds(number_at(stage, {"seconds"})));
    if (std::isfinite(peak)) facts += ", peak memory " + bytes(peak);
    facts += passes_of(stage);
    std::string out = element("p", "", escaped(facts)) + "\n" + options_of(stage);
    out += pruning_part(stage);
    out +=
        figure("Error of each linear",
               line_chart("Relative output error of each linear by block", "relative output error",
                          series_of(linears, "error")),
               "Error of the output on the calibration data, as a share of the output: tr((W−Ŵ)H(W−Ŵ)ᵀ) / tr(WHWᵀ).");
    out += worst_of(linears);
    out += figure("Bits", bits_chart(linears));
    out += figure("Time of each linear",
                  line_chart("Seconds for each linear by block", "seconds", series_of(linears, "seconds")));
    if (!linears.empty())
        out +=
            element("details", "", element("summary", "", "All linears in figures") + "\n" + linears_table(linears)) +
            "\n";
    return section(text("Stage ", number, ": ", text_at(stage, "method"), " ", text_at(stage, "version")), out);
}

// ---- Provenance
// -----------------------------------------------------------------------------------------------------------

/// Any JSON as nested lists of names and values.
std::string json_rows(const json& value) {
    if (!value.is_structured())
        return element("code", "", escaped(value.is_string() ? value.get<std::string>() : value.dump()));
    std::string out;
    for (const auto& [key, inner] : value.items())
        out += element("dt", "", escaped(key)) + element("dd", "", json_rows(inner)) + "\n";
    return element("dl", "class=\"tree\"", out);
}

std::string provenance(const json& run) {
    const json& block = part(run, "provenance");
    if (!block.is_object()) return {};
    std::string out;
    if (const auto recipe = text_at(block, "recipe"); !recipe.empty())
        out += element("details", "open",
                       element("summary", "", "Recipe") + element("pre", "tabindex=\"0\"", escaped(recipe))) +
               "\n";
    json rest = block;
    rest.erase("recipe");
    if (!rest.empty())
        out += element("details", "",
                       element("summary", "", "Inputs, plugins and calibration, with checksums") + json_rows(rest)) +
               "\n";
    return out;
}

}  // namespace
}  // namespace report

std::string report_html(const nlohmann::json& run) {
    using namespace report;
    const std::string model = last_name(text_at(run, "model"));
    std::string body =
        head(run) + section("Quality", quality(run)) + section("Size and time", sizes(run) + timings(run));
    std::size_t number = 0;
    for (const auto& stage : part(run, "stages")) body += stage_section(stage, number++);
    body += section("Provenance", provenance(run));
    const std::string title = model.empty() ? "kerf run" : "kerf: " + model;
    return text("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
                "<meta name=\"color-scheme\" content=\"light dark\">\n", element("title", "", escaped(title)),
                "\n<style>\n", style_sheet, "</style>\n</head>\n<body>\n<main>\n", body, "</main>\n</body>\n</html>\n");
}

void write_report(const nlohmann::json& run, const std::filesystem::path& folder) {
    // Paths and names need not be UTF-8; what is not is replaced, so that a report can always be written.
    write_atomically(folder / "report.json", run.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    write_atomically(folder / "report.html", report_html(run));
}

}  // namespace kerf::core
