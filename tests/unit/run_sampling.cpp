// SPDX-License-Identifier: Apache-2.0
#include "core/eval/sampling.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

const std::vector<float> logits{1.0f, 3.0f, 2.0f, 3.0f, -1.0f, 0.0f};

std::map<std::int64_t, double> shares(const SamplingOptions& options, const std::vector<float>& from,
                                      const std::vector<std::int64_t>& seen = {}) {
    Sampler sampler(options);
    std::map<std::int64_t, double> out;
    constexpr int draws = 40'000;
    for (int i = 0; i < draws; ++i) out[sampler.next(from, seen)] += 1;
    for (auto& [id, share] : out) share /= draws;
    return out;
}

/// Drawn shares within six standard deviations of the softmax over `kept`.
void expect_shares(const std::map<std::int64_t, double>& drawn, const std::vector<double>& kept_logits) {
    double sum = 0;
    for (const double logit : kept_logits) sum += std::exp(logit);
    for (std::size_t i = 0; i < kept_logits.size(); ++i) {
        const double share = std::exp(kept_logits[i]) / sum;
        const double got = drawn.contains(std::int64_t(i)) ? drawn.at(std::int64_t(i)) : 0;
        EXPECT_NEAR(got, share, 6 * std::sqrt(share * (1 - share) / 40'000)) << i;
        if (share == 0) {
            EXPECT_EQ(got, 0) << i;
        }
    }
}

constexpr double gone = -std::numeric_limits<double>::infinity();

TEST(Sampling, GreedyTakesTheLikeliestAndOfEqualsTheFirst) {
    Sampler sampler({});
    EXPECT_EQ(sampler.next(logits, {}), 1);
}

TEST(Sampling, DrawsFromTheSoftmaxAtTheTemperature) {
    expect_shares(shares({.temperature = 1}, logits), {1, 3, 2, 3, -1, 0});
    expect_shares(shares({.temperature = 2}, logits), {0.5, 1.5, 1, 1.5, -0.5, 0});
}

TEST(Sampling, TopKKeepsTheKLikeliest) {
    expect_shares(shares({.temperature = 1, .top_k = 3}, logits), {gone, 3, 2, 3, gone, gone});
    expect_shares(shares({.temperature = 1, .top_k = 1}, logits), {gone, 3, gone, gone, gone, gone});
    expect_shares(shares({.temperature = 1, .top_k = 99}, logits), {1, 3, 2, 3, -1, 0});
}

TEST(Sampling, TopPKeepsTheFewestThatReachIt) {
    // probabilities 0.38, 0.38, 0.14, 0.05, 0.02, 0.007
    expect_shares(shares({.temperature = 1, .top_p = 0.7}, logits), {gone, 3, gone, 3, gone, gone});
    expect_shares(shares({.temperature = 1, .top_p = 0.8}, logits), {gone, 3, 2, 3, gone, gone});
    expect_shares(shares({.temperature = 1, .top_p = 1e-9}, logits), {gone, 3, gone, gone, gone, gone});
    // after top-k
    expect_shares(shares({.temperature = 1, .top_k = 3, .top_p = 0.8}, logits), {gone, 3, gone, 3, gone, gone});
}

TEST(Sampling, TopPSortsAsFarAsItTakes) {
    std::vector<float> flat(5000, 1.0f);
    Sampler sampler({.temperature = 1, .top_p = 0.9});
    for (int i = 0; i < 200; ++i) {
        const auto id = sampler.next(flat, {});
        EXPECT_GE(id, 0);
        EXPECT_LE(id, 4500) << "of equals the first are kept";
    }
}

TEST(Sampling, ThePenaltyDividesWhatIsPositiveAndMultipliesWhatIsNegative) {
    expect_shares(shares({.temperature = 1, .repetition_penalty = 2}, logits, {1, 4, 1, 4, 99}), {1, 1.5, 2, 3, -2, 0});
    Sampler greedy({.repetition_penalty = 1.5});
    EXPECT_EQ(greedy.next(logits, std::vector<std::int64_t>{1}), 3);
}

TEST(Sampling, TheSameSeedGivesTheSameChoicesAndAnotherOneOthers) {
    const auto choices = [](std::uint64_t seed) {
        Sampler sampler({.temperature = 1.5, .top_p = 0.95, .seed = seed});
        std::vector<std::int64_t> out;
        for (int i = 0; i < 64; ++i) out.push_back(sampler.next(logits, out));
        return out;
    };
    EXPECT_EQ(choices(7), choices(7));
    EXPECT_NE(choices(7), choices(8));
}

TEST(Sampling, RefusesOptionsOutOfRangeAndLogitsThatAreNone) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (const SamplingOptions& options : {SamplingOptions{.temperature = -1},
                                           {.temperature = nan},
                                           {.top_k = -1},
                                           {.top_p = 0},
                                           {.top_p = 1.1},
                                           {.top_p = nan},
                                           {.repetition_penalty = 0},
                                           {.repetition_penalty = nan}})
        EXPECT_THROW(Sampler{options}, Error);
    Sampler sampler({.temperature = 1});
    EXPECT_THROW(sampler.next(std::vector<float>{1, std::nanf(""), 2}, {}), Error);
    EXPECT_THROW(sampler.next(std::vector<float>{1, HUGE_VALF, 2}, {}), Error);
    // a graph may rule tokens out
    EXPECT_EQ(Sampler({}).next(std::vector<float>{-HUGE_VALF, -1, -HUGE_VALF}, {}), 1);
}

}  // namespace
}  // namespace kerf::core
