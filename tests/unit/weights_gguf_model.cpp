// SPDX-License-Identifier: Apache-2.0
// GGUF files as the Hugging Face checkpoints that they were made of.
#include <gtest/gtest.h>

#include <numbers>

#include "core/weights/checkpoint.hpp"
#include "core/weights/gguf_model.hpp"
#include "tests/unit/gguf_convert.hpp"

namespace kerf::test {
namespace {

using core::Checkpoint;
using core::GgufModel;
using Json = nlohmann::json;
using Storage = GgufConverter::Storage;

using Shapes = std::vector<std::pair<std::string, std::vector<std::int64_t>>>;

struct Family {
    friend std::ostream& operator<<(std::ostream& out, const Family& f) { return out << f.name; }
    const char* name;
    Json config;
    std::string prefix;  ///< of the blocks
    Shapes outside, inside;
    Json says;  ///< what config.json has to have beside what all have
};

/// Every family with 2 blocks, hidden size 32, 4 heads of 8.
const std::vector<Family> families{
    {"Llama",
     {{"model_type", "llama"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"num_key_value_heads", 2},
      {"intermediate_size", 64},
      {"max_position_embeddings", 128},
      {"rms_norm_eps", 1e-5},
      {"rope_theta", 500000.0}},
     "model.layers.",
     {{"model.embed_tokens.weight", {64, 32}}, {"model.norm.weight", {32}}, {"lm_head.weight", {64, 32}}},
     {{"input_layernorm.weight", {32}},
      {"self_attn.q_proj.weight", {32, 32}},
      {"self_attn.q_proj.bias", {32}},
      {"self_attn.k_proj.weight", {16, 32}},
      {"self_attn.k_proj.bias", {16}},
      {"self_attn.v_proj.weight", {16, 32}},
      {"self_attn.v_proj.bias", {16}},
      {"self_attn.o_proj.weight", {32, 32}},
      {"self_attn.o_proj.bias", {32}},
      {"post_attention_layernorm.weight", {32}},
      {"mlp.gate_proj.weight", {64, 32}},
      {"mlp.up_proj.weight", {64, 32}},
      {"mlp.down_proj.weight", {32, 64}}},
     {{"architectures", {"LlamaForCausalLM"}},
      {"num_key_value_heads", 2},
      {"rms_norm_eps", 1e-5},
      {"rope_theta", 500000.0},
      {"attention_bias", true},
      {"mlp_bias", false},
      {"tie_word_embeddings", false},
      {"vocab_size", 64},
      {"head_dim", 8}}},
    {"Mixtral",
     {{"model_type", "mixtral"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"num_key_value_heads", 2},
      {"intermediate_size", 64},
      {"max_position_embeddings", 128},
      {"rms_norm_eps", 1e-5},
      {"rope_theta", 1e6},
      {"num_local_experts", 3},
      {"num_experts_per_tok", 2}},
     "model.layers.",
     {{"model.embed_tokens.weight", {64, 32}}, {"model.norm.weight", {32}}, {"lm_head.weight", {64, 32}}},
     {{"input_layernorm.weight", {32}},
      {"self_attn.q_proj.weight", {32, 32}},
      {"self_attn.k_proj.weight", {16, 32}},
      {"self_attn.v_proj.weight", {16, 32}},
      {"self_attn.o_proj.weight", {32, 32}},
      {"post_attention_layernorm.weight", {32}},
      {"block_sparse_moe.gate.weight", {3, 32}},
      {"block_sparse_moe.experts.0.w1.weight", {64, 32}},
      {"block_sparse_moe.experts.0.w2.weight", {32, 64}},
      {"block_sparse_moe.experts.0.w3.weight", {64, 32}},
      {"block_sparse_moe.experts.1.w1.weight", {64, 32}},
      {"block_sparse_moe.experts.1.w2.weight", {32, 64}},
      {"block_sparse_moe.experts.1.w3.weight", {64, 32}},
      {"block_sparse_moe.experts.2.w1.weight", {64, 32}},
      {"block_sparse_moe.experts.2.w2.weight", {32, 64}},
      {"block_sparse_moe.experts.2.w3.weight", {64, 32}}},
     {{"architectures", {"MixtralForCausalLM"}},
      {"num_local_experts", 3},
      {"num_experts_per_tok", 2},
      {"sliding_window", nullptr}}},
    {"Qwen2",
     {{"model_type", "qwen2"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"num_key_value_heads", 2},
      {"intermediate_size", 64},
      {"max_position_embeddings", 128},
      {"rms_norm_eps", 1e-6},
      {"rope_theta", 1e6}},
     "model.layers.",
     {{"model.embed_tokens.weight", {64, 32}}, {"model.norm.weight", {32}}},
     {{"input_layernorm.weight", {32}},
      {"self_attn.q_proj.weight", {32, 32}},
      {"self_attn.q_proj.bias", {32}},
      {"self_attn.k_proj.weight", {16, 32}},
      {"self_attn.k_proj.bias", {16}},
      {"self_attn.v_proj.weight", {16, 32}},
      {"self_attn.v_proj.bias", {16}},
      {"self_attn.o_proj.weight", {32, 32}},
      {"post_attention_layernorm.weight", {32}},
      {"mlp.gate_proj.weight", {64, 32}},
      {"mlp.up_proj.weight", {64, 32}},
      {"mlp.down_proj.weight", {32, 64}}},
     {{"tie_word_embeddings", true}, {"rms_norm_eps", 1e-6}, {"use_sliding_window", false}}},
    {"Qwen3",
     {{"model_type", "qwen3"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"num_key_value_heads", 2},
      {"head_dim", 16},
      {"intermediate_size", 64},
      {"max_position_embeddings", 128},
      {"rms_norm_eps", 1e-6},
      {"rope_theta", 1e6}},
     "model.layers.",
     {{"model.embed_tokens.weight", {64, 32}}, {"model.norm.weight", {32}}},
     {{"input_layernorm.weight", {32}},
      {"self_attn.q_proj.weight", {64, 32}},
      {"self_attn.k_proj.weight", {32, 32}},
      {"self_attn.v_proj.weight", {32, 32}},
      {"self_attn.q_norm.weight", {16}},
      {"self_attn.k_norm.weight", {16}},
      {"self_attn.o_proj.weight", {32, 64}},
      {"post_attention_layernorm.weight", {32}},
      {"mlp.gate_proj.weight", {64, 32}},
      {"mlp.up_proj.weight", {64, 32}},
      {"mlp.down_proj.weight", {32, 64}}},
     {{"head_dim", 16}, {"attention_bias", false}}},
    {"Phi2",
     {{"model_type", "phi"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"intermediate_size", 128},
      {"max_position_embeddings", 128},
      {"layer_norm_eps", 1e-5},
      {"partial_rotary_factor", 0.5}},
     "model.layers.",
     {{"model.embed_tokens.weight", {64, 32}},
      {"model.final_layernorm.weight", {32}},
      {"model.final_layernorm.bias", {32}},
      {"lm_head.weight", {64, 32}},
      {"lm_head.bias", {64}}},
     {{"input_layernorm.weight", {32}},
      {"input_layernorm.bias", {32}},
      {"self_attn.q_proj.weight", {32, 32}},
      {"self_attn.q_proj.bias", {32}},
      {"self_attn.k_proj.weight", {32, 32}},
      {"self_attn.k_proj.bias", {32}},
      {"self_attn.v_proj.weight", {32, 32}},
      {"self_attn.v_proj.bias", {32}},
      {"self_attn.dense.weight", {32, 32}},
      {"self_attn.dense.bias", {32}},
      {"mlp.fc1.weight", {128, 32}},
      {"mlp.fc1.bias", {128}},
      {"mlp.fc2.weight", {32, 128}},
      {"mlp.fc2.bias", {32}}},
     {{"architectures", {"PhiForCausalLM"}},
      {"partial_rotary_factor", 0.5},
      {"hidden_act", "gelu_new"},
      {"layer_norm_eps", 1e-5}}},
    {"Phi3",
     {{"model_type", "phi3"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"num_key_value_heads", 4},
      {"intermediate_size", 64},
      {"max_position_embeddings", 256},
      {"original_max_position_embeddings", 64},
      {"sliding_window", 100},
      {"rms_norm_eps", 1e-5},
      {"rope_scaling",
       {{"type", "longrope"}, {"short_factor", {1.0, 1.1, 1.2, 1.3}}, {"long_factor", {1.0, 2.5, 3.5, 7.25}}}}},
     "model.layers.",
     {{"model.embed_tokens.weight", {64, 32}}, {"model.norm.weight", {32}}, {"lm_head.weight", {64, 32}}},
     {{"input_layernorm.weight", {32}},
      {"self_attn.qkv_proj.weight", {96, 32}},
      {"self_attn.o_proj.weight", {32, 32}},
      {"post_attention_layernorm.weight", {32}},
      {"mlp.gate_up_proj.weight", {128, 32}},
      {"mlp.down_proj.weight", {32, 64}}},
     {{"sliding_window", 100},
      {"original_max_position_embeddings", 64},
      {"rope_scaling",
       {{"type", "longrope"}, {"short_factor", {1.0, 1.1, 1.2, 1.3}}, {"long_factor", {1.0, 2.5, 3.5, 7.25}}}}}},
    {"FalconOfOneKeyHead",
     {{"model_type", "falcon"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"multi_query", true},
      {"layer_norm_epsilon", 1e-5}},
     "transformer.h.",
     {{"transformer.word_embeddings.weight", {64, 32}},
      {"transformer.ln_f.weight", {32}},
      {"transformer.ln_f.bias", {32}}},
     {{"input_layernorm.weight", {32}},
      {"input_layernorm.bias", {32}},
      {"self_attention.query_key_value.weight", {48, 32}},
      {"self_attention.dense.weight", {32, 32}},
      {"mlp.dense_h_to_4h.weight", {128, 32}},
      {"mlp.dense_4h_to_h.weight", {32, 128}}},
     {{"multi_query", true},
      {"new_decoder_architecture", false},
      {"bias", false},
      {"alibi", false},
      {"parallel_attn", true},
      {"tie_word_embeddings", true}}},
    {"FalconOfTheNewerKind",
     {{"model_type", "falcon"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"num_kv_heads", 2},
      {"new_decoder_architecture", true},
      {"layer_norm_epsilon", 1e-5}},
     "transformer.h.",
     {{"transformer.word_embeddings.weight", {64, 32}},
      {"transformer.ln_f.weight", {32}},
      {"transformer.ln_f.bias", {32}},
      {"lm_head.weight", {64, 32}}},
     {{"ln_attn.weight", {32}},
      {"ln_attn.bias", {32}},
      {"ln_mlp.weight", {32}},
      {"ln_mlp.bias", {32}},
      {"self_attention.query_key_value.weight", {64, 32}},
      {"self_attention.dense.weight", {32, 32}},
      {"mlp.dense_h_to_4h.weight", {128, 32}},
      {"mlp.dense_4h_to_h.weight", {32, 128}}},
     {{"new_decoder_architecture", true}, {"num_kv_heads", 2}, {"num_ln_in_parallel_attn", 2}}},
    {"Gpt2",
     {{"model_type", "gpt2"},
      {"n_embd", 32},
      {"n_layer", 2},
      {"n_head", 4},
      {"n_positions", 128},
      {"layer_norm_epsilon", 1e-5}},
     "transformer.h.",
     {{"transformer.wte.weight", {64, 32}},
      {"transformer.wpe.weight", {128, 32}},
      {"transformer.ln_f.weight", {32}},
      {"transformer.ln_f.bias", {32}}},
     {{"ln_1.weight", {32}},
      {"ln_1.bias", {32}},
      {"attn.c_attn.weight", {32, 96}},
      {"attn.c_attn.bias", {96}},
      {"attn.c_proj.weight", {32, 32}},
      {"attn.c_proj.bias", {32}},
      {"ln_2.weight", {32}},
      {"ln_2.bias", {32}},
      {"mlp.c_fc.weight", {32, 128}},
      {"mlp.c_fc.bias", {128}},
      {"mlp.c_proj.weight", {128, 32}},
      {"mlp.c_proj.bias", {32}}},
     {{"n_embd", 32}, {"n_layer", 2}, {"n_head", 4}, {"n_positions", 128}, {"n_inner", 128}}},
    {"GptNeoX",
     {{"model_type", "gpt_neox"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"intermediate_size", 128},
      {"max_position_embeddings", 128},
      {"layer_norm_eps", 1e-5},
      {"rotary_pct", 0.25},
      {"use_parallel_residual", false}},
     "gpt_neox.layers.",
     {{"gpt_neox.embed_in.weight", {64, 32}},
      {"gpt_neox.final_layer_norm.weight", {32}},
      {"gpt_neox.final_layer_norm.bias", {32}},
      {"embed_out.weight", {64, 32}}},
     {{"input_layernorm.weight", {32}},
      {"input_layernorm.bias", {32}},
      {"post_attention_layernorm.weight", {32}},
      {"post_attention_layernorm.bias", {32}},
      {"attention.query_key_value.weight", {96, 32}},
      {"attention.query_key_value.bias", {96}},
      {"attention.dense.weight", {32, 32}},
      {"attention.dense.bias", {32}},
      {"mlp.dense_h_to_4h.weight", {128, 32}},
      {"mlp.dense_h_to_4h.bias", {128}},
      {"mlp.dense_4h_to_h.weight", {32, 128}},
      {"mlp.dense_4h_to_h.bias", {32}}},
     {{"rotary_pct", 0.25},
      {"use_parallel_residual", false},
      {"attention_bias", true},
      {"tie_word_embeddings", false}}},
    {"Gemma2",
     {{"model_type", "gemma2"},
      {"hidden_size", 32},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"num_key_value_heads", 2},
      {"head_dim", 16},
      {"intermediate_size", 64},
      {"max_position_embeddings", 128},
      {"sliding_window", 64},
      {"rms_norm_eps", 1e-6},
      {"attn_logit_softcapping", 50.0},
      {"final_logit_softcapping", 30.0}},
     "model.layers.",
     {{"model.embed_tokens.weight", {64, 32}}, {"model.norm.weight", {32}}},
     {{"input_layernorm.weight", {32}},
      {"self_attn.q_proj.weight", {64, 32}},
      {"self_attn.k_proj.weight", {32, 32}},
      {"self_attn.v_proj.weight", {32, 32}},
      {"self_attn.o_proj.weight", {32, 64}},
      {"post_attention_layernorm.weight", {32}},
      {"pre_feedforward_layernorm.weight", {32}},
      {"post_feedforward_layernorm.weight", {32}},
      {"mlp.gate_proj.weight", {64, 32}},
      {"mlp.up_proj.weight", {64, 32}},
      {"mlp.down_proj.weight", {32, 64}}},
     {{"head_dim", 16},
      {"query_pre_attn_scalar", 16},
      {"sliding_window", 64},
      {"attn_logit_softcapping", 50.0},
      {"final_logit_softcapping", 30.0},
      {"tie_word_embeddings", true}}}};

/// Values that differ, and that float16, bfloat16 and the sum with 1 hold exactly.
NamedTensors tensors_of(const Family& family) {
    NamedTensors out;
    int next = 0;
    const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
        std::int64_t elements = 1;
        for (const auto size : shape) elements *= size;
        std::vector<float> values(static_cast<std::size_t>(elements));
        for (float& value : values) value = static_cast<float>((next = (next * 5 + 77) % 251) - 125) / 64;
        out[name] = {shape, values};
    };
    for (const auto& [name, shape] : family.outside) add(name, shape);
    for (const std::string block : {"0.", "1."})
        for (const auto& [name, shape] : family.inside) add(family.prefix + block + name, shape);
    return out;
}

