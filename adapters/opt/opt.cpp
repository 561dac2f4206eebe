// SPDX-License-Identifier: Apache-2.0
#include <kerf/adapter.hpp>

namespace {

using kerf::Config;
using namespace kerf::arch;

// torch.nn.LayerNorm's own; the configuration has no key for it.
constexpr double norm_eps = 1e-5;
// Rows of the position table before that of position 0: left from fairseq's padding index.
constexpr std::int64_t position_offset = 2;

/// OPT 125m to 66b. OPT-350m alone is post-norm, without a final norm, and with an embedding narrower than the model.
class Opt final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.opt", "1.0.0", "OPT-125m to OPT-66b"};

    bool accepts(const Config& c) const override { return c.text("model_type", "") == "opt"; }

    kerf::Architecture describe(const Config& c) const override {
        const auto hidden = c.count("hidden_size"), embedded = c.count("word_embed_proj_dim", hidden);
        const bool before = c.flag("do_layer_norm_before", true), bias = c.flag("enable_bias", true);
        const LayerNormOptions norm{.affine = c.flag("layer_norm_elementwise_affine", true)};

        auto opt = model(hidden).embedding("model.decoder.embed_tokens", c.count("vocab_size"), {.width = embedded});
        if (embedded != hidden) opt.project_in("model.decoder.project_in");
        opt.positions("model.decoder.embed_positions", c.count("max_position_embeddings", 2048),
                      {.offset = position_offset});

        const auto attend =
            attention({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"},
                      {.query = c.count("num_attention_heads")}, {}, {.bias = bias, .output_bias = bias});
        const auto forward =
            mlp({"fc1", "fc2"}, c.count("ffn_dim"), act(c, "activation_function", "relu"), {.bias = bias});
        const auto attend_norm = layer_norm("self_attn_layer_norm", norm_eps, norm);
        const auto forward_norm = layer_norm("final_layer_norm", norm_eps, norm);
        const auto blocks = c.count("num_hidden_layers");
        if (before)
            opt.blocks("model.decoder.layers.{}", blocks, {attend_norm, attend, forward_norm, forward});
        else
            opt.blocks("model.decoder.layers.{}", blocks, {attend, attend_norm, forward, forward_norm},
                       Residual::post_norm);

        if (before && !c.flag("_remove_final_layer_norm", false))
            opt.norm(layer_norm("model.decoder.final_layer_norm", norm_eps, norm));
        if (embedded != hidden) opt.project_out("model.decoder.project_out", embedded);
        return opt.head("lm_head", {.tied = c.flag("tie_word_embeddings", true)});
    }
};

}  // namespace

KERF_PLUGIN(Opt)
