// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <kerf/adapter.hpp>
#include <nlohmann/json.hpp>

#include "core/graph/graph.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;
using namespace kerf::arch;

constexpr std::int64_t hidden = 16, vocabulary = 32;

/// The graph of a model with one block of these parts.
Graph graph_of(const std::vector<Part>& parts, Residual residual = Residual::pre_norm, HeadOptions head = {}) {
    const auto document = model(hidden)
                              .embedding("embed", vocabulary, {.scale = 4, .rounded = true})
                              .blocks("layers.{}", 1, parts, residual)
                              .head("head", head)
                              .json("test");
    return parse_graph(json::parse(document), "test");
}

const Op& op_of(const std::vector<Op>& ops, OpKind kind, std::size_t number = 0) {
    for (const auto& op : ops)
        if (op.kind == kind && number-- == 0) return op;
    throw std::out_of_range("no such op");
}

TEST(Parts, FusedAttentionSplitsByKeyValueHead) {
    const auto graph =
        graph_of({fused_attention({"qkv", "o"}, QkvLayout::per_kv_head, {.query = 4, .key_value = 2, .dim = 8}, Rope{},
                                  {.bias = true, .window = 5, .softcap = 50, .alibi = true})});
    const auto& ops = graph.blocks[0].ops;
    const Op& split = op_of(ops, OpKind::split);
    EXPECT_EQ(split.sizes, (std::vector<std::int64_t>{32, 16, 16}));
    EXPECT_EQ(split.groups, 2);
    EXPECT_EQ(op_of(ops, OpKind::linear).role, "qkv");
    EXPECT_EQ(op_of(ops, OpKind::linear).rows, 64);
    const Op& attention = op_of(ops, OpKind::attention);
    EXPECT_EQ(attention.softcap, 50);
    EXPECT_EQ(attention.window, 5);
    EXPECT_TRUE(attention.alibi);
}

TEST(Parts, QueryAndKeyNormsWorkOnHeads) {
    const auto graph = graph_of({attention({"q", "k", "v", "o"}, {.query = 4, .key_value = 2, .dim = 8}, Rope{},
                                           {.q_norm = rms_norm("q_norm", 1e-6), .k_norm = rms_norm("k_norm", 1e-6)})});
    const auto& ops = graph.blocks[0].ops;
    EXPECT_EQ(op_of(ops, OpKind::rms_norm, 0).heads, 4);
    EXPECT_EQ(op_of(ops, OpKind::rms_norm, 1).heads, 2);
    EXPECT_EQ(op_of(ops, OpKind::rope, 1).in[0], op_of(ops, OpKind::rms_norm, 1).out[0]);
}

TEST(Parts, ARoutedMlpRunsEachExpertOnItsTokens) {
    const auto graph = graph_of({routed_mlp("gate", "experts.{}", {.count = 3, .top_k = 2}, [](const auto& name) {
        return gated_mlp({name + ".w1", name + ".w3", name + ".w2"}, 24, Act::silu);
    })});
    const auto& ops = graph.blocks[0].ops;
    std::vector<std::string> names;
    for (const auto& op : ops)
        if (op.kind == OpKind::linear && op.expert == 2) names.push_back(op.name);
    EXPECT_EQ(names,
              (std::vector<std::string>{"layers.0.experts.2.w1", "layers.0.experts.2.w3", "layers.0.experts.2.w2"}));
    EXPECT_EQ(op_of(ops, OpKind::route).top_k, 2);
    EXPECT_EQ(op_of(ops, OpKind::linear).role, "router");
    EXPECT_EQ(op_of(ops, OpKind::combine).in.size(), 4u);
}

TEST(Parts, ThenNormalisesBeforeTheResidual) {
    const auto graph =
        graph_of({rms_norm("before", 1e-6), then(mlp({"fc1", "fc2"}, 24, Act::gelu_tanh, {.transposed = true}),
                                                 rms_norm("after", 1e-6, {.offset = 1}))});
    const auto& ops = graph.blocks[0].ops;
    EXPECT_EQ(op_of(ops, OpKind::add).in[1], op_of(ops, OpKind::rms_norm, 1).out[0]);
    EXPECT_TRUE(op_of(ops, OpKind::linear).transposed);
}

