// SPDX-License-Identifier: Apache-2.0
#include <kerf/adapter.hpp>

#include <cmath>

namespace {

using kerf::Config;
using namespace kerf::arch;

/// Weights are stored as their distance from 1.
Norm gemma_norm(std::string_view name, double eps) {
    return rms_norm(name, eps, {.offset = 1});
}

/// The sliding window of block `number` in tokens, 0 for none; every second block has one, the first of all too.
std::int64_t window_of(const Config& c, std::int64_t number) {
    const std::int64_t window = c.count("sliding_window", c.mentions("sliding_window") ? 0 : 4096);
    if (!c.has("layer_types")) return number % 2 == 0 ? window : 0;
    const auto type = "layer_types." + std::to_string(number);
    c.must_be(type, {"full_attention", "sliding_attention"});
    return c.text(type) == "sliding_attention" ? window : 0;
}

/// A soft cap: null is none.
double softcap_of(const Config& c, std::string_view key, double otherwise) {
    const double cap = c.mentions(key) ? c.real(key, 0) : otherwise;
    if (cap < 0) kerf::bad_value(c.where(key), " = ", cap, ", but a soft cap is above 0");
    return cap;
}

/// Of the scores: the root of a size that need not be the head's.
double scale_of(const Config& c) {
    const double size = c.real("query_pre_attn_scalar", 256);
    if (!(size > 0)) kerf::bad_value(c.where("query_pre_attn_scalar"), " = ", size, ", but a size is above 0");
    return 1 / std::sqrt(size);
}

Heads heads_of(const Config& c) {
    const Heads heads{.query = c.count("num_attention_heads", 8),
                      .key_value = c.count("num_key_value_heads", 4),
                      .dim = c.count("head_dim", 256)};
    if (heads.query % heads.key_value != 0)
        kerf::bad_value(c.where("num_key_value_heads"), " = ", heads.key_value,
                        " does not divide num_attention_heads = ", heads.query);
    return heads;
}

/// Gemma 2: norms before and after each sublayer, soft caps on scores and logits, every second window sliding.
class Gemma2 final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.gemma2", "1.0.0", "Gemma 2, 2B to 27B"};

    bool accepts(const Config& c) const override { return c.text("model_type", "") == "gemma2"; }

    kerf::Architecture describe(const Config& c) const override {
        c.must_be("use_bidirectional_attention", false);
        const auto hidden = c.count("hidden_size", 2304);
        const auto eps = c.real("rms_norm_eps", 1e-6);
        const auto heads = heads_of(c);
        const auto rope = rope_of(c, heads.dim);
        if (rope.dim != heads.dim) c.unsupported("partial_rotary_factor", double(rope.dim) / double(heads.dim), 1);
        const bool bias = c.flag("attention_bias", false);
        const double scale = scale_of(c);
        const double score_cap = softcap_of(c, "attn_logit_softcapping", 50);
        // transformers reads hidden_activation alone, whatever hidden_act says.
        const auto forward =
            gated_mlp({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}, c.count("intermediate_size", 9216),
                      act(c, "hidden_activation", "gelu_pytorch_tanh"));

        const auto parts = [&](std::int64_t number) -> std::vector<Part> {
            const AttentionOptions options{.bias = bias,
                                           .output_bias = bias,
                                           .window = window_of(c, number),
                                           .scale = scale,
                                           .softcap = score_cap};
            const auto attend = attention(
                {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}, heads, rope, options);
            return {gemma_norm("input_layernorm", eps), then(attend, gemma_norm("post_attention_layernorm", eps)),
                    gemma_norm("pre_feedforward_layernorm", eps),
                    then(forward, gemma_norm("post_feedforward_layernorm", eps))};
        };
        return model(hidden)
            .limit(c.count("max_position_embeddings", 8192))
            .embedding("model.embed_tokens", c.count("vocab_size", 256000),
                       {.scale = std::sqrt(static_cast<double>(hidden)), .rounded = true})
            .blocks("model.layers.{}", c.count("num_hidden_layers", 26), parts)
            .norm(gemma_norm("model.norm", eps))
            .head("lm_head", {.tied = c.flag("tie_word_embeddings", true),
                              .softcap = softcap_of(c, "final_logit_softcapping", 30)});
    }
};

}  // namespace

KERF_PLUGIN(Gemma2)
