// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kerf::llm_pruner {

enum class Rounding : std::uint8_t { floor, nearest, ceil };
enum class Normalizer : std::uint8_t { none, mean, max, sum, parameters };

/// Units that live and die together with nothing else: one axis.
struct Group {
    std::vector<double> importance;  ///< of the units that are there
    std::int64_t channels = 1;       ///< of a unit: a head's size; 1 for MLP and hidden channels
    std::int64_t initial = 0;        ///< units before anything was pruned
    std::int64_t balanced = 1;       ///< equal runs of units that must lose equally many
    std::int64_t keep = 1;           ///< units that have to stay
    std::int64_t unit_parameters = 0;

    std::int64_t units() const { return static_cast<std::int64_t>(importance.size()); }
};

struct Rules {
    Rounding rounding = Rounding::floor;
    std::int64_t round_to = 1;  ///< channels go in multiples of this
    Normalizer normalizer = Normalizer::none;
    /// A group that would lose more than it can loses as many as it can; else nothing at all, as in the reference. With
    /// it what goes grows with the sparsity, so that budgets can be looked for.
    bool at_most = false;
    bool leave_emptied = false;  ///< global: a group that would lose all is left untouched, as in the reference
};

/// Units that a group of `units` (of `initial` at first) loses at sparsity s: n − trunc(n₀ (1 − s)) channels in whole
/// units; when that would leave fewer than have to stay, 0 (or what rules.at_most says). The same for each of
/// `balanced` runs.
std::int64_t local_count(std::int64_t units, const Group& group, double sparsity, const Rules& rules);

/// The units that go of each group, ascending. Of equally important ones the lower index goes first.
using Selection = std::vector<std::vector<std::int64_t>>;
Selection select_local(std::span<const Group> groups, double sparsity, const Rules& rules);
/// One threshold over the units of all groups: the n_rm-th smallest importance, n_rm = M − trunc(M₀ (1 − s)) units; all
/// units up to it go. A group keeps at least its best `keep`.
Selection select_global(std::span<const Group> groups, double sparsity, const Rules& rules);

/// Parameters that a selection takes away.
std::int64_t removed_parameters(std::span<const Group> groups, const Selection& selection);

/// The least sparsity at which `select` takes away at least `parameters`, to 2⁻³⁰; 1 when none does.
template <class Select>
double sparsity_for(std::span<const Group> groups, std::int64_t parameters, const Select& select) {
    const auto reaches = [&](double s) { return removed_parameters(groups, select(s)) >= parameters; };
    double low = 0, high = 1 - 1e-9;
    if (!reaches(high)) return 1;
    for (int i = 0; i < 30; ++i) {
        const double middle = (low + high) / 2;
        (reaches(middle) ? high : low) = middle;
    }
    return high;
}

}  // namespace kerf::llm_pruner
