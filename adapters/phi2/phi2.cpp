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

constexpr double default_theta = 10000;
constexpr double default_rotary_share = 0.5;

/// Phi-1, 1.5 and 2: attention and MLP read the same norm and are added at once; biases everywhere, the head included.
class Phi2 final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.phi2", "1.0.0", "Phi-1, Phi-1.5, Phi-2"};

    bool accepts(const Config& c) const override { return c.text("model_type", "") == "phi"; }

    kerf::Architecture describe(const Config& c) const override {
        const auto eps = c.real("layer_norm_eps", 1e-5);
        const auto heads = heads_of(c);
        AttentionOptions options{.bias = true, .output_bias = true};
        if (c.flag("qk_layernorm", false)) {
            options.q_norm = layer_norm("self_attn.q_layernorm", eps);
            options.k_norm = layer_norm("self_attn.k_layernorm", eps);
        }
        return model(c.count("hidden_size"))
            .limit(c.count("max_position_embeddings", 2048))
            .embedding("model.embed_tokens", c.count("vocab_size"))
            .blocks("model.layers.{}", c.count("num_hidden_layers"),
                    {layer_norm("input_layernorm", eps),
                     attention({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"}, heads,
                               rope_of(c, heads.dim, default_theta, default_rotary_share), options),
                     mlp({"mlp.fc1", "mlp.fc2"}, c.count("intermediate_size"), act(c, "hidden_act", "gelu_new"),
                         {.bias = true})},
                    Residual::parallel)
            .norm(layer_norm("model.final_layernorm", eps))
            .head("lm_head", {.tied = c.flag("tie_word_embeddings", false), .bias = true});
    }
};

}  // namespace

KERF_PLUGIN(Phi2)
