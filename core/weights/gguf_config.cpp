// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>

#include "core/support/error.hpp"
#include "core/weights/gguf_architecture.hpp"

namespace kerf::core::gguf {
namespace {

using Json = nlohmann::json;

template <class... Pieces>
[[noreturn]] void refuse(const GgufFile& file, const Pieces&... pieces) {
    bad_input(file.path().string(), ": ", pieces...);
}

/// The model's own tables have to bound what its metadata claims: adapters make one block after the other.
void check_blocks(const GgufFile& file) {
    const auto blocks = count_of(file, "block_count");
    if (blocks < 1 || blocks > file.tensors().size())
        refuse(file, key_of(file, "block_count"), " = ", blocks, " does not go with a file of ", file.tensors().size(),
               " tensors");
}

std::vector<float> values_of(const StoredTensor& tensor) {
    std::vector<float> out(static_cast<std::size_t>(tensor.elements()));
    to_float32(tensor, out);
    return out;
}

/// A table of rotary factors: float32, one dimension.
std::vector<float> table_of(const GgufFile& file, const char* name, std::int64_t rotary) {
    const StoredTensor* found = file.find(name);
    if (!found) return {};
    if (found->dtype != DType::f32 || found->shape != std::vector<std::int64_t>{rotary / 2})
        refuse(file, "tensor ", name, " of shape ", format_shape(found->shape), " is not float32 ",
               format_shape({rotary / 2}));
    return values_of(*found);
}

std::int64_t head_dim_of(const GgufFile& file) {
    const auto hidden = count_of(file, "embedding_length"), heads = count_of(file, "attention.head_count");
    if (heads < 1) refuse(file, key_of(file, "attention.head_count"), " = 0");
    return static_cast<std::int64_t>(count_of(file, "attention.key_length", hidden / heads));
}

/// What Llama 3 divides the frequency of each rotary pair by: wavelengths beyond original / low by `factor`, those
/// below original / high by nothing, and in between by a ramp.
double llama3_divisor(double wavelength, double factor, double original) {
    constexpr double low = 1, high = 4;
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return factor;
    const double smooth = (original / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
}

/// The file has the divisors that the rule makes, not what the rule was made with. All models that have them so far
/// share the two ramp ends and the original length; the factor is the largest divisor. Others are refused, since they
/// fit no configuration.
void describe_llama3_scaling(const GgufFile& file, double theta, Json& config) {
    const std::int64_t rotary = head_dim_of(file);
    const auto divisors = table_of(file, "rope_freqs.weight", rotary);
    if (divisors.empty()) return;
    constexpr double original = 8192, tolerance = 1e-4;  // the table was computed in float32
    const double factor = *std::max_element(divisors.begin(), divisors.end());
    for (std::size_t i = 0; i < divisors.size(); ++i) {
        const double wavelength = 2 * std::numbers::pi * std::pow(theta, 2 * double(i) / double(rotary));
        const double expected = llama3_divisor(wavelength, factor, original);
        if (!(std::abs(divisors[i] - expected) <= tolerance * expected))
            refuse(file, "rope_freqs.weight divides frequency ", i, " by ", divisors[i],
                   ", where Llama 3's rule with factor ", factor, " gives ", expected,
                   "; other scalings cannot be said in a config.json");
    }
    if (factor == 1) return;
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", factor},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", static_cast<std::int64_t>(original)}};
}

/// Shortest list of decimals that gives the same float32 numbers.
Json as_decimals(const std::vector<float>& values) {
    Json out = Json::array();
    for (const float value : values) out.push_back(shortest_decimal(value));
    return out;
}

void describe_long_rope(const GgufFile& file, Json& config) {
    const auto rotary = static_cast<std::int64_t>(
        count_of(file, "rope.dimension_count", static_cast<std::uint64_t>(head_dim_of(file))));
    const auto longer = table_of(file, "rope_factors_long.weight", rotary),
               shorter = table_of(file, "rope_factors_short.weight", rotary);
    if (longer.empty() != shorter.empty())
        refuse(file, "has one of the tables rope_factors_long and rope_factors_short; both are needed");
    if (longer.empty()) return;
    config["original_max_position_embeddings"] = count_of(file, "rope.scaling.original_context_length");
    config["rope_scaling"] = {
        {"type", "longrope"}, {"short_factor", as_decimals(shorter)}, {"long_factor", as_decimals(longer)}};
}

void describe_rope(const GgufFile& file, Json& config) {
    const double theta = file.real(key_of(file, "rope.freq_base"), 10000);
    config["rope_theta"] = theta;
    describe_llama3_scaling(file, theta, config);
    describe_long_rope(file, config);
    if (config.contains("rope_scaling")) return;
    const double factor =
        file.real(key_of(file, "rope.scaling.factor"), file.real(key_of(file, "rope.scale_linear"), 1));
    const std::string type(file.text(key_of(file, "rope.scaling.type"), factor != 1 ? "linear" : "none"));
    if (type == "none" || (type == "linear" && factor == 1)) return;
    if (type != "linear")
        refuse(file, key_of(file, "rope.scaling.type"), " = ", type,
               " is not supported; kerf reads none, linear, "
               "Llama 3's tables and longrope");
    config["rope_scaling"] = {{"type", "linear"}, {"factor", factor}};
}

/// The part of a head that turns, such that head_dim times it, rounded down, is the number of turning features.
double rotary_part(const GgufFile& file) {
    const auto head_dim = head_dim_of(file);
    const auto turning =
        static_cast<std::int64_t>(count_of(file, "rope.dimension_count", static_cast<std::uint64_t>(head_dim)));
    if (head_dim < 1 || turning > head_dim)
        refuse(file, key_of(file, "rope.dimension_count"), " = ", turning, " exceeds the head dimension ", head_dim);
    double part = double(turning) / double(head_dim);
    while (static_cast<std::int64_t>(double(head_dim) * part) < turning) part = std::nextafter(part, 2.0);
    return part;
}

double eps_of(const GgufFile& file, std::string_view key) {
    if (!file.has(key_of(file, key))) refuse(file, "lacks the metadata ", key_of(file, key));
    return file.real(key_of(file, key), 0);
}

void describe_rms(const GgufFile& file, Json& config) {
    config["rms_norm_eps"] = eps_of(file, "attention.layer_norm_rms_epsilon");
}

bool has_tensor(const GgufFile& file, const char* name) {
    return file.find(name) != nullptr;
}

/// The type that most elements are held as; quantised blocks count as float16, as GgufTensor describes them.
std::string_view main_dtype(const GgufFile& file) {
    std::map<DType, double> elements;
    for (const auto& tensor : file.tensors()) {
        const auto& described = file.described(tensor);
        double count = 1;
        for (const auto size : described.shape) count *= double(size);
        elements[described.type->plain.value_or(DType::f16)] += count;
    }
    const auto most = std::max_element(elements.begin(), elements.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most->first == DType::f16) return "float16";
    return most->first == DType::bf16 ? "bfloat16" : "float32";
}

}  // namespace

