// SPDX-License-Identifier: Apache-2.0
#include <kerf/adapter.hpp>

namespace {

using kerf::Config;
using namespace kerf::arch;

// The share of a head's features that rotate where no config says it.
constexpr double default_rotary_share = 0.25;

/// GPT-NeoX 20B, Pythia and their relatives.
class GptNeoX final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.gptneox", "1.0.0", "GPT-NeoX and Pythia"};

    bool accepts(const Config& c) const override { return c.text("model_type", "") == "gpt_neox"; }

    kerf::Architecture describe(const Config& c) const override {
        const auto hidden = c.count("hidden_size", 6144), count = c.count("num_attention_heads", 64);
        if (hidden % count != 0)
            kerf::bad_value(c.where("num_attention_heads"), " = ", count, " does not divide hidden_size = ", hidden);
        const auto eps = c.real("layer_norm_eps", 1e-5);
        const bool bias = c.flag("attention_bias", true);
        // Old configs name theta and share in keys of their own, new ones in rope_parameters.
        const auto rope =
            rope_of(c, hidden / count, c.real("rotary_emb_base", 10000), default_rotary_share, "rotary_pct");
        const std::vector<Part> parts{
            layer_norm("input_layernorm", eps),
            fused_attention({"attention.query_key_value", "attention.dense"}, QkvLayout::per_kv_head, {.query = count},
                            rope, {.bias = bias, .output_bias = bias}),
            layer_norm("post_attention_layernorm", eps),
            mlp({"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"}, c.count("intermediate_size", 24576),
                act(c, "hidden_act", "gelu"), {.bias = true})};
        return model(hidden)
            .limit(c.count("max_position_embeddings", 2048))
            .embedding("gpt_neox.embed_in", c.count("vocab_size", 50432))
            .blocks("gpt_neox.layers.{}", c.count("num_hidden_layers", 44), parts,
                    c.flag("use_parallel_residual", true) ? Residual::parallel : Residual::pre_norm)
            .norm(layer_norm("gpt_neox.final_layer_norm", eps))
            .head("embed_out", {.tied = c.flag("tie_word_embeddings", false)});
    }
};

}  // namespace

KERF_PLUGIN(GptNeoX)
