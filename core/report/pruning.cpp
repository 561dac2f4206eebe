// SPDX-License-Identifier: Apache-2.0
#include "core/report/pruning.hpp"

#include <algorithm>
#include <cmath>

#include "core/report/charts.hpp"
#include "core/report/html.hpp"
#include "core/support/text.hpp"

namespace kerf::core::report {
namespace {

using nlohmann::json;

struct Width {
    std::string name, kind;
    int block = -1;
    double before = 0, removed = 0;
    double share() const { return before > 0 ? removed / before : 0; }
};

std::vector<Width> widths_of(const json& stage) {
    std::vector<Width> out;
    for (const auto& axis : part(stage, "axes")) {
        const json& removed = part(axis, "removed");
        const double block = number_at(axis, {"block"}), units = number_at(axis, {"units"});
        if (!std::isfinite(units)) continue;
        out.push_back({text_at(axis, "name"), text_at(axis, "kind"), std::isfinite(block) ? int(block) : -1, units,
                       removed.is_array() ? double(removed.size()) : 0});
    }
    return out;
}

/// Kinds that occur more than once in a block (the MLPs of experts) are averaged.
std::vector<Series> shares_by_block(const std::vector<Width>& widths) {
    std::vector<Series> out;
    for (const auto& width : widths) {
        if (width.block < 0) continue;
        Series& series = series_named(out, width.kind);
        if (!series.points.empty() && series.points.back().x == width.block) continue;
        double before = 0, removed = 0;
        for (const auto& other : widths)
            if (other.kind == width.kind && other.block == width.block) {
                before += other.before;
                removed += other.removed;
            }
        const double share = before > 0 ? removed / before : 0;
        series.points.push_back({width.block, 100 * share, text(width.kind, ": ", percent(share))});
    }
    return out;
}

}  // namespace

std::string pruning_part(const json& stage) {
    const auto widths = widths_of(stage);
    const double was = number_at(stage, {"parameters", "before"}), is = number_at(stage, {"parameters", "after"});
    const double blocks = number_at(stage, {"blocks", "before"}), left = number_at(stage, {"blocks", "after"});
    std::string out;
    if (blocks != left && std::isfinite(left))
        out += element("p", "", text(fixed(blocks - left, 0), " of ", fixed(blocks, 0), " blocks removed.")) + "\n";
    if (widths.empty() && out.empty()) return {};
    if (is < was)
        out += figure("Parameters of the stage",
                      bar_chart("Parameters before and after the stage",
                                {{"before", was, count(was)},
                                 {"after", is, text(count(is), " (", percent(is / was), ")"), true}}));
    out += figure("Sparsity by layer",
                  line_chart("Share of units removed by block", "% removed", shares_by_block(widths)));
    Rows rows;
    for (const auto& width : widths)
        rows.push_back({element("code", "", escaped(width.name)), escaped(width.kind), fixed(width.before, 0),
                        fixed(width.before - width.removed, 0), percent(width.share())});
    if (!rows.empty()) out += details("Widths", table({"Axis", "Kind", "Before", "After", "Removed"}, rows, "llrrr"));
    return out;
}

}  // namespace kerf::core::report
