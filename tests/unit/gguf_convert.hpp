// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/unit/gguf_fixture.hpp"

/// The other direction, for tests: Hugging Face tensors to a GGUF file, as the format's converter writes them.
namespace kerf::test {

struct NamedTensor {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
};
using NamedTensors = std::map<std::string, NamedTensor>;

class GgufConverter {
public:
    enum class Storage { f32, f16, bf16, q8_0 };

    /// `config`: config.json of transformers.
    GgufConverter(nlohmann::json config, Storage storage = Storage::f32)
        : config_(std::move(config)), storage_(storage), type_(config_["model_type"]) {
        static const std::map<std::string, std::string> architectures{
            {"phi", "phi2"}, {"gpt_neox", "gptneox"}, {"mixtral", "llama"}, {"mistral", "llama"}};
        const auto known = architectures.find(type_);
        architecture_ = known == architectures.end() ? type_ : known->second;
        add_metadata();
    }

    GgufBuilder& builder() { return builder_; }

    void add_tensors(const NamedTensors& tensors) {
        for (const auto& [name, tensor] : tensors) {
            if (type_ == "mixtral" && name.find(".experts.") != std::string::npos)
                add_expert(name, tensor);
            else
                add(stored_name(name), changed(name, tensor));
        }
        for (const auto& [name, stack] : experts_) add(name, stack);
    }

private:
    std::int64_t integer(std::initializer_list<const char*> keys, std::int64_t otherwise = -1) const {
        for (const char* key : keys)
            if (config_.contains(key) && config_[key].is_number()) return config_[key].get<std::int64_t>();
        return otherwise;
    }
    double real(std::initializer_list<const char*> keys, double otherwise) const {
        for (const char* key : keys)
            if (config_.contains(key) && config_[key].is_number()) return config_[key].get<double>();
        if (config_.contains("rope_parameters")) {
            const auto& rope = config_["rope_parameters"];
            for (const char* key : keys)
                if (rope.contains(key)) return rope[key].get<double>();
        }
        return otherwise;
    }
    std::string key(const char* name) const { return architecture_ + "." + name; }

    std::int64_t hidden() const { return integer({"hidden_size", "n_embd"}); }
    std::int64_t heads() const { return integer({"num_attention_heads", "n_head"}); }
    std::int64_t kv_heads() const {
        if (config_.value("multi_query", false) && !config_.value("new_decoder_architecture", false)) return 1;
        return integer({"num_key_value_heads", "num_kv_heads"}, heads());
    }
    std::int64_t head_dim() const { return integer({"head_dim"}, hidden() / heads()); }

    void add_metadata() {
        const auto put = [&](const char* name, std::int64_t value) {
            builder_.count(key(name), static_cast<std::uint32_t>(value));
        };
        builder_.text("general.architecture", architecture_);
        put("block_count", integer({"num_hidden_layers", "n_layer"}));
        put("context_length", integer({"max_position_embeddings", "n_positions"}, 2048));
        put("embedding_length", hidden());
        put("feed_forward_length", integer({"intermediate_size", "n_inner", "ffn_hidden_size"}, 4 * hidden()));
        put("attention.head_count", heads());
        put("attention.head_count_kv", kv_heads());
        if (config_.contains("head_dim")) put("attention.key_length", head_dim());
        const double part = real({"partial_rotary_factor", "rotary_pct"}, type_ == "gpt_neox" ? 0.25 : 1);
        if (type_ != "gpt2") put("rope.dimension_count", static_cast<std::int64_t>(double(head_dim()) * part));
        builder_.real(key("rope.freq_base"), static_cast<float>(real({"rope_theta", "rotary_emb_base"}, 10000)));
        if (config_.contains("rms_norm_eps"))
            builder_.real(key("attention.layer_norm_rms_epsilon"), config_["rms_norm_eps"].get<float>());
        else
            builder_.real(key("attention.layer_norm_epsilon"),
                          static_cast<float>(real({"layer_norm_eps", "layer_norm_epsilon"}, 1e-5)));
        if (integer({"sliding_window"}) > 0) put("attention.sliding_window", integer({"sliding_window"}));
        if (type_ == "mixtral") {
            put("expert_count", integer({"num_local_experts"}));
            put("expert_used_count", integer({"num_experts_per_tok"}));
        }
        if (type_ == "gemma2") {
            builder_.real(key("attn_logit_softcapping"), config_["attn_logit_softcapping"].get<float>());
            builder_.real(key("final_logit_softcapping"), config_["final_logit_softcapping"].get<float>());
        }
        if (type_ == "gpt_neox")
            builder_.flag(key("use_parallel_residual"), config_.value("use_parallel_residual", true));
        add_long_rope();
    }

