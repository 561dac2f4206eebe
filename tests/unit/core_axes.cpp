// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/graph/axes.hpp"
#include "core/support/error.hpp"
#include "tests/unit/small_graphs.hpp"

namespace kerf::core {
namespace {

using Indices = std::vector<std::int64_t>;

const Place& place_of(const Axis& axis, const std::string& tensor) {
    for (const auto& place : axis.places)
        if (place.tensor == tensor) return place;
    throw std::runtime_error(axis.name + " is not on " + tensor);
}

std::string formula(const std::vector<Axis>& axes, const std::string& axis, const std::string& tensor) {
    return place_of(axis_named(axes, axis), tensor).layout.formula();
}

std::vector<std::string> names_of(const std::vector<Axis>& axes) {
    std::vector<std::string> out;
    for (const auto& axis : axes) out.push_back(axis.name);
    return out;
}

TEST(Layout, FindsTheRuleAndGivesBackTheSameIndices) {
    // 2 groups of 3 units, each of 2 neighbouring indices, with one index between groups that belongs to nobody; and
    // all of it again 14 further on
    std::vector<std::int32_t> unit_of(28, -1);
    for (std::int32_t u = 0; u < 6; ++u)
        for (int i = 0; i < 2; ++i)
            for (int k = 0; k < 2; ++k) unit_of[std::size_t(u / 3 * 7 + u % 3 * 2 + i + 14 * k)] = u;
    const Layout layout(unit_of, 6);
    ASSERT_EQ(layout.strips().size(), 1u);
    EXPECT_EQ(layout.strips()[0].inner, 3);
    EXPECT_EQ(layout.strips()[0].outer, 7);
    EXPECT_EQ(layout.strips()[0].repeat, 2);
    EXPECT_EQ(layout.strips()[0].apart, 14);
    EXPECT_EQ(layout.per_unit(), 4);
    for (std::int64_t u = 0; u < 6; ++u) {
        Indices expected;
        for (std::size_t i = 0; i < unit_of.size(); ++i)
            if (unit_of[i] == u) expected.push_back(std::int64_t(i));
        EXPECT_EQ(layout.indices(u), expected) << u;
    }
}

TEST(Layout, KnowsIndicesThatFollowNoRule) {
    const std::vector<std::int32_t> unit_of{0, 1, 1, 0, 2, -1, 2, 1};
    const Layout layout(unit_of, 3);
    EXPECT_TRUE(layout.strips().empty());
    EXPECT_EQ(layout.per_unit(), 0);
    EXPECT_EQ(layout.indices(0), (Indices{0, 3}));
    EXPECT_EQ(layout.indices(1), (Indices{1, 2, 7}));
    EXPECT_EQ(layout.indices(2), (Indices{4, 6}));
}

TEST(Axes, AreNamedByWhereTheyLie) {
    EXPECT_EQ(
        names_of(find_axes(small::gqa())),
        (std::vector<std::string>{"residual", "vocabulary", "layers.0.kv_groups", "layers.0.mlp", "layers.1.kv_groups",
                                  "layers.1.mlp", "layers.0.query_heads", "layers.1.query_heads",
                                  "layers.0.rotary_pairs", "layers.0.head_features", "layers.0.value_features",
                                  "layers.1.rotary_pairs", "layers.1.head_features", "layers.1.value_features"}));
    EXPECT_EQ(
        names_of(find_axes(small::narrow_embedding())),
        (std::vector<std::string>{"residual", "vocabulary", "embedding", "positions", "layers.0.heads", "layers.0.mlp",
                                  "layers.1.heads", "layers.1.mlp", "layers.0.head_features", "layers.0.value_features",
                                  "layers.1.head_features", "layers.1.value_features"}));
}

TEST(Axes, GroupQueryHeadsWithTheKeyAndValueThatTheyRead) {
    const auto axes = find_axes(small::gqa());
    const Axis& groups = axis_named(axes, "layers.0.kv_groups");
    EXPECT_EQ(groups.size, 2);
    EXPECT_EQ(groups.unit, 2 * small::head_dim);
    EXPECT_EQ(place_of(groups, "layers.0.q.weight").layout.indices(1),
              (Indices{12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}));
    EXPECT_EQ(place_of(groups, "layers.0.k.weight").layout.indices(1), (Indices{6, 7, 8, 9, 10, 11}));
    EXPECT_EQ(place_of(groups, "layers.0.v.weight").layout.indices(1), (Indices{6, 7, 8, 9, 10, 11}));
    EXPECT_EQ(place_of(groups, "layers.0.o.weight").dimension, 1);

    const Axis& query = axis_named(axes, "layers.0.query_heads");
    EXPECT_EQ(query.size, 4);
    EXPECT_EQ(query.balanced, 2);
    EXPECT_EQ(query.unit, small::head_dim);
    EXPECT_EQ(query.places.size(), 2u);  // q and o; keys and values stay
}

TEST(Axes, FollowFusedProjectionsInEachOfTheirLayouts) {
    const auto consecutive = find_axes(small::fused());
    EXPECT_EQ(formula(consecutive, "layers.0.kv_groups", "layers.0.qkv.weight"), "12u+0…11, 24+6u+12·0…1+0…5");
    EXPECT_EQ(formula(consecutive, "layers.0.mlp", "layers.0.gate_up.weight"), "u+20·0…1");
    EXPECT_EQ(formula(consecutive, "layers.0.mlp", "layers.0.down.weight"), "u");

    const auto interleaved = find_axes(small::interleaved(4, 2));
    EXPECT_EQ(formula(interleaved, "layers.1.kv_groups", "layers.1.qkv.weight"), "24u+0…23");
    EXPECT_EQ(formula(interleaved, "layers.1.kv_groups", "layers.1.qkv.bias"), "24u+0…23");
    EXPECT_EQ(formula(interleaved, "layers.1.query_heads", "layers.1.qkv.weight"), "24⌊u/2⌋+6(u mod 2)+0…5");

    const auto multi_query = find_axes(small::interleaved(4, 1));
    EXPECT_EQ(axis_named(multi_query, "layers.0.kv_groups").size, 1);
    EXPECT_EQ(axis_named(multi_query, "layers.0.query_heads").size, 4);
    EXPECT_EQ(formula(multi_query, "layers.0.query_heads", "layers.0.qkv.weight"), "6u+0…5");
    EXPECT_EQ(axis_named(find_axes(small::interleaved(4, 4)), "layers.0.heads").size, 4);
}

TEST(Axes, HoldATiedTableOnce) {
    const auto axes = find_axes(small::gqa());
    for (const auto* name : {"residual", "vocabulary"}) {
        std::set<std::pair<std::string, int>> places;
        for (const auto& place : axis_named(axes, name).places)
            EXPECT_TRUE(places.insert({place.tensor, place.dimension}).second) << name << " " << place.tensor;
    }
    EXPECT_EQ(axis_named(axes, "vocabulary").places.size(), 1u);
    // the narrow embedding's width: the table, project_in's columns, project_out's rows
    const auto narrow = find_axes(small::narrow_embedding());
    const Axis& embedding = axis_named(narrow, "embedding");
    EXPECT_EQ(embedding.size, 10);
    EXPECT_EQ(embedding.places.size(), 3u);
    EXPECT_EQ(place_of(axis_named(narrow, "residual"), "positions.weight").dimension, 1);
}

TEST(Axes, PairRotatingFeaturesOverAllHeads) {
    const auto axes = find_axes(small::gqa());
    const Axis& pairs = axis_named(axes, "layers.0.rotary_pairs");
    EXPECT_EQ(pairs.size, 2);  // 4 of 6 features rotate
    EXPECT_EQ(place_of(pairs, "layers.0.k.weight").layout.indices(1), (Indices{1, 3, 7, 9}));
    EXPECT_EQ(axis_named(axes, "layers.0.head_features").size, 2);
    const auto neighbours = find_axes(small::interleaved(4, 4));
    EXPECT_EQ(place_of(axis_named(neighbours, "layers.0.rotary_pairs"), "layers.0.qkv.weight").layout.indices(0),
              (Indices{0, 1, 6, 7, 18, 19, 24, 25, 36, 37, 42, 43, 54, 55, 60, 61}));
}

TEST(Axes, LeaveTheNormOfAHeadToTheFeaturesOfAHead) {
    const auto axes = find_axes(small::normed_heads());
    EXPECT_EQ(place_of(axis_named(axes, "layers.0.rotary_pairs"), "layers.0.qn.weight").layout.indices(0),
              (Indices{0, 3}));
    for (const auto& place : axis_named(axes, "layers.0.kv_groups").places) EXPECT_NE(place.role, Place::Role::norm);
}

TEST(Axes, HoldExpertsAndTheirWidths) {
    const auto axes = find_axes(small::experts());
    const Axis& experts = axis_named(axes, "layers.1.experts");
    EXPECT_EQ(experts.size, 4);
    EXPECT_EQ(experts.keep, 2);
    ASSERT_EQ(experts.places.size(), 1u);
    EXPECT_EQ(experts.places[0].tensor, "layers.1.moe.router.weight");
    EXPECT_EQ(experts.whole[3],
              (std::vector<std::string>{"layers.1.moe.experts.3.w1.weight", "layers.1.moe.experts.3.w3.weight",
                                        "layers.1.moe.experts.3.w2.weight"}));
    EXPECT_EQ(axis_named(axes, "layers.1.moe.experts.3.mlp").size, small::width);
}

TEST(Axes, CountTheParametersOfAUnit) {
    const Graph graph = small::experts();
    const auto axes = find_axes(graph);
    const auto of = [&](const char* axis) { return unit_parameters(graph, axis_named(axes, axis), 1); };
    EXPECT_EQ(of("layers.0.experts"), small::hidden + 3 * small::hidden * small::width);
    EXPECT_EQ(of("layers.0.moe.experts.2.mlp"), 3 * small::hidden);
    EXPECT_EQ(of("layers.0.kv_groups"), small::hidden * small::head_dim * (2 + 1 + 1 + 2));
}

TEST(Axes, RefuseAnUnknownNameWithTheNearestOne) {
    try {
        axis_named(find_axes(small::gqa()), "layers.0.mpl");
        FAIL();
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("did you mean layers.0.mlp?"), std::string::npos) << error.what();
    }
}

class EveryShape : public testing::TestWithParam<std::string> {};

TEST_P(EveryShape, PutsEveryIndexOfEveryLinearOnOneUnitOfOneAxis) {
    const Graph graph = small::all().at(GetParam())();
    std::map<std::pair<std::string, int>, std::vector<int>> times;
    for (const auto& tensor : expected_tensors(graph))
        for (std::size_t d = 0; d < tensor.shape.size(); ++d)
            times[{tensor.name, int(d)}].resize(std::size_t(tensor.shape[d]));
    for (const auto& axis : find_axes(graph)) {
        if (axis.is_view()) continue;
        for (const auto& place : axis.places)
            for (std::int64_t u = 0; u < axis.size; ++u)
                for (const auto index : place.layout.indices(u))
                    ++times.at({place.tensor, place.dimension}).at(std::size_t(index));
    }
    for (const auto& [where, counts] : times) {
        const bool norm_of_a_head = where.first.ends_with(".qn.weight") || where.first.ends_with(".kn.weight");
        for (std::size_t i = 0; i < counts.size(); ++i)
            EXPECT_EQ(counts[i], norm_of_a_head ? 0 : 1) << where.first << " " << where.second << " " << i;
    }
}

INSTANTIATE_TEST_SUITE_P(Axes, EveryShape, testing::ValuesIn([] {
                             std::vector<std::string> names;
                             for (const auto& [name, graph] : small::all()) names.push_back(name);
                             return names;
                         }()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace kerf::core
