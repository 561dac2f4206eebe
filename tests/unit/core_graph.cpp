// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/graph/graph.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

json small_model() {
    return json::parse(R"({
      "graph": 1, "family": "tiny", "hidden": 8, "vocabulary": 16, "positions": 32,
      "prologue": [{"op": "embedding", "in": "tokens", "out": "x", "weight": "embed.weight", "shape": [16, 8]}],
      "blocks": [{"name": "layers.0", "ops": [
        {"op": "rms_norm", "in": "x", "out": "n", "name": "layers.0.norm", "size": 8, "eps": 1e-5},
        {"op": "linear", "in": "n", "out": "q", "name": "layers.0.q", "shape": [8, 8], "role": "q"},
        {"op": "linear", "in": "n", "out": "kv", "name": "layers.0.kv", "shape": [8, 8], "bias": true},
        {"op": "split", "in": "kv", "out": ["k", "v"], "sizes": [4, 4]},
        {"op": "rope", "in": "q", "out": "qr", "heads": 2, "head_dim": 4, "theta": 10000.0,
         "scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_positions": 16}},
        {"op": "attention", "in": ["qr", "k", "v"], "out": "a", "heads": 2, "kv_heads": 1, "head_dim": 4, "scale": 0.5},
        {"op": "activation", "in": "a", "out": "s", "kind": "silu"},
        {"op": "mul", "in": ["a", "s"], "out": "m"},
        {"op": "add", "in": ["x", "m"], "out": "y"}]}],
      "epilogue": [{"op": "linear", "in": "x", "out": "logits", "name": "head", "shape": [16, 8], "weight": "embed.weight"}]
    })");
}

std::string refusal(const json& document) {
    try {
        parse_graph(document, "tiny adapter");
    } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::input);
        return error.what();
    }
    return "";
}

TEST(Graph, ReadsWhatItWrites) {
    const Graph graph = parse_graph(small_model(), "tiny adapter");
    const json written = graph_json(graph);
    EXPECT_EQ(graph_json(parse_graph(written, "tiny adapter")), written);
    EXPECT_EQ(graph.blocks[0].ops[4].scaling.original_positions, 16);
    EXPECT_EQ(graph.blocks[0].ops[2].bias, "layers.0.kv.bias");
}

TEST(Graph, ListsEachTensorOnceAlsoWhenTied) {
    const auto tensors = expected_tensors(parse_graph(small_model(), "tiny adapter"));
    std::vector<std::string> names;
    for (const auto& tensor : tensors) names.push_back(tensor.name);
    EXPECT_EQ(names, (std::vector<std::string>{"embed.weight", "layers.0.norm.weight", "layers.0.q.weight",
                                               "layers.0.kv.weight", "layers.0.kv.bias"}));
}

TEST(Graph, NamesTheOpThatIsWrong) {
    struct Case {
        const char* pointer;
        json value;
        const char* says;
    };
    const std::vector<Case> cases{
        {"/graph", 2, "this kerf reads version 1"},
        {"/hidden", -1, "out of range"},
        {"/hidden", std::int64_t{1} << 40, "out of range"},
        {"/blocks/0/ops/0/op", "conv", "unknown op \"conv\""},
        {"/blocks/0/ops/0/in", "z", "nothing makes the value \"z\""},
        {"/blocks/0/ops/1/out", "n", "made twice"},
        {"/blocks/0/ops/1/shape", json::array({8, 9}), "has 8 features, 9 are expected"},
        {"/blocks/0/ops/1/shape", json::array({8}), "two sizes"},
        {"/blocks/0/ops/3/sizes", json::array({4, 5}), "has 8 features, 9 are expected"},
        {"/blocks/0/ops/3/out", json::array({"k"}), "makes 2, not 1 and 1"},
        {"/blocks/0/ops/4/rotary_dim", 3, "rotary_dim"},
        {"/blocks/0/ops/4/scaling/type", "yarn", "unknown type \"yarn\""},
        {"/blocks/0/ops/5/kv_heads", 3, "do not divide"},
        {"/blocks/0/ops/6/kind", "swish2", "unknown activation"},
        {"/blocks/0/ops/8/out", "z", "nothing makes the value \"y\""},
        {"/blocks/0/ops/2/name", "layers.0.q", "two linears are named"},
        {"/epilogue/0/shape", json::array({15, 8}), "logits of 15 features"},
        {"/prologue", json::object(), "needs a list \"prologue\""},
        {"/blocks/0/ops/1/name", 5, "needs a text \"name\""},
    };
    for (const auto& [pointer, value, says] : cases) {
        json document = small_model();
        document[json::json_pointer(pointer)] = value;
        EXPECT_NE(refusal(document).find(says), std::string::npos) << pointer << ": " << refusal(document);
    }
}

TEST(Graph, SurvivesAnyOneValueReplacedByAnyOther) {
    const json model = small_model();
    const json flat = model.flatten();
    const std::vector<json> strangers{
        nullptr, -1, 0, 1e300, "", "x", json::array(), json::object(), true, json::array({1, "a"})};
    for (const auto& [pointer, ignored] : flat.items()) {
        for (const auto& stranger : strangers) {
            json document = model;
            document[json::json_pointer(pointer)] = stranger;
            EXPECT_NO_FATAL_FAILURE(refusal(document)) << pointer;
        }
    }
}

}  // namespace
}  // namespace kerf::core
