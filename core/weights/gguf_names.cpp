// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "core/support/error.hpp"
#include "core/weights/gguf_architecture.hpp"

namespace kerf::core::gguf {
namespace {

using Json = nlohmann::json;

constexpr Module llama_outside[]{
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
constexpr Module llama_inside[]{{"attn_norm", "input_layernorm"},
                                {"attn_q", "self_attn.q_proj", Change::rotary_q},
                                {"attn_k", "self_attn.k_proj", Change::rotary_k},
                                {"attn_v", "self_attn.v_proj"},
                                {"attn_output", "self_attn.o_proj"},
                                {"ffn_norm", "post_attention_layernorm"},
                                {"ffn_gate", "mlp.gate_proj"},
                                {"ffn_up", "mlp.up_proj"},
                                {"ffn_down", "mlp.down_proj"}};
constexpr Module mixtral_inside[]{{"attn_norm", "input_layernorm"},
                                  {"attn_q", "self_attn.q_proj", Change::rotary_q},
                                  {"attn_k", "self_attn.k_proj", Change::rotary_k},
                                  {"attn_v", "self_attn.v_proj"},
                                  {"attn_output", "self_attn.o_proj"},
                                  {"ffn_norm", "post_attention_layernorm"},
                                  {"ffn_gate_inp", "block_sparse_moe.gate"},
                                  {"ffn_gate_exps", "block_sparse_moe.experts.{}.w1", Change::experts},
                                  {"ffn_down_exps", "block_sparse_moe.experts.{}.w2", Change::experts},
                                  {"ffn_up_exps", "block_sparse_moe.experts.{}.w3", Change::experts}};
constexpr Module qwen_inside[]{{"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
                               {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
                               {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
                               {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
                               {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
                               {"ffn_down", "mlp.down_proj"}};
constexpr Module phi2_outside[]{
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.final_layernorm"}, {"output", "lm_head"}};
constexpr Module phi2_inside[]{{"attn_norm", "input_layernorm"},
                               {"attn_qkv", "self_attn.q_proj self_attn.k_proj self_attn.v_proj", Change::three_parts},
                               {"attn_q", "self_attn.q_proj"},
                               {"attn_k", "self_attn.k_proj"},
                               {"attn_v", "self_attn.v_proj"},
                               {"attn_output", "self_attn.dense"},
                               {"ffn_up", "mlp.fc1"},
                               {"ffn_down", "mlp.fc2"}};
constexpr Module phi3_inside[]{{"attn_norm", "input_layernorm"},    {"attn_qkv", "self_attn.qkv_proj"},
                               {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
                               {"ffn_up", "mlp.gate_up_proj"},      {"ffn_down", "mlp.down_proj"}};
constexpr Module falcon_outside[]{
    {"token_embd", "transformer.word_embeddings"}, {"output_norm", "transformer.ln_f"}, {"output", "lm_head"}};
constexpr Module falcon_inside[]{{"attn_norm", "input_layernorm"},
                                 {"attn_qkv", "self_attention.query_key_value", Change::grouped},
                                 {"attn_output", "self_attention.dense"},
                                 {"ffn_up", "mlp.dense_h_to_4h"},
                                 {"ffn_down", "mlp.dense_4h_to_h"}};
constexpr Module falcon_two_norms_inside[]{{"attn_norm", "ln_mlp"},
                                           {"attn_norm_2", "ln_attn"},
                                           {"attn_qkv", "self_attention.query_key_value", Change::grouped},
                                           {"attn_output", "self_attention.dense"},
                                           {"ffn_up", "mlp.dense_h_to_4h"},
                                           {"ffn_down", "mlp.dense_4h_to_h"}};
constexpr Module gpt2_outside[]{{"token_embd", "transformer.wte"},
                                {"position_embd", "transformer.wpe"},
                                {"output_norm", "transformer.ln_f"},
                                {"output", "lm_head"}};
constexpr Module gpt2_inside[]{{"attn_norm", "ln_1"},
                               {"attn_qkv", "attn.c_attn", Change::transposed},
                               {"attn_output", "attn.c_proj", Change::transposed},
                               {"ffn_norm", "ln_2"},
                               {"ffn_up", "mlp.c_fc", Change::transposed},
                               {"ffn_down", "mlp.c_proj", Change::transposed}};
constexpr Module gpt_neox_outside[]{
    {"token_embd", "gpt_neox.embed_in"}, {"output_norm", "gpt_neox.final_layer_norm"}, {"output", "embed_out"}};
constexpr Module gpt_neox_inside[]{
    {"attn_norm", "input_layernorm"},   {"attn_qkv", "attention.query_key_value", Change::grouped},
    {"attn_output", "attention.dense"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_up", "mlp.dense_h_to_4h"},    {"ffn_down", "mlp.dense_4h_to_h"}};
constexpr Module gemma2_outside[]{
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm", Change::plus_one}, {"output", "lm_head"}};
constexpr Module gemma2_inside[]{{"attn_norm", "input_layernorm", Change::plus_one},
                                 {"attn_q", "self_attn.q_proj"},
                                 {"attn_k", "self_attn.k_proj"},
                                 {"attn_v", "self_attn.v_proj"},
                                 {"attn_output", "self_attn.o_proj"},
                                 {"post_attention_norm", "post_attention_layernorm", Change::plus_one},
                                 {"ffn_norm", "pre_feedforward_layernorm", Change::plus_one},
                                 {"ffn_gate", "mlp.gate_proj"},
                                 {"ffn_up", "mlp.up_proj"},
                                 {"ffn_down", "mlp.down_proj"},
                                 {"post_ffw_norm", "post_feedforward_layernorm", Change::plus_one}};

bool has_experts(const GgufFile& file) {
    return file.count(key_of(file, "expert_count"), 0) > 0;
}
bool has_two_norms(const GgufFile& file) {
    return file.find("blk.0.attn_norm_2.weight") != nullptr;
}

// The first whose name and is_it() fit.
constexpr std::string_view layers = "model.layers.{}.", falcon_blocks = "transformer.h.{}.";
const Architecture architectures[]{
    {"llama", "mixtral", "MixtralForCausalLM", layers, llama_outside, mixtral_inside, describe_mixtral, has_experts},
    {"llama", "llama", "LlamaForCausalLM", layers, llama_outside, llama_inside, describe_llama, nullptr},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", layers, llama_outside, qwen_inside, describe_qwen, nullptr},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", layers, llama_outside, qwen_inside, describe_qwen, nullptr},
    {"phi2", "phi", "PhiForCausalLM", layers, phi2_outside, phi2_inside, describe_phi2, nullptr},
    {"phi3", "phi3", "Phi3ForCausalLM", layers, llama_outside, phi3_inside, describe_phi3, nullptr},
    {"falcon", "falcon", "FalconForCausalLM", falcon_blocks, falcon_outside, falcon_two_norms_inside, describe_falcon,
     has_two_norms},
    {"falcon", "falcon", "FalconForCausalLM", falcon_blocks, falcon_outside, falcon_inside, describe_falcon, nullptr},
    {"gpt2", "gpt2", "GPT2LMHeadModel", falcon_blocks, gpt2_outside, gpt2_inside, describe_gpt2, nullptr},
    {"gptneox", "gpt_neox", "GPTNeoXForCausalLM", "gpt_neox.layers.{}.", gpt_neox_outside, gpt_neox_inside,
     describe_gpt_neox, nullptr},
    {"gemma2", "gemma2", "Gemma2ForCausalLM", layers, gemma2_outside, gemma2_inside, describe_gemma2, nullptr}};

std::string filled(std::string_view pattern, std::int64_t number) {
    std::string out(pattern);
    if (const auto at = out.find("{}"); at != std::string::npos) out.replace(at, 2, std::to_string(number));
    return out;
}

/// Views of one file's tensors.
class Namer {
public:
    Namer(const GgufFile& file, const Architecture& architecture, const Json& config)
        : file_(file),
          architecture_(architecture),
          blocks_(static_cast<std::int64_t>(count_of(file, "block_count"))),
          heads_(static_cast<std::int64_t>(count_of(file, "attention.head_count"))),
          kv_heads_(static_cast<std::int64_t>(count_of(file, "attention.head_count_kv", std::uint64_t(heads_)))),
          experts_(config.value("num_local_experts", std::int64_t{0})) {}

    void add(const StoredTensor& stored, std::vector<GgufView>& out) const {
        const std::string_view name = stored.name;
        const auto dot = name.rfind('.');
        const std::string_view suffix = name.substr(std::min(dot, name.size()));
        std::string_view module = name.substr(0, std::min(dot, name.size()));
        if (suffix != ".weight" && suffix != ".bias") unknown(stored);
        std::span<const Module> known = architecture_.outside;
        std::string prefix;
        constexpr std::string_view block_mark = "blk.";
        if (module.starts_with(block_mark)) {
            known = architecture_.inside;
            prefix = filled(architecture_.blocks, take_block(module));
        }
        // Tables of rotary frequencies: config_of() reads what they say.
        if (module == "rope_freqs" || module == "rope_factors_long" || module == "rope_factors_short" ||
            module == "attn_rot_embd")
            return;
        const auto found =
            std::find_if(known.begin(), known.end(), [&](const Module& m) { return m.stored == module; });
        if (found == known.end()) unknown(stored);
        change(stored, *found, prefix, std::string(suffix), out);
    }

private:
    template <class... Pieces>
    [[noreturn]] void refuse(const StoredTensor& stored, const Pieces&... pieces) const {
        bad_input(file_.path().string(), ": tensor ", stored.name, " ", pieces...);
    }
    [[noreturn]] void unknown(const StoredTensor& stored) const {
        refuse(stored, "is not one that kerf knows in ", architecture_.name, " models");
    }

    /// "blk.12.attn_q" → "attn_q", 12
    std::int64_t take_block(std::string_view& module) const {
        const std::string_view number = module.substr(4, module.find('.', 4) - 4);
        std::int64_t block = -1;
        const auto [end, status] = std::from_chars(number.data(), number.data() + number.size(), block);
        const bool whole = status == std::errc() && end == number.data() + number.size();
        if (!whole || block < 0 || block >= blocks_ || std::to_string(block) != number ||
            module.size() <= 4 + number.size())
            bad_input(file_.path().string(), ": tensor ", module, " is in none of the ", blocks_, " blocks");
        module.remove_prefix(4 + number.size() + 1);
        return block;
    }

    void change(const StoredTensor& stored, const Module& module, const std::string& prefix, const std::string& suffix,
                std::vector<GgufView>& out) const {
        const auto& shape = file_.described(stored).shape;
        GgufView view{prefix + std::string(module.name) + suffix, &stored, shape, {}, false, 0};
        switch (module.change) {
            case Change::none:
                break;
            case Change::rotary_q:
                view.rows = by_heads(stored, GgufRows::Order::rotary, heads_, heads_);
                break;
            case Change::rotary_k:
                view.rows = by_heads(stored, GgufRows::Order::rotary, kv_heads_, kv_heads_);
                break;
            case Change::grouped:
                view.rows = by_heads(stored, GgufRows::Order::grouped, heads_, heads_ + 2 * kv_heads_);
                break;
            case Change::three_parts:
                return add_three_parts(stored, view, prefix, module.name, suffix, out);
            case Change::transposed:
                view.transposed = shape.size() == 2;
                if (view.transposed) std::swap(view.shape[0], view.shape[1]);
                break;
            case Change::plus_one:
                view.add = -1;
                break;
            case Change::experts:
                return add_experts(stored, view, prefix, module.name, suffix, out);
        }
        out.push_back(std::move(view));
    }

    GgufRows by_heads(const StoredTensor& stored, GgufRows::Order order, std::int64_t heads, std::int64_t parts) const {
        const std::int64_t rows = file_.described(stored).shape[0];
        const bool fits = file_.described(stored).shape.size() <= 2 && heads_ > 0 && kv_heads_ > 0 &&
                          heads_ % kv_heads_ == 0 && rows % parts == 0 && rows / parts % 2 == 0;
        if (!fits)
            refuse(stored, "of shape ", format_shape(file_.described(stored).shape), " does not split into the ",
                   heads_, " heads and ", kv_heads_, " KV heads of the metadata");
        return {order, heads, kv_heads_, rows / parts, 0};
    }

    void add_three_parts(const StoredTensor& stored, const GgufView& whole, const std::string& prefix,
                         std::string_view names, const std::string& suffix, std::vector<GgufView>& out) const {
        const std::int64_t head_dim = by_heads(stored, GgufRows::Order::same, heads_, heads_ + 2 * kv_heads_).head_dim;
        std::int64_t first = 0;
        for (const std::int64_t heads : {heads_, kv_heads_, kv_heads_}) {
            const auto space = std::min(names.find(' '), names.size());
            GgufView part = whole;
            part.name = prefix + std::string(names.substr(0, space)) + suffix;
            part.shape[0] = heads * head_dim;
            part.rows.first = first;
            first += part.shape[0];
            names.remove_prefix(std::min(space + 1, names.size()));
            out.push_back(std::move(part));
        }
    }

    void add_experts(const StoredTensor& stored, const GgufView& whole, const std::string& prefix,
                     std::string_view name, const std::string& suffix, std::vector<GgufView>& out) const {
        if (whole.shape.size() != 3 || whole.shape[0] != experts_)
            refuse(stored, "of shape ", format_shape(whole.shape), " does not hold the weights of ", experts_,
                   " experts");
        for (std::int64_t expert = 0; expert < experts_; ++expert) {
            GgufView part = whole;
            part.name = prefix + filled(name, expert) + suffix;
            part.shape.erase(part.shape.begin());
            part.rows.first = expert * part.shape[0];
            out.push_back(std::move(part));
        }
    }

    const GgufFile& file_;
    const Architecture& architecture_;
    std::int64_t blocks_, heads_, kv_heads_, experts_;
};

}  // namespace

const Architecture& architecture_of(const GgufFile& file) {
    const std::string_view name = file.text("general.architecture");
    std::string known;
    for (const auto& architecture : architectures) {
        if (architecture.name == name && (!architecture.is_it || architecture.is_it(file))) return architecture;
        if (known.find(architecture.name) == std::string::npos)
            known += (known.empty() ? "" : ", ") + std::string(architecture.name);
    }
    bad_input(file.path().string(), ": kerf does not read GGUF files of the architecture ",
              nlohmann::json(std::string(name)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
              "; it reads ", known);
}

std::vector<GgufView> views_of(const GgufFile& file, const Architecture& architecture, const Json& config) {
    const Namer namer(file, architecture, config);
    std::vector<GgufView> out;
    for (const auto& stored : file.tensors()) namer.add(stored, out);
    return out;
}

}  // namespace kerf::core::gguf
