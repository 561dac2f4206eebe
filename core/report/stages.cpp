// SPDX-License-Identifier: Apache-2.0
#include "core/report/stages.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "core/report/charts.hpp"
#include "core/report/html.hpp"
#include "core/report/pruning.hpp"
#include "core/support/text.hpp"

namespace kerf::core::report {
namespace {

using nlohmann::json;

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
        series_named(out, place.role).points.push_back({place.block, value, name + ": " + significant(value)});
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

/// Positions of the residual stream that a rotation narrowed.
std::string residual_widths(const json& positions) {
    if (!positions.is_array() || positions.empty()) return {};
    Series width{"features kept", {}}, energy{"energy kept", {}};
    Rows rows;
    int index = 0;
    for (const auto& position : positions) {
        const std::string name = text_at(position, "name");
        const double kept = number_at(position, {"features"}), of = number_at(position, {"of"}),
                     share = number_at(position, {"energy"});
        if (std::isfinite(kept))
            width.points.push_back({index, kept, text(name, ": ", fixed(kept, 0), " of ", fixed(of, 0))});
        if (std::isfinite(share)) energy.points.push_back({index, share, text(name, ": ", percent(share, 2))});
        rows.push_back({element("code", "", escaped(name)), fixed(of, 0), fixed(kept, 0), percent(1 - kept / of),
                        percent(share, 2)});
        ++index;
    }
    return figure("Width of the residual stream",
                  line_chart("Features kept at each position of the residual stream", "features", {width}, "position"),
                  "Positions in their order: before the blocks, then behind each sublayer.") +
           figure("Energy kept", line_chart("Share of the signal's energy kept at each position", "share of energy",
                                            {energy}, "position")) +
           details("All positions in figures",
                   table({"Position", "Features", "Kept", "Removed", "Energy kept"}, rows, "lrrrr"));
}

std::string unstructured_sparsity(const json& linears) {
    const auto series = series_of(linears, "sparsity");
    const bool any = std::any_of(series.begin(), series.end(), [](const Series& one) {
        return std::any_of(one.points.begin(), one.points.end(), [](const auto& point) { return point.y > 0; });
    });
    return any ? figure("Sparsity by layer", line_chart("Share of zero weights by block", "share of zeros", series))
               : "";
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

std::string facts_of(const json& stage) {
    const json& linears = part(stage, "linears");
    const double peak = number_at(stage, {"peak_bytes"});
    std::string out = text(linears.size(), linears.size() == 1 ? " linear" : " linears", " in ",
                           seconds(number_at(stage, {"seconds"})));
    if (std::isfinite(peak)) out += ", peak memory " + bytes(peak);
    return element("p", "", escaped(out + passes_of(stage))) + "\n";
}

}  // namespace

std::string stage_section(const json& stage, std::size_t number) {
    const json& linears = part(stage, "linears");
    std::string out = facts_of(stage) + options_of(stage) + pruning_part(stage) +
                      residual_widths(part(stage, "positions")) + unstructured_sparsity(linears);
    out +=
        figure("Error of each linear",
               line_chart("Relative output error of each linear by block", "relative output error",
                          series_of(linears, "error")),
               "Error of the output on the calibration data, as a share of the output: tr((W−Ŵ)H(W−Ŵ)ᵀ) / tr(WHWᵀ).");
    out += worst_of(linears);
    out += figure("Bits", bits_chart(linears));
    out += figure("Time of each linear",
                  line_chart("Seconds for each linear by block", "seconds", series_of(linears, "seconds")));
    if (!linears.empty()) out += details("All linears in figures", linears_table(linears));
    return section(text("Stage ", number, ": ", text_at(stage, "method"), " ", text_at(stage, "version")), out);
}

}  // namespace kerf::core::report
