// SPDX-License-Identifier: Apache-2.0
// A model family in a repository of its own.
#include <kerf/adapter.hpp>

class Plume final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"org.example.plume", "0.3.1", "Plume 1B and 7B"};

    bool accepts(const kerf::Config& c) const override { return c.text("model_type", "") == "plume"; }

    // Says what the model is. The core derives from it the forward pass, the calibration order, and the tensor names of
    // the export.
    kerf::Architecture describe(const kerf::Config& c) const override {
        using namespace kerf::arch;
        c.must_be("hidden_act", "silu");  // what is not honoured is refused, by name
        c.must_be_absent("rope_scaling");
        const auto eps = c.real("rms_norm_eps", 1e-5);
        const Heads heads{.query = c.count("num_attention_heads"),
                          .key_value = c.count("num_key_value_heads"),
                          .dim = c.count("head_dim")};
        return model(c.count("hidden_size"))
            .limit(c.count("max_position_embeddings"))
            .embedding("model.embed_tokens", c.count("vocab_size"))
            .blocks(
                "model.layers.{}", c.count("num_hidden_layers"),
                {rms_norm("input_layernorm", eps),
                 attention({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}, heads,
                           Rope{c.real("rope_theta", 10000.0)}),
                 rms_norm("post_attention_layernorm", eps),
                 gated_mlp({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}, c.count("intermediate_size"), Act::silu)})
            .norm(rms_norm("model.norm", eps))
            .head("lm_head", {.tied = c.flag("tie_word_embeddings", false)});
    }
};
KERF_PLUGIN(Plume)
