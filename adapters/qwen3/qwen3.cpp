// SPDX-License-Identifier: Apache-2.0
#include <kerf/adapter.hpp>

namespace {

using kerf::Config;
using namespace kerf::arch;

/// Present in relatives of the family, where they change the forward pass.
constexpr std::string_view foreign[] = {"num_experts", "num_local_experts", "moe_intermediate_size", "mlp_only_layers"};

Heads heads_of(const Config& c) {
    const auto query = c.count("num_attention_heads", 32);
    // Without the key transformers assumes 32, with null as many as there are query heads.
    const auto key_value = c.count("num_key_value_heads", c.mentions("num_key_value_heads") ? query : std::int64_t{32});
    if (query % key_value != 0)
        kerf::bad_value(c.where("num_key_value_heads"), " = ", key_value,
                        " does not divide num_attention_heads = ", query);
    return {.query = query, .key_value = key_value, .dim = c.count("head_dim", 128)};
}

/// The sliding window of block `number` in tokens, 0 for none.
std::int64_t window_of(const Config& c, std::int64_t number) {
    if (!c.flag("use_sliding_window", false)) return 0;
    const std::int64_t window = c.count("sliding_window", c.mentions("sliding_window") ? 0 : 4096);
    if (!c.has("layer_types")) return number >= c.integer("max_window_layers", 28) ? window : 0;
    const auto type = "layer_types." + std::to_string(number);
    c.must_be(type, {"full_attention", "sliding_attention"});
    return c.text(type) == "sliding_attention" ? window : 0;
}

/// Qwen3's dense models: Llama's block with a norm on every query and key head.
class Qwen3 final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.qwen3", "1.0.0", "Qwen3, the dense models"};

    bool accepts(const Config& c) const override { return c.text("model_type", "") == "qwen3"; }

    kerf::Architecture describe(const Config& c) const override {
        for (const auto key : foreign) c.must_be_absent(key);
        const auto eps = c.real("rms_norm_eps", 1e-6);
        const auto heads = heads_of(c);
        const auto rope = rope_of(c, heads.dim);
        if (rope.dim != heads.dim) c.unsupported("partial_rotary_factor", double(rope.dim) / double(heads.dim), 1);
        const bool bias = c.flag("attention_bias", false);
        const auto forward = gated_mlp({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
                                       c.count("intermediate_size", 22016), act(c, "hidden_act", "silu"));

        const auto parts = [&](std::int64_t number) -> std::vector<Part> {
            const AttentionOptions options{.bias = bias,
                                           .output_bias = bias,
                                           .window = window_of(c, number),
                                           .q_norm = rms_norm("self_attn.q_norm", eps),
                                           .k_norm = rms_norm("self_attn.k_norm", eps)};
            return {rms_norm("input_layernorm", eps),
                    attention({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}, heads,
                              rope, options),
                    rms_norm("post_attention_layernorm", eps), forward};
        };
        return model(c.count("hidden_size", 4096))
            .limit(c.count("max_position_embeddings", 32768))
            .embedding("model.embed_tokens", c.count("vocab_size", 151936))
            .blocks("model.layers.{}", c.count("num_hidden_layers", 32), parts)
            .norm(rms_norm("model.norm", eps))
            .head("lm_head", {.tied = c.flag("tie_word_embeddings", false)});
    }
};

}  // namespace

KERF_PLUGIN(Qwen3)