TEST(Parts, FusedGateAndUpAreHalvesOfOneLinear) {
    const auto graph = graph_of({fused_gated_mlp({"gate_up", "down"}, 24, Act::silu)});
    const auto& ops = graph.blocks[0].ops;
    EXPECT_EQ(op_of(ops, OpKind::linear).rows, 48);
    EXPECT_EQ(op_of(ops, OpKind::activation).in[0], op_of(ops, OpKind::split).out[0]);
}

TEST(Parts, ASoftcapFollowsTheHead) {
    const auto graph = graph_of({mlp({"fc1", "fc2"}, 24, Act::relu)}, Residual::pre_norm, {.softcap = 30});
    EXPECT_EQ(graph.epilogue.back().kind, OpKind::softcap);
    EXPECT_EQ(graph.epilogue.back().value, 30);
    EXPECT_TRUE(op_of(graph.prologue, OpKind::scale).rounded);
}

Rope rope_from(const json& tree, std::int64_t head_dim) {
    return rope_of(Config(host_table(), as_values(tree), "test", "config.json"), head_dim);
}

TEST(Parts, RopeOfReadsLongropeInBothSpellings) {
    const json old{{"rope_theta", 10000.0},
                   {"max_position_embeddings", 131072},
                   {"original_max_position_embeddings", 4096},
                   {"rope_scaling", {{"type", "su"}, {"short_factor", {1.0, 1.5}}, {"long_factor", {2.0, 4}}}}};
    const auto rope = rope_from(old, 4);
    EXPECT_EQ(rope.scaling.type, arch::RopeScaling::Type::longrope);
    EXPECT_EQ(rope.scaling.long_factors, (std::vector{2.0, 4.0}));
    EXPECT_EQ(rope.scaling.original_positions, 4096);
    // 131072 = 32 · 4096: ln 32 / ln 4096 = 5 / 12
    EXPECT_NEAR(rope.scaling.attention_factor, std::sqrt(1 + 5.0 / 12), 1e-15);
    const json now{{"max_position_embeddings", 131072},
                   {"rope_parameters",
                    {{"rope_type", "longrope"},
                     {"rope_theta", 10000.0},
                     {"partial_rotary_factor", 0.5},
                     {"original_max_position_embeddings", 4096},
                     {"attention_factor", 1.5},
                     {"short_factor", {1.0, 1.5}},
                     {"long_factor", {2.0, 4}}}}};
    EXPECT_EQ(rope_from(now, 8).scaling.attention_factor, 1.5);
    EXPECT_EQ(rope_from(now, 8).dim, 4);
    EXPECT_THROW(rope_from(now, 16), kerf::Error);  // two factors for four pairs
}

TEST(Parts, RopeOfLetsRopeScalingCountWhereBothTablesAreThere) {
    const json both{
        {"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}},
        {"rope_theta", 5000.0},
        {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7.0}, {"partial_rotary_factor", 1.0}}}};
    const auto rope_with_share = [](const json& tree) {
        return rope_of(Config(host_table(), as_values(tree), "test", "config.json"), 16, 10000, 0.5);
    };
    const auto rope = rope_with_share(both);
    EXPECT_EQ(rope.scaling.type, arch::RopeScaling::Type::linear);
    EXPECT_EQ(rope.theta, 5000);
    EXPECT_EQ(rope.dim, 8);
    json empty = both;
    empty["rope_scaling"] = json::object();
    EXPECT_EQ(rope_with_share(empty).theta, 7);
    EXPECT_EQ(rope_with_share(empty).dim, 16);
}

TEST(Parts, RopeOfRefusesSharesThatDoNotRotateInPairs) {
    for (const double share : {0.0, -1.0, 1.5, 0.1, 0.2})  // of 16 features: none, none, 24, 1, 3
        EXPECT_THROW(rope_from({{"partial_rotary_factor", share}}, 16), kerf::Error) << share;
    EXPECT_THROW(rope_from({{"rope_scaling", "linear"}}, 16), kerf::Error);
}

}  // namespace
}  // namespace kerf::core
