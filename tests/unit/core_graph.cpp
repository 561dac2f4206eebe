// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
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
        {"/blocks/0/ops/1/shape", json::array({8388608, 8}), "a side of 8388608 in \"shape\""},
        {"/blocks/0/ops/0/eps", -1e-5, "an eps of 0 or more"},
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

/// One block whose linears run on the tokens of two experts.
json routed_model() {
    json model = small_model();
    model["blocks"][0]["ops"] = json::parse(R"([
        {"op": "rms_norm", "in": "x", "out": "n", "name": "norm", "size": 8, "eps": 1e-5, "heads": 2},
        {"op": "linear", "in": "n", "out": "r", "name": "router", "shape": [3, 8], "role": "router"},
        {"op": "route", "in": "r", "out": "w", "experts": 3, "top_k": 2, "normalize": true},
        {"op": "dispatch", "in": ["n", "w"], "out": "d0", "expert": 0},
        {"op": "linear", "in": "d0", "out": "y0", "name": "e0", "shape": [8, 8]},
        {"op": "dispatch", "in": ["n", "w"], "out": "d1", "expert": 1},
        {"op": "linear", "in": "d1", "out": "y1", "name": "e1", "shape": [8, 8]},
        {"op": "dispatch", "in": ["n", "w"], "out": "d2", "expert": 2},
        {"op": "linear", "in": "d2", "out": "h", "name": "e2", "shape": [16, 8]},
        {"op": "split", "in": "h", "out": ["g", "u"], "sizes": [8, 8], "groups": 4},
        {"op": "mul", "in": ["g", "u"], "out": "y2"},
        {"op": "combine", "in": ["w", "y0", "y1", "y2"], "out": "c"},
        {"op": "softcap", "in": "c", "out": "s", "value": 30.0},
        {"op": "attention", "in": ["s", "s", "s"], "out": "a", "heads": 2, "kv_heads": 2, "head_dim": 4, "scale": 0.5,
         "softcap": 50.0, "alibi": true},
        {"op": "rope", "in": "a", "out": "t", "heads": 2, "head_dim": 4, "theta": 10000.0,
         "scaling": {"type": "longrope", "short": [1.0, 1.5], "long": [2.0, 8.0], "original_positions": 16,
                     "attention_factor": 1.25}},
        {"op": "scale", "in": "t", "out": "f", "value": 2.5, "rounded": true},
        {"op": "add", "in": ["x", "f"], "out": "y"}])");
    return model;
}

TEST(Graph, KnowsWhatShareOfTheTokensReachesAnExpert) {
    const Graph graph = parse_graph(routed_model(), "tiny adapter");
    const auto& ops = graph.blocks[0].ops;
    EXPECT_EQ(ops[1].expert, -1);
    EXPECT_EQ(ops[3].expert, 0);
    EXPECT_EQ(ops[10].expert, 2);
    EXPECT_DOUBLE_EQ(ops[10].share, 2.0 / 3);
    EXPECT_EQ(ops[11].expert, -1);
    EXPECT_EQ(ops[11].share, 1);
}

TEST(Graph, ReadsWhatItWritesOfExpertsToo) {
    const json written = graph_json(parse_graph(routed_model(), "tiny adapter"));
    EXPECT_EQ(graph_json(parse_graph(written, "tiny adapter")), written);
    EXPECT_EQ(written["blocks"][0]["ops"], graph_json(parse_graph(written, "x"))["blocks"][0]["ops"]);
    const json& ops = written["blocks"][0]["ops"];
    EXPECT_EQ(ops[9]["groups"], 4);
    EXPECT_EQ(ops[13]["softcap"], 50);
    EXPECT_EQ(ops[13]["alibi"], true);
    EXPECT_EQ(ops[14]["scaling"], routed_model()["blocks"][0]["ops"][14]["scaling"]);
    EXPECT_EQ(ops[15]["rounded"], true);
}

TEST(Graph, GivesANormOverHeadsTheWeightOfOne) {
    const auto tensors = expected_tensors(parse_graph(routed_model(), "tiny adapter"));
    const auto norm =
        std::find_if(tensors.begin(), tensors.end(), [](const auto& t) { return t.name == "norm.weight"; });
    ASSERT_NE(norm, tensors.end());
    EXPECT_EQ(norm->shape, std::vector<std::int64_t>{4});
}

TEST(Graph, RefusesValuesOfDifferentTokens) {
    struct Case {
        const char* pointer;
        json value;
        const char* says;
    };
    const std::vector<Case> cases{
        {"/2/top_k", 4, "chooses 4 of 3 experts"},
        {"/2/experts", 4, "has 3 features, 4 are expected"},
        {"/3/in", json::array({"n", "r"}), "not what a route op makes"},
        {"/3/expert", 3, "expert 3 of 3"},
        {"/4/in", "d1", "nothing makes the value \"d1\""},
        {"/6/in", "d0", "rows for other tokens"},
        {"/9/groups", 3, "3 groups do not divide"},
        {"/10/in", json::array({"g", "y1"}), "rows for other tokens"},
        {"/11/in", json::array({"w", "y0", "y1"}), "combines 2 values, but the routing has 3 experts"},
        {"/11/in", json::array({"w", "y1", "y0", "y2"}), "rows for other tokens"},
        {"/11/in", json::array({"w"}), "not 1 and 1"},
        {"/12/in", "y2", "rows for the tokens of expert 2 alone"},
        {"/12/value", 0, "above 0"},
        {"/13/softcap", -1, "softcap"},
        {"/14/scaling/short", json::array({1.0}), "a list \"short\" of 2 numbers"},
        {"/14/scaling/long", json::array({1.0, 0.0}), "factors above 0"},
        {"/0/heads", 3, "do not split into 3 heads"},
        {"/16/in", json::array({"x", "y0"}), "rows for other tokens"},
    };
    for (const auto& [pointer, value, says] : cases) {
        json document = routed_model();
        document["blocks"][0]["ops"][json::json_pointer(pointer)] = value;
        EXPECT_NE(refusal(document).find(says), std::string::npos) << pointer << ": " << refusal(document);
    }
}

void survive_strangers(const json& model) {
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

TEST(Graph, SurvivesAnyOneValueReplacedByAnyOther) {
    survive_strangers(small_model());
    survive_strangers(routed_model());
}

}  // namespace
}  // namespace kerf::core