class GgufFamily : public testing::TestWithParam<Family> {};

TEST_P(GgufFamily, HasTheNamesShapesAndValuesOfTheCheckpointThatItWasMadeOf) {
    const NamedTensors expected = tensors_of(GetParam());
    for (const auto storage : {Storage::f32, Storage::f16, Storage::bf16}) {
        GgufConverter converter(GetParam().config, storage);
        converter.add_tensors(expected);
        const MemoryFile stored(converter.builder().build());
        const Checkpoint checkpoint = Checkpoint::open(stored.path());
        std::vector<std::string> names;
        for (const auto& [name, tensor] : expected) {
            names.push_back(name);
            ASSERT_NE(checkpoint.find(name), nullptr) << name;
            EXPECT_EQ(checkpoint.at(name).shape, tensor.shape) << name;
            EXPECT_EQ(checkpoint.read(name), tensor.values) << name;
        }
        EXPECT_EQ(checkpoint.names(), names);
    }
}

TEST_P(GgufFamily, ReadsAnyRowsByThemselves) {
    const NamedTensors expected = tensors_of(GetParam());
    GgufConverter converter(GetParam().config, Storage::q8_0);
    converter.add_tensors(expected);
    const MemoryFile stored(converter.builder().build());
    const Checkpoint checkpoint = Checkpoint::open(stored.path());
    for (const auto& [name, tensor] : expected) {
        const auto whole = checkpoint.read(name);
        for (std::size_t i = 0; i < whole.size(); ++i)
            ASSERT_NEAR(whole[i], tensor.values[i], 2.0 / 127)
                << name << ": half a step of 8 bits, and float16's share";
        const std::int64_t width = checkpoint.at(name).elements() / tensor.shape[0];
        for (std::int64_t row = 0; row < tensor.shape[0]; row += 3) {
            std::vector<float> two(static_cast<std::size_t>(std::min<std::int64_t>(2, tensor.shape[0] - row) * width));
            checkpoint.read_rows(name, row, two);
            EXPECT_TRUE(std::equal(two.begin(), two.end(), whole.begin() + row * width)) << name << " row " << row;
        }
        std::vector<float> pieces;
        checkpoint.read_pieces(name, [&](auto piece) { pieces.insert(pieces.end(), piece.begin(), piece.end()); });
        EXPECT_EQ(pieces, whole) << name;
    }
}

