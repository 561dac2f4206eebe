// SPDX-License-Identifier: Apache-2.0
#include "host/show_pruning.hpp"

#include <algorithm>
#include <map>
#include <vector>

#include "core/support/text.hpp"
#include "host/console/format.hpp"

namespace kerf::host {
namespace {

using nlohmann::json;

std::string people_say(const std::string& kind) {
    static const std::map<std::string, std::string> words{{"residual", "hidden channels"},
                                                          {"mlp", "MLP channels"},
                                                          {"kv_groups", "KV groups"},
                                                          {"query_heads", "query heads"}};
    const auto found = words.find(kind);
    return found == words.end() ? kind : found->second;
}

struct Sum {
    std::string kind;
    double units = 0, removed = 0;
};

std::string of(double removed, double units, const std::string& what) {
    return core::text(fixed(removed, 0), " of ", fixed(units, 0), " ", what, " (", percent(removed / units, 0), ")");
}

}  // namespace

std::string show_pruned(const json& axes, const json& blocks) {
    std::vector<Sum> sums;
    for (const auto& axis : axes) {
        const std::string kind = axis.value("kind", "");
        auto found = std::find_if(sums.begin(), sums.end(), [&](const Sum& sum) { return sum.kind == kind; });
        if (found == sums.end()) found = sums.insert(sums.end(), Sum{kind});
        found->units += axis.value("units", 0.0);
        const json removed = axis.value("removed", json());
        found->removed += removed.is_array() ? double(removed.size()) : removed.is_number() ? removed.get<double>() : 0;
    }
    std::string out;
    if (blocks.is_object())
        if (const double before = blocks.value("before", 0.0), after = blocks.value("after", 0.0); after < before)
            out = of(before - after, before, "layers");
    for (const auto& sum : sums)
        if (sum.units > 0) out += (out.empty() ? "" : ", ") + of(sum.removed, sum.units, people_say(sum.kind));
    return out;
}

}  // namespace kerf::host
