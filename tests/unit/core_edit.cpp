// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/graph/edit.hpp"
#include "core/support/error.hpp"
#include "tests/unit/small_graphs.hpp"

namespace kerf::core {
namespace {

Edit removed(const Graph& graph, const std::vector<Removal>& removals, RemoveOptions options = {}) {
    return remove(graph, find_axes(graph), removals, options);
}

std::string refusal(const Graph& graph, const std::vector<Removal>& removals) {
    try {
        removed(graph, removals);
    } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::input) << error.what();
        return error.what();
    }
    return "";
}

const Op& op_of(const Graph& graph, std::size_t block, OpKind kind, std::size_t number = 0) {
    for (const auto& op : graph.blocks[block].ops)
        if (op.kind == kind && number-- == 0) return op;
    throw std::runtime_error("no such op");
}

TEST(Edit, AdaptsEveryOpOnTheAxis) {
    const Edit edit = removed(small::fused(), {{"layers.1.kv_groups", {0}}, {"layers.1.mlp", {3, 0, 19}}});
    const Op& attention = op_of(edit.graph, 1, OpKind::attention);
    EXPECT_EQ(attention.heads, 2);
    EXPECT_EQ(attention.kv_heads, 1);
    EXPECT_EQ(attention.head_dim, small::head_dim);
    EXPECT_EQ(op_of(edit.graph, 1, OpKind::split, 0).sizes, (std::vector<std::int64_t>{12, 6, 6}));
    EXPECT_EQ(op_of(edit.graph, 1, OpKind::split, 1).sizes, (std::vector<std::int64_t>{17, 17}));
    EXPECT_EQ(op_of(edit.graph, 1, OpKind::rope, 0).heads, 2);
    EXPECT_EQ(op_of(edit.graph, 0, OpKind::attention).heads, 4);
    EXPECT_EQ(edit.tensors.made.at("layers.1.qkv.weight").kept[0],
              (std::vector<std::int64_t>{12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
                                         30, 31, 32, 33, 34, 35, 42, 43, 44, 45, 46, 47}));
    EXPECT_FALSE(edit.tensors.made.contains("layers.0.qkv.weight"));
}

TEST(Edit, WritesAGraphThatReadsBackAsItIs) {
    for (const auto& [name, make] : small::all()) {
        const Graph graph = make();
        for (const auto& axis : find_axes(graph)) {
            if (!axis.fixed.empty() || axis.size <= std::max<std::int64_t>(axis.keep, axis.balanced)) continue;
            std::vector<std::int64_t> units;
            for (std::int64_t run = 0; run < axis.balanced; ++run) units.push_back(run * axis.size / axis.balanced);
            const auto written = graph_json(removed(graph, {{axis.name, units}}).graph);
            EXPECT_EQ(graph_json(parse_graph(written, name)), written) << name << " " << axis.name;
            EXPECT_NE(written, graph_json(graph)) << name << " " << axis.name;
        }
    }
}

TEST(Edit, KeepsTheDivisorOfNormsOnlyWhenAsked) {
    const Graph graph = small::gqa();
    EXPECT_EQ(op_of(removed(graph, {{"residual", {5}}}).graph, 0, OpKind::rms_norm).divisor, small::hidden);
    EXPECT_EQ(op_of(removed(graph, {{"residual", {5}}}, {.keep_divisor = false}).graph, 0, OpKind::rms_norm).divisor,
              0);
    // cut twice, a norm still divides by what it had at first
    const Graph once = removed(graph, {{"residual", {5}}}).graph;
    EXPECT_EQ(op_of(removed(once, {{"residual", {0, 1}}}).graph, 1, OpKind::rms_norm).divisor, small::hidden);
    EXPECT_EQ(removed(once, {{"residual", {0, 1}}}).graph.hidden, small::hidden - 3);
}

TEST(Edit, RemembersWhichPairsRotateAndWhichHeadsHaveWhichSlope) {
    const Graph once = removed(small::fused(), {{"layers.0.rotary_pairs", {1}}}).graph;
    EXPECT_EQ(op_of(once, 0, OpKind::rope).pairs, (std::vector<std::int64_t>{0, 2}));
    const Graph twice = removed(once, {{"layers.0.rotary_pairs", {0}}}).graph;
    EXPECT_EQ(op_of(twice, 0, OpKind::rope).pairs, (std::vector<std::int64_t>{2}));
    EXPECT_EQ(op_of(twice, 0, OpKind::rope).pairs_of, 3);
    EXPECT_EQ(op_of(twice, 0, OpKind::attention).head_dim, 2);
    EXPECT_EQ(op_of(twice, 0, OpKind::attention).value_dim, small::head_dim);

    const Graph heads =
        removed(removed(small::alibi(), {{"layers.0.heads", {0}}}).graph, {{"layers.0.heads", {1}}}).graph;
    EXPECT_EQ(op_of(heads, 0, OpKind::attention).alibi_heads, (std::vector<std::int64_t>{1, 3}));
    EXPECT_EQ(op_of(heads, 0, OpKind::attention).alibi_of, 4);
}