    void add_long_rope() {
        if (type_ != "phi3") return;
        const auto original = integer({"original_max_position_embeddings"}, integer({"max_position_embeddings"}));
        builder_.count(key("rope.scaling.original_context_length"), static_cast<std::uint32_t>(original));
        for (const char* table : {"rope_scaling", "rope_parameters"}) {
            if (!config_.contains(table) || !config_[table].is_object() || !config_[table].contains("long_factor"))
                continue;
            for (const auto& [name, from] : {std::pair("rope_factors_long.weight", "long_factor"),
                                             std::pair("rope_factors_short.weight", "short_factor")}) {
                const auto values = config_[table][from].get<std::vector<float>>();
                builder_.floats(name, {static_cast<std::int64_t>(values.size())}, values);
            }
        }
    }

    /// "model.layers.3.self_attn.q_proj.weight" → "blk.3.attn_q.weight"
    std::string stored_name(const std::string& name) const {
        static const std::vector<std::pair<std::string, std::string>> outside{
            {"model.embed_tokens.", "token_embd."},
            {"transformer.word_embeddings.", "token_embd."},
            {"transformer.wte.", "token_embd."},
            {"transformer.wpe.", "position_embd."},
            {"gpt_neox.embed_in.", "token_embd."},
            {"model.norm.", "output_norm."},
            {"model.final_layernorm.", "output_norm."},
            {"transformer.ln_f.", "output_norm."},
            {"gpt_neox.final_layer_norm.", "output_norm."},
            {"lm_head.", "output."},
            {"embed_out.", "output."}};
        for (const auto& [theirs, ours] : outside)
            if (name.starts_with(theirs)) return ours + name.substr(theirs.size());
        for (const std::string prefix : {"model.layers.", "transformer.h.", "gpt_neox.layers."}) {
            if (!name.starts_with(prefix)) continue;
            const auto dot = name.find('.', prefix.size()), last = name.rfind('.');
            return "blk." + name.substr(prefix.size(), dot - prefix.size()) + "." +
                   stored_module(name.substr(dot + 1, last - dot - 1)) + name.substr(last);
        }
        throw std::runtime_error("no GGUF name for " + name);
    }

    std::string stored_module(const std::string& module) const {
        if (type_ == "gemma2") {
            if (module == "post_attention_layernorm") return "post_attention_norm";
            if (module == "pre_feedforward_layernorm") return "ffn_norm";
            if (module == "post_feedforward_layernorm") return "post_ffw_norm";
        }
        static const std::map<std::string, std::string> names{{"input_layernorm", "attn_norm"},
                                                              {"ln_mlp", "attn_norm"},
                                                              {"ln_attn", "attn_norm_2"},
                                                              {"ln_1", "attn_norm"},
                                                              {"ln_2", "ffn_norm"},
                                                              {"post_attention_layernorm", "ffn_norm"},
                                                              {"self_attn.q_proj", "attn_q"},
                                                              {"self_attn.k_proj", "attn_k"},
                                                              {"self_attn.v_proj", "attn_v"},
                                                              {"self_attn.q_norm", "attn_q_norm"},
                                                              {"self_attn.k_norm", "attn_k_norm"},
                                                              {"self_attn.qkv_proj", "attn_qkv"},
                                                              {"self_attention.query_key_value", "attn_qkv"},
                                                              {"attention.query_key_value", "attn_qkv"},
                                                              {"attn.c_attn", "attn_qkv"},
                                                              {"self_attn.o_proj", "attn_output"},
                                                              {"self_attn.dense", "attn_output"},
                                                              {"self_attention.dense", "attn_output"},
                                                              {"attention.dense", "attn_output"},
                                                              {"attn.c_proj", "attn_output"},
                                                              {"mlp.gate_proj", "ffn_gate"},
                                                              {"mlp.up_proj", "ffn_up"},
                                                              {"mlp.gate_up_proj", "ffn_up"},
                                                              {"mlp.fc1", "ffn_up"},
                                                              {"mlp.dense_h_to_4h", "ffn_up"},
                                                              {"mlp.c_fc", "ffn_up"},
                                                              {"mlp.down_proj", "ffn_down"},
                                                              {"mlp.fc2", "ffn_down"},
                                                              {"mlp.dense_4h_to_h", "ffn_down"},
                                                              {"mlp.c_proj", "ffn_down"},
                                                              {"block_sparse_moe.gate", "ffn_gate_inp"}};
        return names.at(module);
    }

    NamedTensor changed(const std::string& name, const NamedTensor& tensor) const {
        const auto is = [&](const char* part) { return name.find(part) != std::string::npos; };
        if (architecture_ == "llama" && is(".q_proj.")) return interleaved(tensor, heads());
        if (architecture_ == "llama" && is(".k_proj.")) return interleaved(tensor, kv_heads());
        if (is(".query_key_value.")) return ungrouped(tensor, type_ == "gpt_neox" ? heads() : kv_heads());
        if (type_ == "gpt2" && tensor.shape.size() == 2 && (is(".attn.") || is(".mlp."))) return turned(tensor);
        if (type_ == "gemma2" && is("norm.")) {
            NamedTensor out = tensor;
            for (float& value : out.values) value += 1;
            return out;
        }
        return tensor;
    }

