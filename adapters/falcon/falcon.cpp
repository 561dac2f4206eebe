// SPDX-License-Identifier: Apache-2.0
#include <kerf/adapter.hpp>

namespace {

using kerf::Config;
using namespace kerf::arch;

constexpr std::string_view norm_counts = "num_ln_in_parallel_attn";

/// What a config's flags amount to.
struct Layout {
    bool new_decoder, parallel;
    Heads heads;
    QkvLayout qkv;
};

Layout layout_of(const Config& c, std::int64_t hidden) {
    Layout layout;
    layout.new_decoder = c.flag("new_decoder_architecture", false);
    layout.parallel = layout.new_decoder || c.flag("parallel_attn", true);
    const auto query = c.count("num_attention_heads");
    if (hidden % query != 0)
        kerf::bad_value(c.where("num_attention_heads"), " = ", query, " does not divide hidden_size = ", hidden);
    // Multi-query models have one key-value head whatever num_kv_heads says, and the new decoder ignores multi_query.
    const bool one = !layout.new_decoder && c.flag("multi_query", true);
    const auto key_value = one ? 1 : c.count("num_kv_heads", query);
    if (query % key_value != 0)
        kerf::bad_value(c.where("num_kv_heads"), " = ", key_value, " does not divide num_attention_heads = ", query);
    if (!one && !layout.new_decoder && key_value != query) c.unsupported("num_kv_heads", key_value, query);
    layout.heads = {.query = query, .key_value = key_value, .dim = hidden / query};
    layout.qkv = one ? QkvLayout::consecutive : QkvLayout::per_kv_head;
    return layout;
}

/// Combinations for which transformers makes norms that its forward pass does not find, and keys that it ignores
/// although the models' own code reads them.
void refuse_what_changes_the_forward_pass(const Config& c, const Layout& layout) {
    if (layout.new_decoder) {
        c.must_be("parallel_attn", true);
        if (c.has(norm_counts) && c.integer(norm_counts) != 1 && c.integer(norm_counts) != 2)
            c.unsupported(norm_counts, c.integer(norm_counts), "1, 2");
    } else {
        c.must_be(norm_counts, 1);
    }
    c.must_be("apply_residual_connection_post_layernorm", false);
    c.must_be_absent("n_embed");
    c.must_be_absent("head_dim");
}

std::vector<Part> parts_of(const Config& c, const Layout& layout, std::int64_t hidden) {
    const auto eps = c.real("layer_norm_epsilon", 1e-5);
    const bool bias = c.flag("bias", false), alibi = c.flag("alibi", false);
    std::optional<Rope> rope;
    if (!alibi) {
        rope = rope_of(c, layout.heads.dim);
        if (rope->dim != layout.heads.dim)
            c.unsupported("partial_rotary_factor", double(rope->dim) / double(layout.heads.dim), 1);
    }
    const auto attend = fused_attention({"self_attention.query_key_value", "self_attention.dense"}, layout.qkv,
                                        layout.heads, rope, {.bias = bias, .output_bias = bias, .alibi = alibi});
    const auto forward = mlp({"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"}, c.count("ffn_hidden_size", 4 * hidden),
                             act(c, "activation", "gelu"), {.bias = bias});
    if (layout.new_decoder && c.integer(norm_counts, 2) == 2)
        return {layer_norm("ln_attn", eps), attend, layer_norm("ln_mlp", eps), forward};
    if (layout.parallel) return {layer_norm("input_layernorm", eps), attend, forward};
    return {layer_norm("input_layernorm", eps), attend, layer_norm("post_attention_layernorm", eps), forward};
}

/// Falcon: 7B (one key-value head), 40B, 180B and Falcon2-11B ("new decoder": key-value groups, up to two norms), and
/// the RW models (ALiBi, biases, MLP after attention).
class Falcon final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.falcon", "1.0.0", "Falcon-RW, Falcon 7B, 11B, 40B, 180B"};

    bool accepts(const Config& c) const override { return c.text("model_type", "") == "falcon"; }

    kerf::Architecture describe(const Config& c) const override {
        const auto hidden = c.count("hidden_size");
        const auto layout = layout_of(c, hidden);
        refuse_what_changes_the_forward_pass(c, layout);
        return model(hidden)
            .limit(c.count("max_position_embeddings", 2048))
            .embedding("transformer.word_embeddings", c.count("vocab_size"))
            .blocks("transformer.h.{}", c.count("num_hidden_layers"), parts_of(c, layout, hidden),
                    layout.parallel ? Residual::parallel : Residual::pre_norm)
            .norm(layer_norm("transformer.ln_f", c.real("layer_norm_epsilon", 1e-5)))
            .head("lm_head", {.tied = c.flag("tie_word_embeddings", true)});
    }
};

}  // namespace

KERF_PLUGIN(Falcon)
