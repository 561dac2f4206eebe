// SPDX-License-Identifier: Apache-2.0
/// How many units go of each of many axes, so that the sum of their costs is least while so many parameters go in all:
/// what an AxisMethod makes of a survey.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

#include "kerf/structure.hpp"

namespace kerf::inline v1 {

/// One axis that competes for the budget.
struct Bidder {
    AxisCurve curve;
    std::int64_t unit_parameters = 0;
};

namespace detail {

/// Where each bidder stands on its curve (an index into its points).
class Allocation {
public:
    Allocation(std::span<const Bidder> bidders, std::int64_t budget) : bidders_(bidders), budget_(budget) {
        for (std::size_t i = 0; i < bidders.size(); ++i) add_hull(i);
        // What costs least for its parameters goes first. The hull of each axis is convex, so its edges come in order.
        std::sort(edges_.begin(), edges_.end(), [](const Edge& a, const Edge& b) {
            return std::tie(a.slope, a.axis, a.from) < std::tie(b.slope, b.axis, b.from);
        });
    }

    /// Whole edges while they fit, the points inside the first that does not, then whatever still fits of dearer ones.
    /// `fixed` stays where `at` has it.
    void fill(std::vector<std::size_t>& at, std::size_t fixed) const {
        for (std::size_t i = 0; i < at.size(); ++i)
            if (i != fixed) at[i] = 0;
        std::int64_t left = budget_ - parameters(at);
        for (const Edge& edge : edges_) {
            if (edge.axis == fixed || at[edge.axis] != edge.from) continue;
            std::size_t to = edge.from;
            while (to < edge.to && step(edge.axis, edge.from, to + 1) <= left) ++to;
            left -= step(edge.axis, edge.from, to);
            at[edge.axis] = to;
        }
        // An edge that did not fit whole ends its axis's row of them, but single points may yet fit.
        for (bool again = true; again;) {
            again = false;
            for (std::size_t i = 0; i < at.size(); ++i) {
                if (i == fixed || at[i] + 1 >= points(i) || step(i, at[i], at[i] + 1) > left) continue;
                left -= step(i, at[i], at[i] + 1);
                ++at[i];
                again = true;
            }
        }
    }

    double cost(const std::vector<std::size_t>& at) const {
        double sum = 0;
        for (std::size_t i = 0; i < at.size(); ++i)
            sum += at[i] > 0 ? bidders_[i].curve.costs[at[i]] - bidders_[i].curve.costs[0] : 0;
        return sum;
    }
    std::int64_t parameters(const std::vector<std::size_t>& at) const {
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < at.size(); ++i) sum += step(i, 0, at[i]);
        return sum;
    }
    std::size_t points(std::size_t axis) const { return bidders_[axis].curve.units.size(); }
    std::int64_t step(std::size_t axis, std::size_t from, std::size_t to) const {
        if (from == to) return 0;
        const auto& units = bidders_[axis].curve.units;
        return (units[to] - units[from]) * bidders_[axis].unit_parameters;
    }

    /// Where one more point of some axis comes closer to the budget than stopping short of it, the cheapest such.
    void round_up(std::vector<std::size_t>& at) const {
        const std::int64_t left = budget_ - parameters(at);
        std::size_t best = at.size();
        std::int64_t nearest = left;
        double least = 0;
        for (std::size_t i = 0; i < at.size(); ++i) {
            if (at[i] + 1 >= points(i)) continue;
            const std::int64_t distance = step(i, at[i], at[i] + 1) - left;
            const double more = bidders_[i].curve.costs[at[i] + 1] - bidders_[i].curve.costs[at[i]];
            if (distance > nearest || (distance == nearest && (best == at.size() || more >= least))) continue;
            nearest = distance;
            least = more;
            best = i;
        }
        if (best < at.size() && nearest < left) ++at[best];
    }

private:
    /// Of the lower convex hull of cost over parameters.
    struct Edge {
        double slope = 0;
        std::size_t axis = 0, from = 0, to = 0;
    };
    double slope(std::size_t axis, std::size_t from, std::size_t to) const {
        const auto& costs = bidders_[axis].curve.costs;
        return (costs[to] - costs[from]) / static_cast<double>(std::max<std::int64_t>(1, step(axis, from, to)));
    }
    void add_hull(std::size_t axis) {
        std::vector<std::size_t> hull;
        for (std::size_t p = 0; p < points(axis); ++p) {
            while (hull.size() > 1 && slope(axis, hull[hull.size() - 2], hull.back()) >= slope(axis, hull.back(), p))
                hull.pop_back();
            hull.push_back(p);
        }
        for (std::size_t i = 1; i < hull.size(); ++i)
            edges_.push_back({slope(axis, hull[i - 1], hull[i]), axis, hull[i - 1], hull[i]});
    }

    std::span<const Bidder> bidders_;
    std::int64_t budget_;
    std::vector<Edge> edges_;
};

}  // namespace detail

/// Units that go of each bidder: their parameters come as close to `budget` as the points of the curves allow (within
/// one step of the axis with the finest ones), and the sum of costs is the least, up to the last few steps: edges of
/// the curves' convex hulls in order of cost for each parameter, which is the optimum wherever the budget ends between
/// two edges; then, since one step of a coarse axis (a head) may weigh as much as many of a fine one, each axis is
/// tried a step to either side with the others filled up again. More than all curves together: all of them to their
/// ends.
inline std::vector<std::int64_t> allocate(std::span<const Bidder> bidders, std::int64_t budget) {
    const detail::Allocation allocation(bidders, budget);
    const std::size_t none = bidders.size();
    std::vector<std::size_t> at(bidders.size(), 0);
    allocation.fill(at, none);
    std::int64_t finest = budget;
    for (std::size_t i = 0; i < bidders.size(); ++i)
        if (allocation.points(i) > 1) finest = std::min(finest, allocation.step(i, 0, 1));
    const auto tried = [&](std::size_t axis, std::size_t place) {
        std::vector<std::size_t> other = at;
        other[axis] = place;
        if (allocation.step(axis, 0, place) > budget) return false;
        allocation.fill(other, axis);
        // Only one that spends the budget too is comparable.
        const auto unspent = [&](const std::vector<std::size_t>& places) {
            return budget - allocation.parameters(places);
        };
        if (unspent(other) >= std::max(unspent(at) + 1, finest) || !(allocation.cost(other) < allocation.cost(at)))
            return false;
        at = std::move(other);
        return true;
    };
    constexpr int rounds = 4;
    bool better = true;
    for (int round = 0; better && round < rounds; ++round) {
        better = false;
        for (std::size_t i = 0; i < bidders.size(); ++i) {
            if (at[i] + 1 < allocation.points(i)) better = tried(i, at[i] + 1) || better;
            if (at[i] > 0) better = tried(i, at[i] - 1) || better;
        }
    }
    allocation.round_up(at);
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < bidders.size(); ++i)
        out.push_back(bidders[i].curve.units.empty() ? 0 : bidders[i].curve.units[at[i]]);
    return out;
}

}  // namespace kerf::inline v1
