// SPDX-License-Identifier: Apache-2.0
#include <fstream>

#include "tests/abi/family.hpp"

namespace kerf {
namespace {

json changed(json config, const json& changes) {
    config.update(changes);
    return config;
}
json phi2(const json& changes = json::object()) {
    return changed({{"model_type", "phi"},
                    {"hidden_size", 64},
                    {"intermediate_size", 96},
                    {"num_hidden_layers", 2},
                    {"num_attention_heads", 4},
                    {"vocab_size", 100}},
                   changes);
}
json phi3(const json& changes = json::object()) {
    return changed(phi2({{"model_type", "phi3"}}), changes);
}
json falcon(const json& changes = json::object()) {
    return changed({{"model_type", "falcon"},
                    {"hidden_size", 64},
                    {"num_hidden_layers", 2},
                    {"num_attention_heads", 4},
                    {"vocab_size", 100}},
                   changes);
}
json new_decoder(const json& changes = json::object()) {
    return changed(falcon({{"new_decoder_architecture", true}, {"num_kv_heads", 2}}), changes);
}

std::string kinds(const core::Graph& graph) {
    std::string out;
    for (const auto& op : graph.blocks[0].ops) out += std::string(core::op_name(op.kind)) + " ";
    return out;
}

using Refusals = std::vector<std::pair<json, std::string>>;
void expect_refusals(const std::string& name, const Refusals& cases) {
    for (const auto& [config, reason] : cases) {
        const auto said = refusal(name, config);
        EXPECT_NE(said.find(reason), std::string::npos) << config << " said: " << said;
        EXPECT_NE(said.find("config.json: "), std::string::npos) << said;
    }
}

TEST(Phi2Adapter, AttentionAndMlpReadOneNormAndAllLinearsHaveBiases) {
    const auto graph = graph_of("phi2", phi2());
    std::string normed;
    for (const auto& op : graph.blocks[0].ops) {
        if (op.kind == OpKind::layer_norm) normed = op.out[0];
        if (op.role == "q" || op.role == "fc1") {
            EXPECT_EQ(op.in[0], normed) << op.name;
        }
        EXPECT_EQ(op.kind == OpKind::linear && op.bias.empty(), false) << op.name;
    }
    EXPECT_TRUE(reads(graph, "lm_head.bias"));
    EXPECT_TRUE(reads(graph, "model.final_layernorm.bias"));
    EXPECT_EQ(kinds(graph),
              "layer_norm linear linear linear rope rope attention linear add linear activation linear add ");
}

TEST(Phi2Adapter, HalfOfAHeadRotatesWhereTheConfigDoesNotSay) {
    const auto rotary = [](const json& changes) {
        return op_of(graph_of("phi2", phi2(changes)), OpKind::rope).rotary_dim;
    };
    EXPECT_EQ(rotary(json::object()), 8);
    EXPECT_EQ(rotary({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e4}}}}), 8);
    EXPECT_EQ(rotary({{"partial_rotary_factor", 0.4}}), 6);
    EXPECT_EQ(rotary({{"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.25}}}}), 4);
}

TEST(Phi2Adapter, RefusesByNameWhatItDoesNotHonour) {
    expect_refusals("phi2", {{phi2({{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}), "rope_type = dynamic"},
                             {phi2({{"hidden_act", "mish"}}), "hidden_act = mish"},
                             {phi2({{"num_key_value_heads", 3}}), "num_key_value_heads = 3 does not divide"},
                             {phi2({{"num_attention_heads", 5}}), "num_attention_heads = 5 does not divide"}});
    EXPECT_EQ(refusal("phi2", phi3()), "not accepted");
}

json longrope(const char* type, std::size_t factors = 8) {
    return {{"type", type},
            {"short_factor", std::vector<double>(factors, 1.5)},
            {"long_factor", std::vector<double>(factors, 4)}};
}

TEST(Phi3Adapter, OldAndNewSpellingsOfLongropeGiveOneGraph) {
    const json lengths{{"max_position_embeddings", 128}, {"original_max_position_embeddings", 16}};
    json parameters = longrope("longrope");
    parameters.erase("type");
    parameters.update({{"rope_type", "longrope"}, {"rope_theta", 10000.0}, {"original_max_position_embeddings", 16}});
    const auto graph = graph_of("phi3", changed(phi3(lengths), {{"rope_parameters", parameters}}));
    for (const char* type : {"su", "longrope"})
        EXPECT_EQ(core::graph_json(graph_of("phi3", changed(phi3(lengths), {{"rope_scaling", longrope(type)}}))),
                  core::graph_json(graph));
    const auto& rope = op_of(graph, OpKind::rope);
    EXPECT_EQ(rope.scaling.original_positions, 16);
    EXPECT_DOUBLE_EQ(rope.scaling.attention_factor, std::sqrt(1 + std::log(128.0 / 16) / std::log(16.0)));
}

TEST(Phi3Adapter, QkvAndGateUpAreOneLinearEach) {
    const auto graph = graph_of("phi3", phi3({{"num_key_value_heads", 2}, {"sliding_window", 7}}));
    EXPECT_EQ(kinds(graph),
              "rms_norm linear split rope rope attention linear add rms_norm linear split activation mul linear add ");
    const auto& split = op_of(graph, OpKind::split);
    EXPECT_EQ(split.sizes, (std::vector<std::int64_t>{64, 32, 32}));
    EXPECT_EQ(split.groups, 1);
    EXPECT_EQ(op_of(graph, OpKind::attention).window, 7);
    EXPECT_EQ(op_of(graph_of("phi3", phi3({{"sliding_window", nullptr}})), OpKind::attention).window, 0);
}

TEST(Phi3Adapter, RefusesByNameWhatItDoesNotHonour) {
    expect_refusals(
        "phi3", {{phi3({{"attention_bias", true}}), "attention_bias = true"},
                 {phi3({{"lm_head_bias", true}}), "lm_head_bias = true"},
                 {phi3({{"full_attn_mod", 2}}), "full_attn_mod = 2"},
                 {phi3({{"rope_scaling", {{"type", "yarn"}}}}), "rope_scaling.type = yarn"},
                 {phi3({{"rope_parameters", {{"rope_type", "linear"}}}}), "rope_parameters.rope_type = linear"},
                 {phi3({{"rope_scaling", longrope("su", 5)}, {"original_max_position_embeddings", 16}}), "5 factors"},
                 {phi3({{"original_max_position_embeddings", 16},
                        {"rope_parameters", {{"rope_type", "default"}, {"original_max_position_embeddings", 32}}}}),
                  "rope_parameters.original_max_position_embeddings = 32"},
                 {phi3({{"sliding_window", 0}}), "sliding_window = 0, but at least 1 is needed"}});
}

TEST(FalconAdapter, TheFusedProjectionIsCutAsEachGenerationLaysItOut) {
    struct Case {
        json config;
        std::vector<std::int64_t> sizes;
        std::int64_t groups;
    };
    const Case cases[] = {{falcon({{"num_kv_heads", 4}}), {64, 16, 16}, 1},  // one head whatever num_kv_heads says
                          {falcon({{"multi_query", false}}), {64, 64, 64}, 4},
                          {new_decoder(), {64, 32, 32}, 2}};
    for (const auto& [config, sizes, groups] : cases) {
        const auto graph = graph_of("falcon", config);
        EXPECT_EQ(op_of(graph, OpKind::split).sizes, sizes);
        EXPECT_EQ(op_of(graph, OpKind::split).groups, groups);
        EXPECT_EQ(op_of(graph, OpKind::attention).kv_heads, sizes[1] / 16);
    }
}

TEST(FalconAdapter, NormsAndOrderFollowTheConfig) {
    const std::string attend = "linear split rope rope attention linear add ",
                      forward = "linear activation linear add ";
    EXPECT_EQ(kinds(graph_of("falcon", falcon())), "layer_norm " + attend + forward);
    EXPECT_EQ(kinds(graph_of("falcon", falcon({{"parallel_attn", false}}))),
              "layer_norm " + attend + "layer_norm " + forward);
    EXPECT_EQ(kinds(graph_of("falcon", new_decoder({{"num_ln_in_parallel_attn", 1}}))),
              "layer_norm " + attend + forward);
    const auto two = graph_of("falcon", new_decoder());
    EXPECT_EQ(kinds(two), "layer_norm " + attend + "layer_norm " + forward);
    EXPECT_TRUE(reads(two, "transformer.h.1.ln_mlp.bias"));
    for (const auto& op : two.blocks[0].ops)
        if (op.kind == OpKind::layer_norm) {
            EXPECT_EQ(op.in[0], "x");
        }
}

TEST(FalconAdapter, AlibiTakesTheRotationsPlace) {
    const auto graph = graph_of("falcon", falcon({{"alibi", true}, {"bias", true}}));
    EXPECT_TRUE(op_of(graph, OpKind::attention).alibi);
    EXPECT_EQ(kinds(graph).find("rope"), std::string::npos);
    EXPECT_TRUE(reads(graph, "transformer.h.0.mlp.dense_4h_to_h.bias"));
    EXPECT_FALSE(reads(graph_of("falcon", falcon()), "transformer.h.0.mlp.dense_4h_to_h.bias"));
}

TEST(FalconAdapter, RefusesByNameWhatItDoesNotHonour) {
    expect_refusals("falcon", {{new_decoder({{"parallel_attn", false}}), "parallel_attn = false"},
                               {new_decoder({{"num_ln_in_parallel_attn", 3}}), "num_ln_in_parallel_attn = 3"},
                               {falcon({{"num_ln_in_parallel_attn", 2}}), "num_ln_in_parallel_attn = 2"},
                               {falcon({{"multi_query", false}, {"num_kv_heads", 2}}), "num_kv_heads = 2"},
                               {new_decoder({{"num_kv_heads", 3}}), "num_kv_heads = 3 does not divide"},
                               {falcon({{"apply_residual_connection_post_layernorm", true}}),
                                "apply_residual_connection_post_layernorm = true"},
                               {falcon({{"n_embed", 64}}), "n_embed is not supported"},
                               {falcon({{"partial_rotary_factor", 0.5}}), "partial_rotary_factor = 0.5"},
                               {falcon({{"num_attention_heads", 3}}), "num_attention_heads = 3 does not divide"}});
    EXPECT_EQ(refusal("falcon", falcon({{"model_type", "RefinedWeb"}})), "not accepted");
}

TEST(PhiAndFalconAdapters, GraphsReadBackAsTheyWereWritten) {
    const std::pair<const char*, const char*> models[] = {
        {"phi2", "phi2-qk-norm"}, {"phi3", "phi3-longrope"}, {"falcon", "falcon-rw"}, {"falcon", "falcon-two-norms"}};
    for (const auto& [name, folder] : models) {
        std::ifstream in(std::string(KERF_TEST_DATA "/layouts/") + folder + "/config.json");
        const auto document = core::graph_json(graph_of(name, json::parse(in)));
        EXPECT_EQ(core::graph_json(core::parse_graph(document, name)), document) << folder;
    }
}

}  // namespace
}  // namespace kerf
