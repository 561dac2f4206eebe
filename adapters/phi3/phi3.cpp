// SPDX-License-Identifier: Apache-2.0
#include <kerf/adapter.hpp>

namespace {

using kerf::Config;
using namespace kerf::arch;

Heads heads_of(const Config& c) {
    const auto query = c.count("num_attention_heads"), hidden = c.count("hidden_size");
    const auto key_value = c.count("num_key_value_heads", query);
    if (query % key_value != 0)
        kerf::bad_value(c.where("num_key_value_heads"), " = ", key_value,
                        " does not divide num_attention_heads = ", query);
    if (!c.has("head_dim") && hidden % query != 0)
        kerf::bad_value(c.where("num_attention_heads"), " = ", query, " does not divide hidden_size = ", hidden);
    return {.query = query, .key_value = key_value, .dim = c.count("head_dim", hidden / query)};
}

/// The keys of Phi-4-mini's and Phi-3-small's configs that would change the forward pass.
void refuse_what_changes_the_forward_pass(const Config& c) {
    for (const auto bias : {"attention_bias", "mlp_bias", "lm_head_bias"}) c.must_be(bias, false);
    c.must_be("full_attn_mod", 1);
    c.must_be("interpolate_factor", 1);
    for (const auto key : {"num_local_experts", "blocksparse_block_size", "mup_use_scaling", "gegelu_limit"})
        c.must_be_absent(key);
    for (const auto table : {"rope_scaling", "rope_parameters"}) {
        if (!c.has(table)) continue;
        const auto rope = c.at(table);
        // Linear and llama3 scaling, which other families know, have no meaning in this one.
        rope.must_be(rope.has("rope_type") ? "rope_type" : "type", {"default", "longrope", "su"});
        // The class in transformers lets the outer one of two lengths decide, others the inner one.
        constexpr auto length = "original_max_position_embeddings";
        if (rope.has(length) && c.has(length) && rope.integer(length) != c.integer(length))
            rope.unsupported(length, rope.integer(length), c.where(length));
    }
}

/// Phi-3, Phi-3.5 and Phi-4 (mini too): Llama's blocks with fused q, k, v and fused gate and up.
class Phi3 final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.phi3", "1.0.0", "Phi-3 and Phi-3.5 mini and medium, Phi-4, Phi-4-mini"};

    bool accepts(const Config& c) const override { return c.text("model_type", "") == "phi3"; }

    kerf::Architecture describe(const Config& c) const override {
        refuse_what_changes_the_forward_pass(c);
        const auto eps = c.real("rms_norm_eps", 1e-5);
        const auto heads = heads_of(c);
        return model(c.count("hidden_size"))
            .limit(c.count("max_position_embeddings", 4096))
            .embedding("model.embed_tokens", c.count("vocab_size"))
            .blocks("model.layers.{}", c.count("num_hidden_layers"),
                    {rms_norm("input_layernorm", eps),
                     fused_attention({"self_attn.qkv_proj", "self_attn.o_proj"}, QkvLayout::consecutive, heads,
                                     rope_of(c, heads.dim),
                                     {.window = c.has("sliding_window") ? c.count("sliding_window") : 0}),
                     rms_norm("post_attention_layernorm", eps),
                     fused_gated_mlp({"mlp.gate_up_proj", "mlp.down_proj"}, c.count("intermediate_size"),
                                     act(c, "hidden_act", "silu"))})
            .norm(rms_norm("model.norm", eps))
            .head("lm_head", {.tied = c.flag("tie_word_embeddings", false)});
    }
};

}  // namespace

KERF_PLUGIN(Phi3)
