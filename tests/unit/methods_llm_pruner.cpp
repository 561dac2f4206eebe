// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "importance.hpp"
#include "kerf/error.hpp"
#include "pruner_options.hpp"
#include "selection.hpp"

namespace kerf::llm_pruner {
namespace {

Group group_of(std::vector<double> importance, std::int64_t channels = 1) {
    Group out;
    out.importance = std::move(importance);
    out.initial = out.units();
    out.channels = channels;
    out.unit_parameters = channels;
    return out;
}

TEST(LlmPrunerCounts, FollowTheReferencesRoundingTowardsZero) {
    const auto count = [](std::int64_t units, std::int64_t channels, double sparsity, Rules rules = {}) {
        Group group = group_of(std::vector<double>(static_cast<std::size_t>(units)), channels);
        return local_count(units, group, sparsity, rules);
    };
    EXPECT_EQ(count(704, 1, 0.25), 176);
    EXPECT_EQ(count(4, 32, 0.25), 1);
    EXPECT_EQ(count(3, 64, 0.25), 0);  // a quarter of three heads is less than one
    EXPECT_EQ(count(3, 64, 0.5), 1);
    EXPECT_EQ(count(3, 64, 0.5, {.rounding = Rounding::ceil}), 2);
    EXPECT_EQ(count(3, 64, 0.25, {.rounding = Rounding::nearest}), 1);
    EXPECT_EQ(count(1000, 1, 0.9), 901);  // 1000 · (1 − 0.9) = 99.99…
    EXPECT_EQ(count(704, 1, 0.25, {.round_to = 64}), 128);
    EXPECT_EQ(count(4, 32, 0), 0);
    EXPECT_EQ(count(1, 32, 0.99), 0);  // the last head stays
    EXPECT_EQ(count(8, 32, 0.999), 0);
    EXPECT_EQ(count(8, 32, 0.999, {.at_most = true}), 7);
}

TEST(LlmPrunerCounts, OfLaterStepsAreThoseOfTheUnitsThatWereThereAtFirst) {
    Group group = group_of(std::vector<double>(8), 32);
    EXPECT_EQ(local_count(8, group, 0.25, {}), 2);
    EXPECT_EQ(local_count(6, group, 0.5, {}), 2);
    EXPECT_EQ(local_count(4, group, 0.5, {}), 0);
}

TEST(LlmPrunerSelection, TakesTheLeastImportantAndOfEqualOnesTheFirst) {
    const Group group = group_of({3, 1, 2, 1, 1, 9});
    EXPECT_EQ(select_local(std::span(&group, 1), 1.0 / 3, {})[0], (std::vector<std::int64_t>{1, 3}));
    EXPECT_EQ(select_local(std::span(&group, 1), 0.5, {})[0], (std::vector<std::int64_t>{1, 3, 4}));
}

TEST(LlmPrunerSelection, TakesEquallyManyOfEveryRunOfABalancedAxis) {
    Group group = group_of({1, 2, 3, 4, 50, 60, 70, 80}, 16);
    group.balanced = 2;
    EXPECT_EQ(select_local(std::span(&group, 1), 0.5, {})[0], (std::vector<std::int64_t>{0, 1, 4, 5}));
    EXPECT_EQ(select_global(std::span(&group, 1), 0.5, {})[0], (std::vector<std::int64_t>{}));
    group.importance = {1, 2, 30, 40, 5, 60, 70, 80};
    EXPECT_EQ(select_global(std::span(&group, 1), 0.5, {})[0], (std::vector<std::int64_t>{0, 4}));
}

TEST(LlmPrunerSelection, WeighsGroupsAgainstEachOtherByOneThreshold) {
    const std::vector<Group> groups{group_of({10, 20, 30, 40}), group_of({1, 2, 3, 35})};
    EXPECT_EQ(select_global(groups, 0.5, {}), (Selection{{0}, {0, 1, 2}}));
    EXPECT_EQ(select_global(groups, 0, {}), (Selection{{}, {}}));
    // Each divided by its mean: 0.4 0.8 1.2 1.6 and 0.10 0.20 0.29 3.4
    EXPECT_EQ(select_global(groups, 0.5, {.normalizer = Normalizer::mean}), (Selection{{0}, {0, 1, 2}}));
    // by its largest: 0.25 0.5 0.75 1 and 0.03 0.06 0.09 1
    EXPECT_EQ(select_global(groups, 0.625, {.normalizer = Normalizer::max}), (Selection{{0, 1}, {0, 1, 2}}));
}

TEST(LlmPrunerSelection, LeavesTheBestOfAGroupThatWouldLoseAll) {
    const std::vector<Group> groups{group_of({10, 20, 30, 40}), group_of({1, 3, 2})};
    EXPECT_EQ(select_global(groups, 0.5, {}), (Selection{{0}, {0, 2}}));
    EXPECT_EQ(select_global(groups, 0.5, {.leave_emptied = true}), (Selection{{0}, {}}));
}

TEST(LlmPrunerSelection, ReachesABudgetOfParametersWithTheLeastSparsity) {
    std::vector<Group> groups{group_of({1, 2, 3, 4, 5, 6, 7, 8}), group_of({1, 2}, 10)};
    const auto select = [&](double s) { return select_local(groups, s, {.at_most = true}); };
    // A head goes when 20 (1 − s) falls below 11, and 4 channels have gone by then: 14 parameters.
    EXPECT_NEAR(sparsity_for(groups, 14, select), 0.45, 1e-6);
    EXPECT_NEAR(sparsity_for(groups, 1, select), 0, 1e-6);
    EXPECT_EQ(sparsity_for(groups, 100, select), 1);
}

TEST(LlmPrunerAlignment, AddsTheQueriesOfAKeyValueHead) {
    // two KV heads of two channels, three queries each
    Member queries{6, {1, 10, 2, 20, 3, 30, 100, 1000, 200, 2000, 300, 3000}}, keys{2, {0, 0, 0, 0}};
    const std::vector<Member> members{keys, queries};
    EXPECT_EQ(channel_importance(members, 2, Reduction::sum, Alignment::exact),
              (std::vector<double>{6, 60, 600, 6000}));
    EXPECT_EQ(channel_importance(members, 2, Reduction::sum, Alignment::reference),
              (std::vector<double>{1 + 3 + 200, 10 + 30 + 2000, 2 + 100 + 300, 20 + 1000 + 3000}));
    EXPECT_THROW(channel_importance(std::vector<Member>{{2, {0, 0, 0, 0}}, {3, {0, 0, 0, 0, 0, 0}}}, 2, Reduction::sum,
                                    Alignment::exact),
                 Error);
}

TEST(LlmPrunerOptions, ThatContradictEachOtherAreRefused) {
    const auto refused = [](auto change) {
        Options options;
        change(options);
        try {
            check(options);
        } catch (const Error&) {
            return true;
        }
        return false;
    };
    EXPECT_FALSE(refused([](Options&) {}));
    EXPECT_FALSE(refused([](Options& o) { o.block_mlp_layer_end = o.block_mlp_layer_start; }));
    EXPECT_TRUE(refused([](Options& o) { o.block_mlp_layer_end = 2; }));
    EXPECT_TRUE(refused([](Options& o) { o.block_attention_layer_end = 2; }));
    EXPECT_TRUE(refused([](Options& o) { o.normalizer = "mean"; }));
    EXPECT_TRUE(refused([](Options& o) { o.grouping_strategy = "prod"; }));
    EXPECT_TRUE(refused([](Options& o) {
        o.compatibility = true;
        o.head_unit = "query_balanced";
    }));
}

}  // namespace
}  // namespace kerf::llm_pruner