std::string key_of(const GgufFile& file, std::string_view key) {
    return std::string(file.text("general.architecture")) + "." + std::string(key);
}

std::uint64_t count_of(const GgufFile& file, std::string_view name) {
    const std::string key = key_of(file, name);
    constexpr double most = 1u << 31;  // of two such numbers the product still has a place in 63 bits
    const auto each =
        file.is_array(key) ? file.numbers(key) : std::vector<double>{static_cast<double>(file.count(key))};
    if (each.empty() || std::any_of(each.begin(), each.end(), [&](double n) { return n != each[0]; }))
        refuse(file, key, " differs from block to block, which kerf does not support");
    if (!(each[0] >= 0 && each[0] <= most) || each[0] != std::floor(each[0]))
        refuse(file, key, " = ", each[0], " is out of range");
    return static_cast<std::uint64_t>(each[0]);
}

std::uint64_t count_of(const GgufFile& file, std::string_view name, std::uint64_t otherwise) {
    return file.has(key_of(file, name)) ? count_of(file, name) : otherwise;
}

Json config_of(const GgufFile& file, const Architecture& architecture) {
    check_blocks(file);
    const StoredTensor* table = file.find("token_embd.weight");
    if (!table || file.described(*table).shape.size() != 2) refuse(file, "has no table token_embd.weight");
    Json config{{"architectures", {architecture.class_name}},
                {"model_type", architecture.model_type},
                {"hidden_size", count_of(file, "embedding_length")},
                {"num_hidden_layers", count_of(file, "block_count")},
                {"num_attention_heads", count_of(file, "attention.head_count")},
                {"max_position_embeddings", count_of(file, "context_length")},
                {"vocab_size", file.described(*table).shape[0]},
                {"tie_word_embeddings", !has_tensor(file, "output.weight")},
                {"torch_dtype", main_dtype(file)}};
    constexpr std::array<std::pair<const char*, const char*>, 3> ids{
        {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
         {"tokenizer.ggml.eos_token_id", "eos_token_id"},
         {"tokenizer.ggml.padding_token_id", "pad_token_id"}}};
    for (const auto& [key, name] : ids)
        if (file.has(key)) config[name] = file.count(key);
    architecture.describe(file, config);
    return config;
}

