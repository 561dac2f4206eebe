// SPDX-License-Identifier: Apache-2.0
#include "selection.hpp"

#include <algorithm>
#include <numeric>

namespace kerf::llm_pruner {
namespace {

/// Indices [first, first + values.size()) by ascending value, the lower one first among equals.
std::vector<std::int64_t> ascending(std::span<const double> values, std::int64_t first) {
    std::vector<std::int64_t> order(values.size());
    std::iota(order.begin(), order.end(), first);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return values[static_cast<std::size_t>(a - first)] < values[static_cast<std::size_t>(b - first)];
    });
    return order;
}

double divisor(const Group& group, Normalizer normalizer) {
    double sum = 0, largest = 0;
    for (const double value : group.importance) {
        sum += value;
        largest = std::max(largest, value);
    }
    double out = 1;
    if (normalizer == Normalizer::mean) out = sum / static_cast<double>(group.importance.size());
    if (normalizer == Normalizer::max) out = largest;
    if (normalizer == Normalizer::sum) out = sum;
    if (normalizer == Normalizer::parameters) out = static_cast<double>(group.unit_parameters);
    return out > 0 ? out : 1;
}

/// What a threshold takes of a group: all runs lose as many as the run that loses least.
std::vector<std::int64_t> below(const Group& group, std::span<const double> values, double threshold,
                                const Rules& rules) {
    const std::int64_t run = group.units() / group.balanced, keep = (group.keep + group.balanced - 1) / group.balanced;
    std::vector<std::vector<std::int64_t>> runs;
    std::int64_t least = run;
    for (std::int64_t b = 0; b < group.balanced; ++b) {
        auto order =
            ascending(values.subspan(static_cast<std::size_t>(b * run), static_cast<std::size_t>(run)), b * run);
        std::int64_t count = 0;
        while (count < run && values[static_cast<std::size_t>(order[static_cast<std::size_t>(count)])] <= threshold)
            ++count;
        if (count > run - keep) count = rules.leave_emptied ? 0 : run - keep;
        least = std::min(least, count);
        runs.push_back(std::move(order));
    }
    least -= least % std::max<std::int64_t>(1, rules.round_to / group.channels);
    std::vector<std::int64_t> out;
    for (const auto& order : runs) out.insert(out.end(), order.begin(), order.begin() + least);
    std::sort(out.begin(), out.end());
    return out;
}

}  // namespace

std::int64_t local_count(std::int64_t units, const Group& group, double sparsity, const Rules& rules) {
    const std::int64_t now = units / group.balanced * group.channels;
    const std::int64_t first = group.initial / group.balanced * group.channels;
    std::int64_t remove = now - static_cast<std::int64_t>(static_cast<double>(first) * (1 - sparsity));
    remove -= remove % rules.round_to;
    if (remove <= 0) return 0;
    std::int64_t whole = remove / group.channels;
    const std::int64_t rest = remove % group.channels;
    if (rules.rounding == Rounding::ceil && rest > 0) ++whole;
    if (rules.rounding == Rounding::nearest && 2 * rest >= group.channels) ++whole;
    const std::int64_t count = whole * group.balanced, most = units - std::max(group.keep, group.balanced);
    if (count <= most) return count;
    return rules.at_most ? std::max<std::int64_t>(0, most / group.balanced * group.balanced) : 0;
}

Selection select_local(std::span<const Group> groups, double sparsity, const Rules& rules) {
    Selection out;
    for (const auto& group : groups) {
        const std::int64_t each = local_count(group.units(), group, sparsity, rules) / group.balanced;
        const std::int64_t run = group.units() / group.balanced;
        auto& chosen = out.emplace_back();
        for (std::int64_t b = 0; b < group.balanced; ++b) {
            const std::span<const double> values(group.importance);
            const auto order =
                ascending(values.subspan(static_cast<std::size_t>(b * run), static_cast<std::size_t>(run)), b * run);
            chosen.insert(chosen.end(), order.begin(), order.begin() + each);
        }
        std::sort(chosen.begin(), chosen.end());
    }
    return out;
}

Selection select_global(std::span<const Group> groups, double sparsity, const Rules& rules) {
    std::vector<std::vector<double>> values;
    std::vector<double> pool;
    std::int64_t initial = 0;
    for (const auto& group : groups) {
        const double by = divisor(group, rules.normalizer);
        auto& scaled = values.emplace_back();
        for (const double value : group.importance) scaled.push_back(value / by);
        pool.insert(pool.end(), scaled.begin(), scaled.end());
        initial += group.initial;
    }
    const std::int64_t remove = static_cast<std::int64_t>(pool.size()) -
                                static_cast<std::int64_t>(static_cast<double>(initial) * (1 - sparsity));
    Selection out(groups.size());
    if (remove <= 0) return out;
    const auto at = pool.begin() + (std::min(remove, static_cast<std::int64_t>(pool.size())) - 1);
    std::nth_element(pool.begin(), at, pool.end());
    const double threshold = *at;
    for (std::size_t g = 0; g < groups.size(); ++g) out[g] = below(groups[g], values[g], threshold, rules);
    return out;
}

std::int64_t removed_parameters(std::span<const Group> groups, const Selection& selection) {
    std::int64_t sum = 0;
    for (std::size_t g = 0; g < groups.size(); ++g)
        sum += static_cast<std::int64_t>(selection[g].size()) * groups[g].unit_parameters;
    return sum;
}

}  // namespace kerf::llm_pruner
