// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "kerf/curvature.hpp"
#include "kerf/error.hpp"
#include "loop.hpp"

namespace kerf::gptq {

struct Options {
    int bits = 4;
    std::int64_t group_size = 128;
    bool sym = false;
    std::string order = "auto";
    bool act_order = false;
    bool static_groups = false;
    double damp = 0.01;
    std::int64_t block_size = 128;
    std::string search = "auto";
    bool mse = false;
    double norm = 2.4;
    int grid = 0;
    double maxshrink = 0.8;
    bool trits = false;
    bool per_channel = true;
    int refine = 0;
    std::string scale_dtype = "auto";
    int least_zero = 1;
    bool keep_zeros = true;
    bool compatibility = false;
};

/// Refuses combinations that contradict each other.
inline void check(const Options& o) {
    if (o.group_size == 0)
        bad_value("group_size = 0: give the number of columns that share a scale, or -1 for a whole row");
    if (o.act_order && o.order != "auto" && o.order != "act")
        bad_value("act_order = true and order = \"", o.order, "\" contradict each other: leave one of them out");
    if (o.mse && o.search != "auto" && o.search != "mse")
        bad_value("mse = true and search = \"", o.search, "\" contradict each other: leave one of them out");
    if (o.compatibility && (o.order == "group_aware" || o.search == "weighted" || o.refine > 0))
        bad_value(
            "compatibility = true is for results equal to the reference's, which has no group_aware order, no weighted "
            "search and no refine; leave these out");
    if (o.trits && (o.mse || o.search == "mse" || o.search == "weighted" || o.refine > 0))
        bad_value("trits = true goes without mse, search and refine: a ternary grid is the range of the weights");
    if (o.grid > 0 && static_cast<int>(o.maxshrink * o.grid) < 1)
        bad_value("maxshrink * grid = ", o.maxshrink * o.grid,
                  ": the search has nothing to try; make one of them larger");
}

/// The columns that share a scale in a weight of this width: a group never is wider than the row.
inline std::int64_t group_width(const Options& o, std::int64_t columns) {
    return o.group_size < 0 ? std::max<std::int64_t>(1, columns)
                            : std::min(o.group_size, std::max<std::int64_t>(1, columns));
}

/// "auto" is the best order that costs the reader of the result nothing: by descending curvature where the grids are
/// fixed in advance (whole rows, static groups), group-aware where they are fitted on the way.
inline Order order_of(const Options& o, std::int64_t columns) {
    if (o.act_order || o.order == "act") return Order::descending;
    if (o.order == "group_aware") return Order::group_aware;
    if (o.order == "none" || o.compatibility) return Order::none;
    return o.static_groups || group_width(o, columns) == columns ? Order::descending : Order::group_aware;
}

inline Settings settings_of(const Options& o, std::int64_t columns) {
    const bool reference = o.compatibility;
    const bool plain_search = o.mse || o.search == "mse";
    const bool weighted = o.search == "weighted" || (o.search == "auto" && !o.mse && !reference && !o.trits);
    Settings s;
    s.grid.bits = o.bits;
    s.grid.symmetric = o.sym;
    s.grid.ternary = o.trits;
    s.grid.one_sided = reference;
    s.grid.least_zero = reference ? 0 : o.least_zero;
    s.grid.scale_type = o.scale_dtype == "float32" || reference ? ScaleType::float32 : ScaleType::float16;
    s.grid.norm = weighted ? 2.0f : static_cast<float>(o.norm);
    // The weighted search may be coarse, because it is polished; the plain one is the reference's.
    s.grid.search_grid = o.grid > 0 ? o.grid : weighted ? 16 : 100;
    s.grid.search_steps = plain_search || weighted ? static_cast<int>(o.maxshrink * s.grid.search_grid) : 0;
    s.grid.polish_rounds = weighted ? 2 : 0;
    s.group_size = group_width(o, columns);
    s.static_groups = o.static_groups;
    s.per_channel = o.per_channel;
    s.weighted = weighted;
    s.stale_block = reference ? o.block_size : 0;
    s.fit_dead = reference;
    // The reference knows no zeros that have to stay.
    s.keep_zeros = o.keep_zeros && !reference;
    s.refine = o.refine;
    return s;
}

}  // namespace kerf::gptq