void describe_llama(const GgufFile& file, Json& config) {
    config["intermediate_size"] = count_of(file, "feed_forward_length");
    config["num_key_value_heads"] = count_of(file, "attention.head_count_kv", count_of(file, "attention.head_count"));
    config["head_dim"] = head_dim_of(file);
    config["hidden_act"] = "silu";
    config["attention_bias"] = has_tensor(file, "blk.0.attn_q.bias");
    config["mlp_bias"] = has_tensor(file, "blk.0.ffn_up.bias");
    if (rotary_part(file) != 1)
        refuse(file, key_of(file, "rope.dimension_count"), " is not the head dimension ", head_dim_of(file));
    describe_rms(file, config);
    describe_rope(file, config);
}

void describe_mixtral(const GgufFile& file, Json& config) {
    describe_llama(file, config);
    config.erase("attention_bias");
    config.erase("mlp_bias");
    config["sliding_window"] = nullptr;
    const StoredTensor* experts = file.find("blk.0.ffn_gate_exps.weight");
    const auto count = static_cast<std::int64_t>(count_of(file, "expert_count"));
    if (!experts || file.described(*experts).shape[0] != count)
        refuse(file, "has no tensor blk.0.ffn_gate_exps.weight of ", count, " experts (", key_of(file, "expert_count"),
               "); files with one tensor an expert are too old for kerf");
    config["num_local_experts"] = count;
    config["num_experts_per_tok"] = count_of(file, "expert_used_count");
}

void describe_qwen(const GgufFile& file, Json& config) {
    config["intermediate_size"] = count_of(file, "feed_forward_length");
    config["num_key_value_heads"] = count_of(file, "attention.head_count_kv", count_of(file, "attention.head_count"));
    if (config["model_type"] == "qwen3") {
        config["head_dim"] = head_dim_of(file);
        config["attention_bias"] = false;
    }
    config["hidden_act"] = "silu";
    config["use_sliding_window"] = false;
    describe_rms(file, config);
    describe_rope(file, config);
}

void describe_phi2(const GgufFile& file, Json& config) {
    config["intermediate_size"] = count_of(file, "feed_forward_length");
    config["num_key_value_heads"] = count_of(file, "attention.head_count_kv", count_of(file, "attention.head_count"));
    config["partial_rotary_factor"] = rotary_part(file);
    config["hidden_act"] = "gelu_new";
    config["qk_layernorm"] = false;
    config["layer_norm_eps"] = eps_of(file, "attention.layer_norm_epsilon");
    describe_rope(file, config);
}

