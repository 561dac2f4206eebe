// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/graph/cost.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

constexpr std::int64_t hidden = 8, vocabulary = 16, kv_width = 4, width = 32;

/// One attention block: 2 query heads of 4, one key-value head, q 8x8 and kv 8x8 with bias, tied head.
json attention_model(std::int64_t window) {
    json model = json::parse(R"({
      "graph": 1, "family": "small", "hidden": 8, "vocabulary": 16, "positions": 0,
      "prologue": [{"op": "embedding", "in": "tokens", "out": "x", "weight": "embed.weight", "shape": [16, 8]}],
      "blocks": [{"name": "b", "ops": [
        {"op": "rms_norm", "in": "x", "out": "n", "name": "b.norm", "size": 8, "eps": 1e-5},
        {"op": "linear", "in": "n", "out": "q", "name": "b.q", "shape": [8, 8]},
        {"op": "linear", "in": "n", "out": "kv", "name": "b.kv", "shape": [8, 8], "bias": true},
        {"op": "split", "in": "kv", "out": ["k", "v"], "sizes": [4, 4]},
        {"op": "attention", "in": ["q", "k", "v"], "out": "a", "heads": 2, "kv_heads": 1, "head_dim": 4, "scale": 0.5},
        {"op": "add", "in": ["x", "a"], "out": "y"}]}],
      "epilogue": [{"op": "linear", "in": "x", "out": "logits", "name": "head", "shape": [16, 8], "weight": "embed.weight"}]
    })");
    model["blocks"][0]["ops"][4]["window"] = window;
    return model;
}

/// `experts` MLPs of 8 -> 32 -> 8, of which each token meets `top_k`.
json expert_model(std::int64_t experts, std::int64_t top_k) {
    json ops = json::array({{{"op", "linear"}, {"in", "x"}, {"out", "r"}, {"name", "b.gate"}, {"shape", {experts, 8}}},
                            {{"op", "route"}, {"in", "r"}, {"out", "w"}, {"experts", experts}, {"top_k", top_k}}});
    json combined{{"op", "combine"}, {"in", {"w"}}, {"out", "y"}};
    for (std::int64_t e = 0; e < experts; ++e) {
        const std::string n = std::to_string(e), name = "b.experts." + n;
        ops.push_back({{"op", "dispatch"}, {"in", {"x", "w"}}, {"out", "x" + n}, {"expert", e}});
        ops.push_back(
            {{"op", "linear"}, {"in", "x" + n}, {"out", "u" + n}, {"name", name + ".up"}, {"shape", {width, 8}}});
        ops.push_back(
            {{"op", "linear"}, {"in", "u" + n}, {"out", "d" + n}, {"name", name + ".down"}, {"shape", {8, width}}});
        combined["in"].push_back("d" + n);
    }
    ops.push_back(combined);
    json model = attention_model(0);
    model["blocks"][0]["ops"] = ops;
    return model;
}

Graph graph_of(const json& model) {
    return parse_graph(model, "small");
}

TEST(Cost, CountsTiedWeightsOnceAndTheirProductsTwice) {
    const auto cost = cost_of(graph_of(attention_model(0)), 1);
    EXPECT_EQ(cost.prologue.parameters, vocabulary * hidden);
    EXPECT_EQ(cost.blocks[0].parameters, hidden + 2 * hidden * hidden + hidden);
    EXPECT_EQ(cost.epilogue.parameters, vocabulary * hidden);
    EXPECT_EQ(cost.total.parameters, vocabulary * hidden + cost.blocks[0].parameters);
    EXPECT_EQ(cost.total.active_parameters, cost.total.parameters);
    EXPECT_EQ(cost.epilogue.decode_flops, 2 * vocabulary * hidden);
    EXPECT_EQ(cost.prologue.prefill_flops, 0);
}

/// Counts pairs of query and key one by one.
double attention_by_counting(std::int64_t length, std::int64_t window) {
    std::int64_t pairs = 0;
    for (std::int64_t i = 0; i < length; ++i)
        for (std::int64_t j = 0; j <= i; ++j)
            if (window == 0 || i - j < window) ++pairs;
    return 4.0 * double(hidden) * double(pairs) / double(length);
}

