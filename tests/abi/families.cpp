// SPDX-License-Identifier: Apache-2.0
#include <fstream>

#include "tests/abi/family.hpp"

namespace kerf {
namespace {

json llama(const json& changes = json::object()) {
    json config{
        {"model_type", "llama"},    {"hidden_size", 64}, {"intermediate_size", 96}, {"num_hidden_layers", 3},
        {"num_attention_heads", 4}, {"vocab_size", 100}, {"rms_norm_eps", 1e-5},    {"max_position_embeddings", 128}};
    config.update(changes);
    return config;
}
json opt(const json& changes = json::object()) {
    json config{{"model_type", "opt"},          {"hidden_size", 64},        {"ffn_dim", 128},
                {"num_hidden_layers", 2},       {"num_attention_heads", 4}, {"vocab_size", 100},
                {"max_position_embeddings", 50}};
    config.update(changes);
    return config;
}

TEST(LlamaAdapter, GivesTheTensorsOfTheCheckpointAndNoOthers) {
    const auto graph = graph_of("llama", llama({{"num_hidden_layers", 1}}));
    auto names = tensors(graph);
    std::sort(names.begin(), names.end());
    const std::string l = "model.layers.0.";
    EXPECT_EQ(names,
              (std::vector<std::string>{
                  "lm_head.weight", "model.embed_tokens.weight", l + "input_layernorm.weight",
                  l + "mlp.down_proj.weight", l + "mlp.gate_proj.weight", l + "mlp.up_proj.weight",
                  l + "post_attention_layernorm.weight", l + "self_attn.k_proj.weight", l + "self_attn.o_proj.weight",
                  l + "self_attn.q_proj.weight", l + "self_attn.v_proj.weight", "model.norm.weight"}));
    EXPECT_EQ(graph.family, "llama");
    EXPECT_EQ(graph.positions, 128);
}

TEST(LlamaAdapter, QueryKeyAndValueReadTheSameInput) {
    const auto graph = graph_of("llama", llama());
    std::string in;
    int found = 0;
    for (const auto& op : graph.blocks[1].ops)
        if (op.role == "q" || op.role == "k" || op.role == "v") {
            if (in.empty()) in = op.in[0];
            EXPECT_EQ(op.in[0], in);
            ++found;
        }
    EXPECT_EQ(found, 3);
}

TEST(LlamaAdapter, GroupedHeadsAndHeadDimFollowTheConfig) {
    const auto graph = graph_of("llama", llama({{"num_key_value_heads", 2}, {"head_dim", 32}}));
    const auto& attention = op_of(graph, OpKind::attention);
    EXPECT_EQ(attention.heads, 4);
    EXPECT_EQ(attention.kv_heads, 2);
    EXPECT_EQ(attention.head_dim, 32);
    EXPECT_DOUBLE_EQ(attention.value, 1 / std::sqrt(32.0));
    EXPECT_EQ(op_of(graph_of("llama", llama({{"head_dim", nullptr}})), OpKind::attention).head_dim, 16);
}

TEST(LlamaAdapter, RopeIsReadInBothSpellings) {
    const json scaling{{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
    json parameters = scaling;
    parameters["rope_theta"] = 500000.0;
    for (const auto& config :
         {llama({{"rope_scaling", scaling}, {"rope_theta", 500000.0}}), llama({{"rope_parameters", parameters}})}) {
        const auto graph = graph_of("llama", config);
        const auto& rope = op_of(graph, OpKind::rope);
        EXPECT_DOUBLE_EQ(rope.theta, 500000);
        EXPECT_EQ(rope.scaling.kind, core::RopeScaling::Kind::llama3);
        EXPECT_DOUBLE_EQ(rope.scaling.factor, 8);
        EXPECT_DOUBLE_EQ(rope.scaling.low_freq_factor, 1);
        EXPECT_DOUBLE_EQ(rope.scaling.high_freq_factor, 4);
        EXPECT_EQ(rope.scaling.original_positions, 8192);
    }
    const auto graph = graph_of("llama", llama({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}));
    EXPECT_EQ(op_of(graph, OpKind::rope).scaling.kind, core::RopeScaling::Kind::linear);
    EXPECT_DOUBLE_EQ(op_of(graph, OpKind::rope).theta, 10000);
    EXPECT_EQ(op_of(graph_of("llama", llama({{"rope_scaling", nullptr}})), OpKind::rope).scaling.kind,
              core::RopeScaling::Kind::none);
}

TEST(LlamaAdapter, BiasesAndTyingFollowTheConfig) {
    const auto plain = graph_of("llama", llama());
    EXPECT_FALSE(reads(plain, "model.layers.0.self_attn.q_proj.bias"));
    EXPECT_TRUE(reads(plain, "lm_head.weight"));
    const auto full =
        graph_of("llama", llama({{"attention_bias", true}, {"mlp_bias", true}, {"tie_word_embeddings", true}}));
    for (const char* name : {"self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.down_proj.bias"})
        EXPECT_TRUE(reads(full, std::string("model.layers.2.") + name));
    EXPECT_FALSE(reads(full, "lm_head.weight"));
    EXPECT_EQ(full.epilogue.back().weight, "model.embed_tokens.weight");
}

TEST(LlamaAdapter, MistralHasASlidingWindow) {
    const auto window = [](const json& changes) {
        json config = llama({{"model_type", "mistral"}, {"num_key_value_heads", 2}});
        config.update(changes);
        return op_of(graph_of("llama", config), OpKind::attention).window;
    };
    EXPECT_EQ(window(json::object()), 4096);
    EXPECT_EQ(window({{"sliding_window", 77}}), 77);
    EXPECT_EQ(window({{"sliding_window", nullptr}}), 0);
}

TEST(LlamaAdapter, Qwen2HasBiasesOnQueryKeyAndValueAlone) {
    json config = llama({{"model_type", "qwen2"}, {"num_key_value_heads", 2}, {"sliding_window", 32}});
    const auto graph = graph_of("llama", config);
    EXPECT_TRUE(reads(graph, "model.layers.0.self_attn.v_proj.bias"));
    EXPECT_FALSE(reads(graph, "model.layers.0.self_attn.o_proj.bias"));
    EXPECT_EQ(op_of(graph, OpKind::attention).window, 0);
    config.update({{"use_sliding_window", true}, {"max_window_layers", 2}});
    const auto windowed = graph_of("llama", config);
    EXPECT_EQ(op_of(windowed, OpKind::attention, 1).window, 0);
    EXPECT_EQ(op_of(windowed, OpKind::attention, 2).window, 32);
}

TEST(LlamaAdapter, RefusesByNameWhatItDoesNotHonour) {
    const std::pair<json, const char*> cases[] = {
        {{{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}},
         "rope_scaling.rope_type = dynamic is not supported"},
        {{{"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}}},
         "rope_parameters.rope_type = yarn is not supported"},
        {{{"rope_parameters", {{"rope_type", "default"}}}, {"rope_scaling", {{"type", "yarn"}, {"factor", 2.0}}}},
         "rope_scaling.rope_type = yarn is not supported"},
        {{{"rope_scaling", "linear"}}, "rope_scaling is no table of settings"},
        {{{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}, "partial_rotary_factor = 0.5"},
        {{{"use_qk_norm", true}}, "use_qk_norm = true is not supported"},
        {{{"model_type", "mistral"}, {"num_key_value_heads", 2}, {"sliding_window", -3}},
         "sliding_window = -3, but at least 1 is needed"},
        {{{"hidden_act", "mish"}}, "hidden_act = mish is not supported"},
        {{{"num_local_experts", 8}}, "num_local_experts is not supported"},
        {{{"num_key_value_heads", 3}}, "num_key_value_heads = 3 does not divide num_attention_heads = 4"},
        {{{"num_attention_heads", 5}}, "num_attention_heads = 5 does not divide hidden_size = 64"},
        {{{"hidden_size", "64"}}, "hidden_size is a text, but a whole number is needed"},
        {{{"num_hidden_layers", 0}}, "num_hidden_layers = 0, but at least 1 is needed"},
        {{{"vocab_size", nullptr}}, "vocab_size is missing"},
        {{{"layer_types", {"full_attention", "sliding_attention", "full_attention"}}},
         "layer_types.1 = sliding_attention is not supported"},
    };
    for (const auto& [changes, reason] : cases) {
        const auto said = refusal("llama", llama(changes));
        EXPECT_NE(said.find(reason), std::string::npos) << changes << " said: " << said;
        EXPECT_NE(said.find("config.json: "), std::string::npos) << said;
    }
    EXPECT_EQ(refusal("llama", llama({{"model_type", "gemma"}})), "not accepted");
}

TEST(OptAdapter, GivesTheTensorsOfTheCheckpoint) {
    const auto graph = graph_of("opt", opt());
    for (const char* name : {"model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight",
                             "model.decoder.layers.1.self_attn.out_proj.bias",
                             "model.decoder.layers.0.self_attn_layer_norm.bias", "model.decoder.layers.1.fc1.weight",
                             "model.decoder.layers.1.final_layer_norm.weight", "model.decoder.final_layer_norm.weight"})
        EXPECT_TRUE(reads(graph, name)) << name;
    EXPECT_FALSE(reads(graph, "lm_head.weight"));
    const auto expected = core::expected_tensors(graph);
    const auto positions = std::find_if(expected.begin(), expected.end(),
                                        [](const auto& t) { return t.name == "model.decoder.embed_positions.weight"; });
    EXPECT_EQ(positions->shape, (std::vector<std::int64_t>{52, 64}));
    EXPECT_EQ(graph.positions, 50);
}

TEST(OptAdapter, The350mIsPostNormWithProjectionsAndWithoutAFinalNorm) {
    const auto graph = graph_of("opt", opt({{"do_layer_norm_before", false}, {"word_embed_proj_dim", 32}}));
    EXPECT_TRUE(reads(graph, "model.decoder.project_in.weight"));
    EXPECT_TRUE(reads(graph, "model.decoder.project_out.weight"));
    EXPECT_FALSE(reads(graph, "model.decoder.project_in.bias"));
    EXPECT_FALSE(reads(graph, "model.decoder.final_layer_norm.weight"));
    std::string kinds;
    for (const auto& op : graph.blocks[0].ops) kinds += std::string(core::op_name(op.kind)) + " ";
    EXPECT_EQ(kinds, "linear linear linear attention linear add layer_norm linear activation linear add layer_norm ");
}

TEST(OptAdapter, OrdinaryBlocksArePreNorm) {
    std::string kinds;
    const auto graph = graph_of("opt", opt());
    for (const auto& op : graph.blocks[0].ops) kinds += std::string(core::op_name(op.kind)) + " ";
    EXPECT_EQ(kinds, "layer_norm linear linear linear attention linear add layer_norm linear activation linear add ");
}

TEST(OptAdapter, FlagsOfTheConfigAreHonoured) {
    const auto bare = graph_of("opt", opt({{"enable_bias", false},
                                           {"layer_norm_elementwise_affine", false},
                                           {"tie_word_embeddings", false},
                                           {"activation_function", "gelu"}}));
    EXPECT_FALSE(reads(bare, "model.decoder.layers.0.fc1.bias"));
    EXPECT_FALSE(reads(bare, "model.decoder.layers.0.final_layer_norm.weight"));
    EXPECT_TRUE(reads(bare, "lm_head.weight"));
    EXPECT_EQ(op_of(bare, OpKind::activation).activation, core::ActivationKind::gelu);
    EXPECT_FALSE(
        reads(graph_of("opt", opt({{"_remove_final_layer_norm", true}})), "model.decoder.final_layer_norm.weight"));
}

TEST(Adapters, TheGraphReadsBackAsItWasWritten) {
    for (const char* name : {"llama-tiny", "opt-tiny"}) {
        std::ifstream in(std::string(KERF_TEST_DATA "/models/") + name + "/config.json");
        const auto config = json::parse(in);
        const auto graph = graph_of(config["model_type"] == "opt" ? "opt" : "llama", config);
        const auto document = core::graph_json(graph);
        EXPECT_EQ(core::graph_json(core::parse_graph(document, name)), document);
    }
}

}  // namespace
}  // namespace kerf