    static std::size_t columns(const NamedTensor& tensor) {
        return tensor.values.size() / static_cast<std::size_t>(tensor.shape[0]);
    }
    /// Row `order[i]` becomes row i.
    static NamedTensor reordered(const NamedTensor& tensor, const std::vector<std::int64_t>& order) {
        NamedTensor out{tensor.shape, {}};
        const auto width = static_cast<std::ptrdiff_t>(columns(tensor));
        for (const auto row : order)
            out.values.insert(out.values.end(), tensor.values.begin() + row * width,
                              tensor.values.begin() + (row + 1) * width);
        return out;
    }
    /// [heads, 2, half] → [heads, half, 2]
    static NamedTensor interleaved(const NamedTensor& tensor, std::int64_t heads) {
        const std::int64_t half = tensor.shape[0] / heads / 2;
        std::vector<std::int64_t> order;
        for (std::int64_t head = 0; head < heads; ++head)
            for (std::int64_t i = 0; i < half; ++i)
                for (std::int64_t j = 0; j < 2; ++j) order.push_back(head * 2 * half + j * half + i);
        return reordered(tensor, order);
    }
    /// [groups, queries + 2, dim] → all queries, then the keys, then the values
    NamedTensor ungrouped(const NamedTensor& tensor, std::int64_t groups) const {
        const std::int64_t queries = heads() / groups, dim = tensor.shape[0] / groups / (queries + 2);
        std::vector<std::int64_t> order;
        const auto take = [&](std::int64_t group, std::int64_t slot) {
            for (std::int64_t i = 0; i < dim; ++i) order.push_back((group * (queries + 2) + slot) * dim + i);
        };
        for (std::int64_t g = 0; g < groups; ++g)
            for (std::int64_t q = 0; q < queries; ++q) take(g, q);
        for (std::int64_t slot = queries; slot < queries + 2; ++slot)
            for (std::int64_t g = 0; g < groups; ++g) take(g, slot);
        return reordered(tensor, order);
    }
    static NamedTensor turned(const NamedTensor& tensor) {
        const auto rows = static_cast<std::size_t>(tensor.shape[0]), width = static_cast<std::size_t>(tensor.shape[1]);
        NamedTensor out{{tensor.shape[1], tensor.shape[0]}, std::vector<float>(tensor.values.size())};
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t c = 0; c < width; ++c) out.values[c * rows + r] = tensor.values[r * width + c];
        return out;
    }

    /// "model.layers.0.block_sparse_moe.experts.3.w1.weight" goes into blk.0.ffn_gate_exps.weight.
    void add_expert(const std::string& name, const NamedTensor& tensor) {
        const auto number = name.find(".experts.") + 9, dot = name.find('.', number);
        const std::string block = name.substr(13, name.find('.', 13) - 13), part = name.substr(dot + 1, 2);
        const std::string stored = part == "w1" ? "ffn_gate_exps" : part == "w2" ? "ffn_down_exps" : "ffn_up_exps";
        const auto expert = std::stoul(name.substr(number, dot - number));
        NamedTensor& stack = experts_["blk." + block + "." + stored + ".weight"];
        stack.shape = {integer({"num_local_experts"}), tensor.shape[0], tensor.shape[1]};
        stack.values.resize(static_cast<std::size_t>(stack.shape[0]) * tensor.values.size());
        std::copy(tensor.values.begin(), tensor.values.end(),
                  stack.values.begin() + static_cast<std::ptrdiff_t>(expert * tensor.values.size()));
    }

    void add(const std::string& name, const NamedTensor& tensor) {
        if (tensor.shape.size() == 1 || storage_ == Storage::f32)
            builder_.floats(name, tensor.shape, tensor.values);
        else if (storage_ == Storage::q8_0)
            builder_.tensor(name, tensor.shape, GgufBuilder::type_q8_0, as_q8_0(tensor.values));
        else
            builder_.narrow(name, tensor.shape, storage_ == Storage::f16 ? core::DType::f16 : core::DType::bf16,
                            tensor.values);
    }
    static std::string as_q8_0(const std::vector<float>& values) {
        std::string out;
        for (std::size_t at = 0; at < values.size(); at += 32) {
            float largest = 0;
            for (std::size_t i = 0; i < 32; ++i) largest = std::max(largest, std::abs(values[at + i]));
            std::string scale(2, '\0');
            const float d = largest / 127;
            core::from_float32(std::span(&d, 1), core::DType::f16, std::as_writable_bytes(std::span(scale)));
            out += scale;
            for (std::size_t i = 0; i < 32; ++i) out += static_cast<char>(d > 0 ? std::lround(values[at + i] / d) : 0);
        }
        return out;
    }

    nlohmann::json config_;
    Storage storage_;
    std::string type_, architecture_;
    GgufBuilder builder_;
    NamedTensors experts_;
};

}  // namespace kerf::test