void describe_phi3(const GgufFile& file, Json& config) {
    config["intermediate_size"] = count_of(file, "feed_forward_length");
    config["num_key_value_heads"] = count_of(file, "attention.head_count_kv", count_of(file, "attention.head_count"));
    if (const double part = rotary_part(file); part != 1) config["partial_rotary_factor"] = part;
    config["hidden_act"] = "silu";
    config["attention_bias"] = false;
    const auto window = count_of(file, "attention.sliding_window", 0);
    config["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
    config["original_max_position_embeddings"] =
        count_of(file, "rope.scaling.original_context_length", count_of(file, "context_length"));
    describe_rms(file, config);
    describe_rope(file, config);
}

void describe_falcon(const GgufFile& file, Json& config) {
    const auto heads = count_of(file, "attention.head_count"), kv = count_of(file, "attention.head_count_kv", heads);
    const bool two_norms = has_tensor(file, "blk.0.attn_norm_2.weight"), newer = two_norms || kv != 1;
    config["num_kv_heads"] = kv;
    config["multi_query"] = kv == 1;
    config["new_decoder_architecture"] = newer;
    if (newer) config["num_ln_in_parallel_attn"] = two_norms ? 2 : 1;
    config["parallel_attn"] = true;
    config["alibi"] = false;
    config["bias"] = has_tensor(file, "blk.0.attn_qkv.bias");
    config["ffn_hidden_size"] = count_of(file, "feed_forward_length");
    config["activation"] = "gelu";
    config["layer_norm_epsilon"] = eps_of(file, "attention.layer_norm_epsilon");
    describe_rope(file, config);
}

void describe_gpt2(const GgufFile& file, Json& config) {
    constexpr std::array<std::pair<const char*, const char*>, 4> names{{{"hidden_size", "n_embd"},
                                                                        {"num_hidden_layers", "n_layer"},
                                                                        {"num_attention_heads", "n_head"},
                                                                        {"max_position_embeddings", "n_positions"}}};
    for (const auto& [usual, own] : names) {
        config[own] = config[usual];
        config.erase(usual);
    }
    config["n_inner"] = count_of(file, "feed_forward_length");
    config["activation_function"] = "gelu_new";
    config["layer_norm_epsilon"] = eps_of(file, "attention.layer_norm_epsilon");
}

void describe_gpt_neox(const GgufFile& file, Json& config) {
    config["intermediate_size"] = count_of(file, "feed_forward_length");
    config["rotary_pct"] = rotary_part(file);
    config["use_parallel_residual"] = file.flag(key_of(file, "use_parallel_residual"), true);
    config["attention_bias"] = has_tensor(file, "blk.0.attn_qkv.bias");
    config["hidden_act"] = "gelu";
    config["layer_norm_eps"] = eps_of(file, "attention.layer_norm_epsilon");
    describe_rope(file, config);
    config["rotary_emb_base"] = config["rope_theta"];
    config.erase("rope_theta");
}

void describe_gemma2(const GgufFile& file, Json& config) {
    const auto head_dim = head_dim_of(file);
    config["intermediate_size"] = count_of(file, "feed_forward_length");
    config["num_key_value_heads"] = count_of(file, "attention.head_count_kv", count_of(file, "attention.head_count"));
    config["head_dim"] = head_dim;
    config["hidden_activation"] = config["hidden_act"] = "gelu_pytorch_tanh";
    config["attention_bias"] = false;
    config["sliding_window"] = count_of(file, "attention.sliding_window", 4096);
    config["attn_logit_softcapping"] = file.real(key_of(file, "attn_logit_softcapping"), 50);
    config["final_logit_softcapping"] = file.real(key_of(file, "final_logit_softcapping"), 30);
    // The format does not say it: of the published models the 27B one, with 46 blocks, scales its queries by the width
    // that a head would have without the key head_dim, all others by head_dim.
    constexpr std::uint64_t largest_blocks = 46;
    const bool largest = count_of(file, "block_count") == largest_blocks;
    config["query_pre_attn_scalar"] =
        largest ? std::int64_t(count_of(file, "embedding_length") / count_of(file, "attention.head_count")) : head_dim;
    describe_rms(file, config);
    describe_rope(file, config);
}

}  // namespace kerf::core::gguf