TEST(Edit, GivesExpertsThatStayTheNamesOfTheFirstOnes) {
    const Edit edit = removed(small::experts(), {{"layers.0.experts", {0, 2}}});
    EXPECT_EQ(op_of(edit.graph, 0, OpKind::route).experts, 2);
    EXPECT_EQ(op_of(edit.graph, 0, OpKind::dispatch, 1).expert, 1);
    EXPECT_EQ(edit.tensors.made.at("layers.0.moe.experts.0.w1.weight").source, "layers.0.moe.experts.1.w1.weight");
    EXPECT_EQ(edit.tensors.made.at("layers.0.moe.experts.1.w2.weight").source, "layers.0.moe.experts.3.w2.weight");
    EXPECT_EQ(edit.tensors.dropped.size(), 2 * 3u);
    EXPECT_NE(std::find(edit.tensors.dropped.begin(), edit.tensors.dropped.end(), "layers.0.moe.experts.3.w3.weight"),
              edit.tensors.dropped.end());
}

TEST(Edit, RefusesInWordsWhatCannotBeCut) {
    struct Case {
        const char* model;
        std::vector<Removal> removals;
        const char* says;
    };
    std::vector<std::int64_t> all_of_width(std::size_t(small::width));
    for (std::size_t i = 0; i < all_of_width.size(); ++i) all_of_width[i] = std::int64_t(i);
    const std::vector<Case> cases{
        {"gqa", {{"layers.0.mlp", all_of_width}}, "removing 20 of 20 units leaves 0, at least 1 must stay"},
        {"gqa", {{"layers.0.mlp", {20}}}, "there is no unit 20; the axis has 20"},
        {"gqa", {{"layers.0.mlp", {-1}}}, "there is no unit -1"},
        {"gqa", {{"layers.0.mlp", {4, 2, 4}}}, "unit 4 is named twice"},
        {"gqa", {{"layers.0.mlp", {4}}, {"layers.0.mlp", {5}}}, "the axis is named twice"},
        {"gqa", {{"layers.7.mlp", {4}}}, "no axis \"layers.7.mlp\""},
        {"gqa", {{"vocabulary", {4}}}, "its indices are token ids"},
        {"narrow_embedding", {{"positions", {4}}}, "its indices are positions"},
        {"gqa", {{"layers.0.query_heads", {0}}}, "must lose equally many units, but group 0 loses 1 and group 1 0"},
        {"multi_query", {{"layers.0.kv_groups", {0}}}, "removing 1 of 1 units"},
        {"experts", {{"layers.0.experts", {0, 1, 2}}}, "leaves 1, at least 2 are chosen for every token"},
        {"gqa", {{"layers.0.rotary_pairs", {0, 1}}}, "removing 2 of 2 units"},
        {"gqa", {{"layers.0.kv_groups", {0}}, {"layers.0.query_heads", {0, 3}}}, ""}};
    for (const auto& [model, removals, says] : cases)
        EXPECT_NE(refusal(small::all().at(model)(), removals).find(says), std::string::npos)
            << model << " " << removals[0].axis << ": " << refusal(small::all().at(model)(), removals);
}

TEST(Edit, CutsAcrossTwoAxesOfOneAttention) {
    // group 0 goes, and one query head of either group: one query head is left, on one key-value head
    const Edit edit = removed(small::gqa(), {{"layers.0.kv_groups", {0}}, {"layers.0.query_heads", {0, 3}}});
    EXPECT_EQ(op_of(edit.graph, 0, OpKind::attention).heads, 1);
    EXPECT_EQ(op_of(edit.graph, 0, OpKind::attention).kv_heads, 1);
    EXPECT_EQ(edit.tensors.made.at("layers.0.q.weight").kept[0], (std::vector<std::int64_t>{12, 13, 14, 15, 16, 17}));
}

TEST(Edit, RefusesAMaskOfAnotherSize) {
    EXPECT_THROW(mask(small::gqa(), "layers.0.q", std::vector<bool>(5, true)), Error);
    EXPECT_THROW(mask(small::gqa(), "layers.0.nothing", std::vector<bool>(5, true)), Error);
}

TEST(Edit, NamesAnOpThatDisagreesWithACut) {
    // axes of another model of the same names, but other places
    EXPECT_THROW(remove(small::gqa(), find_axes(small::fused()), std::vector<Removal>{{"layers.0.mlp", {0}}}), Error);
}

}  // namespace
}  // namespace kerf::core
