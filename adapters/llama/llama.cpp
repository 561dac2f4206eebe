// SPDX-License-Identifier: Apache-2.0
#include <kerf/adapter.hpp>

namespace {

using kerf::Config;
using namespace kerf::arch;

/// What a family's configuration class in transformers assumes where config.json says nothing.
struct Family {
    std::string_view model_type;
    std::int64_t key_value_heads;  // 0: as many as query heads
    std::int64_t positions;
    std::int64_t window;
    bool qkv_bias;
};
constexpr Family families[] = {
    {"llama", 0, 2048, 0, false}, {"mistral", 8, 131072, 4096, false}, {"qwen2", 32, 32768, 4096, true}};

const Family* family_of(const Config& c) {
    const auto type = c.text("model_type", "");
    for (const auto& family : families)
        if (family.model_type == type) return &family;
    return nullptr;
}

/// Present in relatives of these families, where they change the forward pass.
constexpr std::string_view foreign[] = {
    "num_experts", "num_local_experts",    "attn_logit_softcapping", "final_logit_softcapping",
    "logit_scale", "logits_scaling",       "residual_multiplier",    "embedding_multiplier",
    "clip_qkv",    "attention_multiplier", "no_rope_layers"};

Heads heads_of(const Config& c, const Family& family) {
    const auto query = c.count("num_attention_heads"), hidden = c.count("hidden_size");
    // Without the key transformers assumes the class's default, with null as many as there are query heads.
    const auto silent =
        family.key_value_heads > 0 && !c.mentions("num_key_value_heads") ? family.key_value_heads : query;
    const auto key_value = c.count("num_key_value_heads", silent);
    if (query % key_value != 0)
        kerf::bad_value(c.where("num_key_value_heads"), " = ", key_value,
                        " does not divide num_attention_heads = ", query);
    if (!c.has("head_dim") && hidden % query != 0)
        kerf::bad_value(c.where("num_attention_heads"), " = ", query, " does not divide hidden_size = ", hidden);
    return {.query = query, .key_value = key_value, .dim = c.count("head_dim", hidden / query)};
}

/// The sliding window of block `number` in tokens, 0 for none.
std::int64_t window_of(const Config& c, const Family& family, std::int64_t number) {
    if (family.window == 0) return 0;
    const bool mistral = family.model_type == "mistral";
    if (!mistral && !c.flag("use_sliding_window", false)) return 0;
    const std::int64_t window = c.count("sliding_window", c.mentions("sliding_window") ? 0 : family.window);
    if (mistral) return window;
    if (c.has("layer_types")) {
        const auto type = "layer_types." + std::to_string(number);
        c.must_be(type, {"full_attention", "sliding_attention"});
        return c.text(type) == "sliding_attention" ? window : 0;
    }
    return number >= c.integer("max_window_layers", 28) ? window : 0;
}

void refuse_what_changes_the_forward_pass(const Config& c, const Family& family) {
    for (const auto key : foreign) c.must_be_absent(key);
    for (const auto norm : {"qk_layernorm", "use_qk_norm"}) c.must_be(norm, false);
    if (family.model_type != "llama") {
        c.must_be("attention_bias", family.qkv_bias);
        c.must_be("mlp_bias", false);
    }
    if (family.model_type != "qwen2")
        for (std::int64_t i = 0; i < c.size("layer_types"); ++i)
            c.must_be("layer_types." + std::to_string(i), "full_attention");
}

/// Llama 1 to 3 and what shares their blocks: Mistral (sliding window) and Qwen2 (biases on q, k, v).
class Llama final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.llama", "1.0.0",
                                     "Llama 1 to 3, Mistral, Qwen2 and what shares their configuration"};

    bool accepts(const Config& c) const override { return family_of(c) != nullptr; }

    kerf::Architecture describe(const Config& c) const override {
        const Family& family = *family_of(c);
        refuse_what_changes_the_forward_pass(c, family);
        const auto eps = c.real("rms_norm_eps", 1e-6);
        const auto heads = heads_of(c, family);
        const auto rope = rope_of(c, heads.dim);
        if (rope.dim != heads.dim) c.unsupported("partial_rotary_factor", double(rope.dim) / double(heads.dim), 1);
        const bool bias = family.qkv_bias || c.flag("attention_bias", false);
        const auto width = c.count("intermediate_size");
        const auto kind = act(c, "hidden_act", "silu");
        const MlpOptions mlp{.bias = c.flag("mlp_bias", false)};

        const auto parts = [&](std::int64_t number) -> std::vector<Part> {
            const AttentionOptions options{
                .bias = bias, .output_bias = bias && !family.qkv_bias, .window = window_of(c, family, number)};
            return {rms_norm("input_layernorm", eps),
                    attention({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}, heads,
                              rope, options),
                    rms_norm("post_attention_layernorm", eps),
                    gated_mlp({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}, width, kind, mlp)};
        };
        return model(c.count("hidden_size"))
            .limit(c.count("max_position_embeddings", family.positions))
            .embedding("model.embed_tokens", c.count("vocab_size"))
            .blocks("model.layers.{}", c.count("num_hidden_layers"), parts)
            .norm(rms_norm("model.norm", eps))
            .head("lm_head", {.tied = c.flag("tie_word_embeddings", false)});
    }
};

}  // namespace

KERF_PLUGIN(Llama)
