// SPDX-License-Identifier: Apache-2.0
/// What pruners that remove a share of heads and MLP channels have in common: options, counts, the choice of the units
/// with the lowest scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "kerf/structure.hpp"

namespace kerf::inline v1 {

struct RatioOptions {
    double sparsity = 0.2;
    std::int64_t minlayer = 0, maxlayer = -1;
    std::string modules = "both";
    std::string gqa = "group";
    std::int64_t align = 1;
};

/// `expand`: the method can have keys repeated (Curvature::OwnKeys).
template <class Options>
void ratio_options(Schema<Options>& s, bool expand = false) {
    s("sparsity", &Options::sparsity).at_least(0).below(1).help("share of the heads and of the MLP channels that goes");
    s("minlayer", &Options::minlayer).at_least(0).help("first block that is pruned");
    s("maxlayer", &Options::maxlayer)
        .at_least(-1)
        .help("one past the last block that is pruned; -1: all from minlayer on");
    s("modules", &Options::modules).one_of({"both", "attn", "mlp"}).help("prune attention, MLPs, or both");
    auto& gqa = s("gqa", &Options::gqa)
                    .one_of({"group", "head_balanced"})
                    .help("with grouped queries: remove KV groups, or equally many query heads of every group");
    if (expand)
        gqa.one_of({"group", "head_balanced", "expand"})
            .help(
                "with grouped queries: remove KV groups, or equally many query heads of every group, or any heads "
                "once each has a copy of its key and value");
    s("align", &Options::align).at_least(1).help("MLP channels that stay are a multiple of this");
}

inline void check_ratio(const RatioOptions& o) {
    if (o.maxlayer >= 0 && o.minlayer >= o.maxlayer)
        bad_value("minlayer = ", o.minlayer, " and maxlayer = ", o.maxlayer,
                  " leave no block; maxlayer is one past the last, -1 for all");
}

/// Blocks [minlayer, maxlayer) of a model of `blocks`. Refuses a window beyond the model.
inline std::pair<std::int64_t, std::int64_t> layer_window(const RatioOptions& o, std::int64_t blocks) {
    if (o.minlayer >= blocks) bad_value("minlayer = ", o.minlayer, ": the model has ", blocks, " blocks");
    if (o.maxlayer > blocks) bad_value("maxlayer = ", o.maxlayer, ": the model has ", blocks, " blocks");
    return {o.minlayer, o.maxlayer < 0 ? blocks : o.maxlayer};
}

/// Whether a method with these options works on the axis at all. Of attention's axes exactly one is taken: KV groups or
/// heads; with head_balanced, and where all query heads read one KV head (multi-query), query heads.
inline bool takes(const RatioOptions& o, const AxisShape& axis) {
    if (axis.in == 0 || !axis.fixed.empty()) return false;
    switch (axis.kind) {
        case AxisKind::mlp:
            return o.modules != "attn";
        case AxisKind::heads:
            return o.modules != "mlp";
        case AxisKind::kv_groups:
            return o.modules != "mlp" && o.gqa == "group" && axis.size > 1;
        case AxisKind::query_heads:
            return o.modules != "mlp" && (o.gqa == "head_balanced" || axis.balanced == 1);
        default:
            return false;
    }
}

/// Units that a share of the axis is, whether so many can go or not: rounded half to even, to the balanced runs.
inline std::int64_t units_wanted(const AxisShape& axis, double share) {
    const std::int64_t run = std::max<std::int64_t>(1, axis.balanced);
    return static_cast<std::int64_t>(std::nearbyint(static_cast<double>(axis.size / run) * share)) * run;
}
/// The most that can go, equally many of every run.
inline std::int64_t most_units(const AxisShape& axis) {
    const std::int64_t run = std::max<std::int64_t>(1, axis.balanced);
    return std::max<std::int64_t>(0, (axis.size - std::max<std::int64_t>(axis.keep, run)) / run * run);
}
/// Units that a share of the axis is: rounded half to even, to the balanced runs, to `align` channels that stay; never
/// more than can go.
inline std::int64_t units_of_share(const AxisShape& axis, double share, std::int64_t align = 1) {
    std::int64_t count = std::clamp<std::int64_t>(units_wanted(axis, share), 0, most_units(axis));
    if (axis.kind == AxisKind::mlp && align > 1) {
        const std::int64_t left = axis.size - count, up = (left + align - 1) / align * align;
        count = std::max<std::int64_t>(0, axis.size - up);
    }
    return count;
}

/// Refuses an `align` that no number of the axis's channels but all of them is a multiple of.
inline void check_align(const RatioOptions& o, const AxisShape& axis) {
    if (axis.kind == AxisKind::mlp && axis.fixed.empty() && o.align > 1 && o.align >= axis.size)
        bad_value("align = ", o.align, ": ", axis.name, " has ", axis.size, " channels, so that none could go");
}

inline AxisPlan plan_ratio(const RatioOptions& o, const AxisShape& axis) {
    const auto [first, last] = layer_window(o, axis.blocks);
    AxisPlan plan;
    if (!takes(o, axis)) return plan;
    check_align(o, axis);
    plan.remove = axis.block >= first && axis.block < last ? units_of_share(axis, o.sparsity, o.align) : 0;
    return plan;
}

/// The planned number of units with the lowest scores, the same number of every balanced run; ties: lowest index first.
inline std::vector<std::int64_t> lowest(const AxisShape& axis, std::span<const double> score) {
    const std::int64_t runs = std::max<std::int64_t>(1, axis.balanced), each = axis.size / runs;
    std::vector<std::int64_t> out;
    for (std::int64_t r = 0; r < runs; ++r) {
        std::vector<std::int64_t> order(static_cast<std::size_t>(each));
        std::iota(order.begin(), order.end(), r * each);
        std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
            return score[static_cast<std::size_t>(a)] < score[static_cast<std::size_t>(b)];
        });
        out.insert(out.end(), order.begin(), order.begin() + axis.planned / runs);
    }
    std::sort(out.begin(), out.end());
    return out;
}

}  // namespace kerf::inline v1
