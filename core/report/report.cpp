// SPDX-License-Identifier: Apache-2.0
#include "core/report/report.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/report/charts.hpp"
#include "core/report/html.hpp"
#include "core/report/stages.hpp"
#include "core/report/style.hpp"
#include "core/support/file.hpp"
#include "core/support/text.hpp"

namespace kerf::core {
namespace report {
namespace {

using nlohmann::json;

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

/// One state of the model, from the input to the result.
struct State {
    std::string label;
    const json* figures;  ///< perplexities by text
    double bytes = NAN;
    bool made = true;
};

/// The input, what each stage left, the result.
std::vector<State> states_of(const json& run) {
    std::vector<State> out{{"before", &perplexities(run, "before"), number_at(run, {"bytes", "before"}), false}};
    const json& stages = part(run, "stages");
    for (std::size_t i = 0; i + 1 < stages.size(); ++i)
        out.push_back({text("after ", text_at(stages[i], "method")), &part(stages[i], "perplexity"),
                       number_at(stages[i], {"bytes"})});
    out.push_back({stages.size() > 1 ? text("after ", text_at(stages.back(), "method")) : "after",
                   &perplexities(run, "after"), number_at(run, {"bytes", "after"})});
    return out;
}

std::string perplexity_charts(const json& run, const std::vector<std::string>& names) {
    std::string out;
    for (const auto& name : names) {
        std::vector<Estimate> estimates;
        for (const auto& state : states_of(run)) {
            const json& found = part(*state.figures, name);
            const double value = number_at(found, {"value"}), error = number_at(found, {"standard_error"});
            if (std::isfinite(value))
                estimates.push_back(
                    {state.label, value, std::isfinite(error) ? error : 0, with_error(found), state.made});
        }
        out +=
            figure("Perplexity on " + name, estimate_chart("Perplexity on " + name + " before and after", estimates));
    }
    if (out.empty()) return out;
    return out + element("p", "class=\"note\"",
                         "Lower is better. Bars are one standard error; all models saw the same windows, so the "
                         "difference is surer than the bars suggest.");
}

std::string quality(const json& run) {
    const auto names = evaluation_names(run);
    if (names.empty()) return {};
    Rows rows;
    for (const auto& name : names)
        for (const auto& state : states_of(run)) {
            const json& found = part(*state.figures, name);
            if (!found.is_object()) continue;
            const bool result = state.figures == &perplexities(run, "after");
            const auto compared = [&](const char* what) { return result ? number_at(run, {what, name}) : NAN; };
            rows.push_back({escaped(name), escaped(state.label), with_error(found, 4), significant(compared("kl")),
                            percent(compared("top1_agreement"), 2), count(number_at(found, {"tokens"})),
                            fixed(number_at(found, {"windows"}), 0)});
        }
    return perplexity_charts(run, names) +
           table({"Text", "Model", "Perplexity", "KL, nats", "Top-1", "Tokens", "Windows"}, rows, "llrrrrr");
}

// ---- Sizes and time
// -----------------------------------------------------------------------------------------------------

std::string sizes(const json& run) {
    const double before = number_at(run, {"bytes", "before"});
    std::vector<Bar> bars;
    for (const auto& state : states_of(run))
        if (std::isfinite(state.bytes))
            bars.push_back({state.label, state.bytes,
                            state.made ? text(bytes(state.bytes), " (", percent(state.bytes / before, 0), ")")
                                       : bytes(state.bytes),
                            state.made});
    std::string out = figure("Checkpoint size", bar_chart("Checkpoint size before and after", bars));
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

/// The first few stand open; what every block says again does not push the figures off the page.
std::string warnings(const json& run) {
    constexpr std::size_t open = 5;
    std::vector<std::string> items;
    for (const auto& warning : part(run, "warnings"))
        if (warning.is_string()) items.push_back(element("li", "", escaped(warning.get<std::string>())) + "\n");
    const auto list = [&](std::size_t first, std::size_t last) {
        std::string out = "\n";
        for (std::size_t i = first; i < last; ++i) out += items[i];
        return element("ul", "class=\"warnings\"", out);
    };
    if (items.size() <= open + 1) return items.empty() ? "" : list(0, items.size());
    return list(0, open) + details(text(items.size() - open, " more"), list(open, items.size()));
}

/// The machine that the figures of time and memory are of.
std::string environment(const json& run) {
    const json& machine = part(run, "environment");
    if (!machine.is_object()) return {};
    Rows rows;
    for (const auto& [key, value] : machine.items()) {
        const std::string shown = value.is_string()        ? value.get<std::string>()
                                  : key.ends_with("bytes") ? bytes(value.is_number() ? value.get<double>() : NAN)
                                                           : value.dump();
        rows.push_back({escaped(key == "memory_bytes" ? "memory" : key), escaped(shown)});
    }
    return table({"", ""}, rows, "ll");
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
    if (!rest.empty()) out += details("Inputs, plugins and calibration, with checksums", json_rows(rest));
    return out;
}

}  // namespace
}  // namespace report

std::string report_html(const nlohmann::json& run) {
    using namespace report;
    const std::string model = last_name(text_at(run, "model"));
    std::string body = head(run) + section("Warnings", warnings(run)) + section("Quality", quality(run)) +
                       section("Size and time", sizes(run) + timings(run));
    std::size_t number = 0;
    for (const auto& stage : part(run, "stages")) body += stage_section(stage, number++);
    body += section("Environment", environment(run)) + section("Provenance", provenance(run));
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
