// SPDX-License-Identifier: Apache-2.0
#include "core/graph/layout.hpp"

#include <algorithm>

#include "core/support/text.hpp"

namespace kerf::core {
namespace {

/// Neighbouring indices of one unit.
struct Run {
    std::int32_t unit;
    std::int64_t start, length;
};

std::vector<Run> runs_of(std::span<const std::int32_t> unit_of) {
    std::vector<Run> runs;
    for (std::size_t i = 0; i < unit_of.size(); ++i) {
        if (unit_of[i] < 0) continue;
        if (i > 0 && unit_of[i - 1] == unit_of[i])
            ++runs.back().length;
        else
            runs.push_back({unit_of[i], std::int64_t(i), 1});
    }
    std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.unit < b.unit; });
    return runs;
}

std::int64_t start_of(const Layout::Strip& strip, std::int64_t unit) {
    return strip.offset + unit / strip.inner * strip.outer + unit % strip.inner * strip.stride;
}

}  // namespace

Layout::Layout(std::span<const std::int32_t> unit_of, std::int64_t units) {
    const std::vector<Run> runs = runs_of(unit_of);
    std::vector<std::int64_t> starts, lengths, counted(std::size_t(units), 0);
    for (const auto& run : runs) {
        starts.push_back(run.start);
        lengths.push_back(run.length);
        counted[std::size_t(run.unit)] += run.length;
    }
    const bool even = std::adjacent_find(counted.begin(), counted.end(), std::not_equal_to<>()) == counted.end();
    per_unit_ = even && units > 0 ? counted[0] : 0;
    if (fit(starts, lengths, units)) {
        join_repeats();
        return;
    }
    strips_.clear();
    irregular_.resize(std::size_t(units));
    for (const auto& run : runs)
        for (std::int64_t i = 0; i < run.length; ++i) irregular_[std::size_t(run.unit)].push_back(run.start + i);
}

/// One strip for the p-th run of every unit, for all p; false when the units are not alike.
bool Layout::fit(std::span<const std::int64_t> starts, std::span<const std::int64_t> lengths, std::int64_t units) {
    if (units == 0 || per_unit_ == 0 || starts.size() % std::size_t(units) != 0) return false;
    const std::size_t each = starts.size() / std::size_t(units);
    for (std::size_t p = 0; p < each; ++p) {
        const auto start = [&](std::int64_t unit) { return starts[std::size_t(unit) * each + p]; };
        Strip strip{.offset = start(0), .length = lengths[p], .stride = units > 1 ? start(1) - start(0) : lengths[p]};
        strip.inner = 1;
        while (strip.inner < units && start(strip.inner) == strip.offset + strip.inner * strip.stride) ++strip.inner;
        strip.outer = strip.inner < units ? start(strip.inner) - strip.offset : 0;
        for (std::int64_t unit = 0; unit < units; ++unit)
            if (start(unit) != start_of(strip, unit) || lengths[std::size_t(unit) * each + p] != strip.length)
                return false;
        strips_.push_back(strip);
    }
    return true;
}

/// Strips that differ in their offset alone, evenly apart, are one strip that repeats.
void Layout::join_repeats() {
    std::vector<Strip> joined;
    for (const auto& strip : strips_) {
        if (!joined.empty()) {
            Strip& last = joined.back();
            const std::int64_t apart = strip.offset - last.offset - (last.repeat - 1) * last.apart;
            if (strip.length == last.length && strip.stride == last.stride && strip.inner == last.inner &&
                strip.outer == last.outer && (last.repeat == 1 || apart == last.apart)) {
                last.apart = apart;
                ++last.repeat;
                continue;
            }
        }
        joined.push_back(strip);
    }
    strips_ = std::move(joined);
}

std::vector<std::int64_t> Layout::indices(std::int64_t unit) const {
    if (!irregular_.empty()) return irregular_[std::size_t(unit)];
    std::vector<std::int64_t> out;
    for (const auto& strip : strips_)
        for (std::int64_t k = 0; k < strip.repeat; ++k)
            for (std::int64_t i = 0; i < strip.length; ++i) out.push_back(start_of(strip, unit) + k * strip.apart + i);
    std::sort(out.begin(), out.end());
    return out;
}

std::string Layout::formula() const {
    if (strips_.empty()) return "listed one by one";
    std::string out;
    const auto times = [](std::int64_t factor, std::string_view name) {
        return factor == 1 ? std::string(name) : text(factor, name);
    };
    for (const auto& strip : strips_) {
        std::string one;
        const auto plus = [&](const std::string& term) { one += (one.empty() ? "" : "+") + term; };
        if (strip.offset > 0) plus(text(strip.offset));
        if (strip.outer != 0) {
            plus(times(strip.outer, text("⌊u/", strip.inner, "⌋")));
            if (strip.inner > 1) plus(times(strip.stride, text("(u mod ", strip.inner, ")")));
        } else if (strip.stride != 0) {
            plus(times(strip.stride, "u"));
        }
        if (strip.repeat > 1) plus(text(strip.apart, "·0…", strip.repeat - 1));
        if (strip.length > 1) plus(text("0…", strip.length - 1));
        out += (out.empty() ? "" : ", ") + one;
    }
    return out;
}

}  // namespace kerf::core