TEST(Cost, AttentionIsWhatCountingItsPairsGives) {
    const double linears = 2 * 2 * hidden * hidden;
    for (const std::int64_t window : {0, 1, 5, 40})
        for (const std::int64_t length : {1, 4, 5, 6, 39}) {
            const auto block = cost_of(graph_of(attention_model(window)).blocks[0].ops, length);
            EXPECT_DOUBLE_EQ(block.prefill_flops, linears + attention_by_counting(length, window))
                << length << " tokens, window " << window;
            // The next token is the last row of one token more.
            const double row = attention_by_counting(length + 1, window) * double(length + 1) -
                               attention_by_counting(length, window) * double(length);
            EXPECT_DOUBLE_EQ(block.decode_flops, linears + row) << length << " tokens, window " << window;
        }
}

TEST(Cost, TheCacheHoldsKeysAndValuesUpToTheWindow) {
    const auto at = [](std::int64_t window, std::int64_t length) {
        return cost_of(graph_of(attention_model(window)), length).total;
    };
    EXPECT_EQ(at(0, 100).kv_values_per_token, 2 * kv_width);
    EXPECT_EQ(at(0, 100).kv_values, 100 * 2 * kv_width);
    EXPECT_EQ(at(7, 100).kv_values_per_token, 2 * kv_width);
    EXPECT_EQ(at(7, 100).kv_values, 7 * 2 * kv_width);
    EXPECT_EQ(at(7, 3).kv_values, 3 * 2 * kv_width);
}

TEST(Cost, OfExpertsATokenMeetsThoseThatItIsRoutedTo) {
    const std::int64_t expert = 2 * hidden * width;
    const auto block = cost_of(graph_of(expert_model(6, 2)).blocks[0].ops, 10);
    EXPECT_EQ(block.parameters, 6 * hidden + 6 * expert);
    EXPECT_EQ(block.active_parameters, 6 * hidden + 2 * expert);
    EXPECT_DOUBLE_EQ(block.decode_flops, 2 * double(6 * hidden + 2 * expert));
    EXPECT_DOUBLE_EQ(block.prefill_flops, block.decode_flops);
}

TEST(Cost, PiecesOfAForwardPassAddUpToTheWhole) {
    for (const auto& model : {attention_model(3), expert_model(4, 1)}) {
        const Graph graph = graph_of(model);
        const auto& ops = graph.blocks[0].ops;
        double sum = 0;
        for (std::size_t i = 0; i < ops.size(); ++i) sum += forward_flops(ops, i, i + 1, 30, 10);
        EXPECT_NEAR(sum, 30 * cost_of(ops, 10).prefill_flops, 1e-9 * sum);
    }
}

TEST(Cost, WeightsTakeTheBytesOfTheirFormat) {
    json model = attention_model(0);
    model["blocks"][0]["ops"][1]["shape"] = {8, 8};
    const Graph graph = graph_of(model);
    const auto parameters = std::uint64_t(cost_of(graph, 1).total.parameters);
    EXPECT_EQ(weight_bytes(graph, {DType::f32}), 4 * parameters);
    EXPECT_EQ(weight_bytes(graph, {DType::bf16}), 2 * parameters);
    EXPECT_DOUBLE_EQ(bits_per_weight(graph, {DType::bf16}), 16);
    // Two 8x8 linears in 4 bits: codes 32 bytes, one group's zeros 4 and float16 scales 16, group indices 32.
    constexpr std::uint64_t packed = 32 + 4 + 16 + 32;
    const std::uint64_t rest = parameters - 2 * hidden * hidden;
    EXPECT_EQ(weight_bytes(graph, {DType::f16, 4, -1}), 2 * rest + 2 * packed);
    EXPECT_DOUBLE_EQ(bits_per_weight(graph, {DType::f16, 4, -1}), 8.0 * packed / (hidden * hidden));
    // 3 bits need multiples of 32: the layout has no place for these linears, so they stay float16.
    EXPECT_EQ(weight_bytes(graph, {DType::f16, 3, -1}), 2 * parameters);
}

}  // namespace
}  // namespace kerf::core
