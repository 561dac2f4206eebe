// SPDX-License-Identifier: Apache-2.0
// A budget shared out over axes by the curves of a survey.
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "kerf/allocation.hpp"

namespace kerf {
namespace {

/// Costs of a greedy elimination: each step is dearer than the one before, but for `jumps`, where a step may be
/// cheaper.
Bidder bidder(std::int64_t units, std::int64_t unit_parameters, bool jumps, std::mt19937& random) {
    std::uniform_real_distribution<double> uniform;
    Bidder out{{{0}, {0.0}}, unit_parameters};
    const double scale = 0.1 + uniform(random);
    for (std::int64_t u = 1; u <= units; ++u) {
        const double share = static_cast<double>(u) / static_cast<double>(units + 1);
        const double step = scale * share * share + (jumps ? 0.1 * uniform(random) : 0);
        out.curve.units.push_back(u);
        out.curve.costs.push_back(out.curve.costs.back() + step / static_cast<double>(units));
    }
    return out;
}

std::int64_t spent(const std::vector<Bidder>& bidders, const std::vector<std::int64_t>& counts) {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < bidders.size(); ++i) sum += counts[i] * bidders[i].unit_parameters;
    return sum;
}

double cost(const std::vector<Bidder>& bidders, const std::vector<std::int64_t>& counts) {
    double sum = 0;
    for (std::size_t i = 0; i < bidders.size(); ++i)
        for (std::size_t p = 0; p < bidders[i].curve.units.size(); ++p)
            if (bidders[i].curve.units[p] == counts[i]) sum += bidders[i].curve.costs[p];
    return sum;
}

/// The least cost of spending at least so much, by dynamic programming over parameters.
double least_cost(const std::vector<Bidder>& bidders, std::int64_t at_least) {
    constexpr double never = std::numeric_limits<double>::infinity();
    std::vector<double> best(static_cast<std::size_t>(at_least + 1), never);  // [p]: at least p are spent
    best[0] = 0;
    for (const auto& one : bidders) {
        std::vector<double> next(best.size(), never);
        for (std::size_t p = 0; p < best.size(); ++p)
            for (std::size_t k = 0; k < one.curve.units.size(); ++k) {
                const auto to = std::min<std::size_t>(
                    p + static_cast<std::size_t>(one.curve.units[k] * one.unit_parameters), best.size() - 1);
                next[to] = std::min(next[to], best[p] + one.curve.costs[k]);
            }
        best = std::move(next);
    }
    return best.back();
}

std::vector<Bidder> heads_and_channels(unsigned seed) {
    std::mt19937 random(seed);
    std::vector<Bidder> out;
    for (int block = 0; block < 4; ++block) {
        out.push_back(bidder(7, 32, true, random));
        out.push_back(bidder(60, 3, false, random));
    }
    return out;
}

TEST(Allocation, MeetsTheBudgetWithinAUnitAtNearlyTheLeastCost) {
    for (unsigned seed = 0; seed < 10; ++seed)
        for (const double share : {0.1, 0.3, 0.6, 0.9}) {
            const auto bidders = heads_and_channels(seed);
            const auto budget = static_cast<std::int64_t>(share * 4 * (7 * 32 + 60 * 3));
            const auto counts = allocate(bidders, budget);
            const std::int64_t gone = spent(bidders, counts);
            EXPECT_LE(std::abs(gone - budget), 3) << seed << ", " << share;
            // What rounding to whole heads loses against the best of all ways to spend as much.
            EXPECT_LE(cost(bidders, counts), 1.03 * least_cost(bidders, gone)) << seed << ", " << share;
        }
}

TEST(Allocation, TakesWhatCostsLeastForItsParameters) {
    // Twice the cost for four times the parameters: the cheaper one.
    const std::vector<Bidder> bidders{{{{0, 1, 2}, {0, 1, 2}}, 10}, {{{0, 1, 2}, {0, 2, 4}}, 40}};
    EXPECT_EQ(allocate(bidders, 80), (std::vector<std::int64_t>{0, 2}));
    EXPECT_EQ(allocate(bidders, 90), (std::vector<std::int64_t>{1, 2}));
    EXPECT_EQ(allocate(bidders, 50), (std::vector<std::int64_t>{1, 1}));
}

TEST(Allocation, SkipsACountThatIsWorseThanTheOneBehindIt) {
    const std::vector<Bidder> bidders{{{{0, 4, 8}, {0, 5, 1}}, 1}, {{{0, 4, 8}, {0, 2, 4}}, 1}};
    EXPECT_EQ(allocate(bidders, 8), (std::vector<std::int64_t>{8, 0}));
}

TEST(Allocation, HasNothingToShareOutAndTooMuchToo) {
    const std::vector<Bidder> bidders{{{{0, 2}, {0, 1}}, 5}, {{{}, {}}, 5}, {{{0}, {0}}, 5}};
    EXPECT_EQ(allocate(bidders, 0), (std::vector<std::int64_t>{0, 0, 0}));
    EXPECT_EQ(allocate(bidders, 1000), (std::vector<std::int64_t>{2, 0, 0}));
    EXPECT_EQ(allocate(bidders, 6), (std::vector<std::int64_t>{2, 0, 0})) << "10 is nearer to 6 than 0";
    EXPECT_TRUE(allocate({}, 10).empty());
}

TEST(Allocation, LosesNothingOnCostsThatDoNotGrow) {
    const std::vector<Bidder> bidders{{{{0, 1, 2, 3}, {0, 0, 0, 1}}, 1}, {{{0, 1, 2, 3}, {0, 0, 0, 1}}, 1}};
    EXPECT_EQ(allocate(bidders, 4), (std::vector<std::int64_t>{2, 2}));
}

}  // namespace
}  // namespace kerf