TEST_P(GgufFamily, SaysInItsConfigWhatTheOriginalSaid) {
    GgufConverter converter(GetParam().config);
    converter.add_tensors(tensors_of(GetParam()));
    const MemoryFile stored(converter.builder().build());
    const Json config = GgufModel::open(stored.path()).config();
    EXPECT_EQ(config["model_type"], GetParam().config["model_type"]);
    EXPECT_EQ(config["torch_dtype"], "float32");
    for (const auto& [key, value] : GetParam().says.items()) EXPECT_EQ(config.value(key, Json("absent")), value) << key;
}

INSTANTIATE_TEST_SUITE_P(Families, GgufFamily, testing::ValuesIn(families),
                         [](const auto& info) { return std::string(info.param.name); });

/// A small Llama file with one thing changed.
std::string llama(const std::function<void(GgufConverter&, NamedTensors&)>& change) {
    NamedTensors tensors = tensors_of(families[0]);
    GgufConverter converter(families[0].config);
    change(converter, tensors);
    converter.add_tensors(tensors);
    return converter.builder().build();
}

/// What Llama 3 divides its frequencies by, from the formula of its authors' reference code.
std::vector<float> llama3_divisors(std::size_t pairs, double theta, double factor, double original) {
    std::vector<float> out;
    for (std::size_t i = 0; i < pairs; ++i) {
        const double turns = original / (2 * std::numbers::pi * std::pow(theta, double(i) / double(pairs)));
        const double smooth = std::clamp((turns - 1) / 3, 0.0, 1.0);
        out.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
    return out;
}

TEST(GgufConfig, RecoversLlama3ScalingFromItsTable) {
    const auto file = [](const std::vector<float>& divisors) {
        return llama([&](GgufConverter& c, NamedTensors&) {
            c.builder().floats("rope_freqs.weight", {std::int64_t(divisors.size())}, divisors);
        });
    };
    auto divisors = llama3_divisors(4, 500000, 32, 8192);
    const MemoryFile stored(file(divisors));
    const Json scaling = GgufModel::open(stored.path()).config()["rope_scaling"];
    EXPECT_EQ(scaling["rope_type"], "llama3");
    EXPECT_EQ(scaling["factor"], 32.0);
    EXPECT_EQ(scaling["original_max_position_embeddings"], 8192);
    divisors[0] = 3;
    const MemoryFile other(file(divisors));
    EXPECT_NE(message_of([&] { GgufModel::open(other.path()); }).find("rope_freqs.weight divides frequency 0 by 3"),
              std::string::npos);
}

TEST(GgufConfig, TakesLinearScalingAndSpecialTokens) {
    const MemoryFile stored(llama([](GgufConverter& c, NamedTensors&) {
        c.builder().text("llama.rope.scaling.type", "linear").real("llama.rope.scaling.factor", 4);
        c.builder().count("tokenizer.ggml.bos_token_id", 5).count("tokenizer.ggml.eos_token_id", 6);
    }));
    const Json config = GgufModel::open(stored.path()).config();
    EXPECT_EQ(config["rope_scaling"], (Json{{"type", "linear"}, {"factor", 4.0}}));
    EXPECT_EQ(config["bos_token_id"], 5);
    EXPECT_EQ(config["eos_token_id"], 6);
}

TEST(GgufConfig, SplitsTheFusedWeightOfOlderPhi2Files) {
    Family phi = families[4];
    ASSERT_EQ(phi.config["model_type"], "phi");
    NamedTensors tensors = tensors_of(phi);
    GgufConverter converter(phi.config);
    const NamedTensors all = tensors;
    for (const std::string block : {"0", "1"})
        for (const auto& [suffix, shape] : {std::pair<std::string, std::vector<std::int64_t>>{".weight", {96, 32}},
                                            std::pair<std::string, std::vector<std::int64_t>>{".bias", {96}}}) {
            std::vector<float> fused;
            for (const std::string part : {"q", "k", "v"}) {
                auto taken = tensors.extract("model.layers." + block + ".self_attn." + part + "_proj" + suffix);
                fused.insert(fused.end(), taken.mapped().values.begin(), taken.mapped().values.end());
            }
            converter.builder().floats("blk." + block + ".attn_qkv" + suffix, shape, fused);
        }
    converter.add_tensors(tensors);
    const MemoryFile stored(converter.builder().build());
    const Checkpoint checkpoint = Checkpoint::open(stored.path());
    for (const auto& [name, tensor] : all) EXPECT_EQ(checkpoint.read(name), tensor.values) << name;
}

struct Unfit {
    friend std::ostream& operator<<(std::ostream& out, const Unfit& u) { return out << u.name; }
    const char* name;
    std::function<void(GgufConverter&, NamedTensors&)> change;
    const char* says;
};

class UnfitGguf : public testing::TestWithParam<Unfit> {};

TEST_P(UnfitGguf, IsRefusedByName) {
    const MemoryFile stored(llama(GetParam().change));
    const std::string message = message_of([&] { Checkpoint::open(stored.path()); });
    EXPECT_NE(message.find(GetParam().says), std::string::npos) << message;
}

const std::vector<Unfit> unfit{
    {"TensorOfAnotherArchitecture", [](auto& c, auto&) { c.builder().floats("blk.0.ssm_a", {1}, {0}); },
     "tensor blk.0.ssm_a is not one that kerf knows in llama models"},
    {"TensorOfABlockThatIsNotThere",
     [](auto& c, auto&) { c.builder().floats("blk.7.attn_norm.weight", {32}, std::vector<float>(32)); },
     "in none of the 2 blocks"},
    {"BlockNumberThatIsNone",
     [](auto& c, auto&) { c.builder().floats("blk.00.attn_norm.weight", {32}, std::vector<float>(32)); },
     "in none of the 2 blocks"},
    {"HeadsThatDoNotDivideTheRows",
     [](auto& c, auto& t) {
         t.erase("model.layers.0.self_attn.q_proj.weight");
         c.builder().floats("blk.0.attn_q.weight", {30, 32}, std::vector<float>(30 * 32));
     },
     "does not split into the 4 heads"},
    {"NoTable", [](auto&, auto& t) { t.erase("model.embed_tokens.weight"); }, "no table token_embd.weight"},
    {"OtherRopeScaling", [](auto& c, auto&) { c.builder().text("llama.rope.scaling.type", "yarn"); },
     "llama.rope.scaling.type = yarn is not supported"},
    {"ExpertsThatAreNotThere", [](auto& c, auto&) { c.builder().count("llama.expert_count", 1u << 30); },
     "no tensor blk.0.ffn_gate_exps.weight of 1073741824 experts"},
    {"HalfATableOfLongRope",
     [](auto& c, auto&) {
         c.builder().floats("rope_factors_long.weight", {4}, {1, 1, 1, 1});
     },
     "both are needed"}};

INSTANTIATE_TEST_SUITE_P(Files, UnfitGguf, testing::ValuesIn(unfit),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(GgufConfig, RefusesArchitecturesAndBlockCountsThatItCannotBuild) {
    const auto message = [](const GgufBuilder& builder) {
        const MemoryFile stored(builder.build());
        return message_of([&] { GgufModel::open(stored.path()); });
    };
    GgufBuilder mamba;
    mamba.text("general.architecture", "mamba").floats("token_embd.weight", {1, 1}, {0});
    EXPECT_NE(message(mamba).find("architecture \"mamba\"; it reads llama, qwen2"), std::string::npos)
        << message(mamba);
    GgufBuilder silent;
    EXPECT_NE(message(silent).find("lacks the metadata general.architecture"), std::string::npos);
    GgufBuilder deep;
    deep.text("general.architecture", "llama").count("llama.block_count", 2000000000u);
    deep.floats("token_embd.weight", {1, 1}, {0});
    EXPECT_NE(message(deep).find("llama.block_count = 2000000000 does not go with a file of 1 tensors"),
              std::string::npos);
}

TEST(GgufConfig, TakesOneNumberForAllBlocksAndRefusesDifferentOnes) {
    const auto file = [](const std::vector<std::int32_t>& windows) {
        Family phi = families[5];
        phi.config.erase("sliding_window");
        GgufConverter converter(phi.config);
        converter.builder().integers("phi3.attention.sliding_window", windows);
        converter.add_tensors(tensors_of(phi));
        return converter.builder().build();
    };
    const MemoryFile same(file({100, 100})), other(file({100, 0})), negative(file({-1, -1}));
    EXPECT_EQ(GgufModel::open(same.path()).config()["sliding_window"], 100);
    EXPECT_NE(message_of([&] { GgufModel::open(other.path()); }).find("differs from block to block"),
              std::string::npos);
    EXPECT_NE(message_of([&] { GgufModel::open(negative.path()); }).find("sliding_window = -1 is out of range"),
              std::string::npos);
}

TEST(GgufConfig, IsOfTheTypeThatMostWeightsHave) {
    for (const auto& [storage, name] : {std::pair(Storage::f16, "float16"), std::pair(Storage::bf16, "bfloat16"),
                                        std::pair(Storage::q8_0, "float16")}) {
        GgufConverter converter(families[2].config, storage);
        converter.add_tensors(tensors_of(families[2]));
        const MemoryFile stored(converter.builder().build());
        EXPECT_EQ(GgufModel::open(stored.path()).config()["torch_dtype"], name);
    }
}

}  // namespace
}  // namespace kerf::test
