// SPDX-License-Identifier: Apache-2.0
#include <kerf/adapter.hpp>

#include <cmath>

namespace {

using kerf::Config;
using namespace kerf::arch;

/// GPT-2 small to XL and what was trained with its class. Its projections are Conv1D modules: stored as [in, out].
class Gpt2 final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.gpt2", "1.0.0", "GPT-2, small to XL"};

    bool accepts(const Config& c) const override { return c.text("model_type", "") == "gpt2"; }

    kerf::Architecture describe(const Config& c) const override {
        c.must_be("add_cross_attention", false);
        const auto hidden = c.count("n_embd", 768), heads = c.count("n_head", 12);
        if (hidden % heads != 0) kerf::bad_value(c.where("n_head"), " = ", heads, " does not divide n_embd = ", hidden);
        const auto eps = c.real("layer_norm_epsilon", 1e-5);
        const auto kind = act(c, "activation_function", "gelu_new");
        const auto width = c.count("n_inner", 4 * hidden);
        // Weights of a head's scores; reorder_and_upcast_attn changes the order of roundings alone.
        const double scale =
            c.flag("scale_attn_weights", true) ? 1 / std::sqrt(static_cast<double>(hidden / heads)) : 1.0;
        const bool by_layer = c.flag("scale_attn_by_inverse_layer_idx", false);

        const auto parts = [&](std::int64_t number) -> std::vector<Part> {
            const AttentionOptions options{.bias = true,
                                           .output_bias = true,
                                           .scale = by_layer ? scale / static_cast<double>(number + 1) : scale,
                                           .transposed = true};
            return {
                layer_norm("ln_1", eps),
                fused_attention({"attn.c_attn", "attn.c_proj"}, QkvLayout::consecutive, {.query = heads}, {}, options),
                layer_norm("ln_2", eps),
                mlp({"mlp.c_fc", "mlp.c_proj"}, width, kind, {.bias = true, .transposed = true})};
        };
        return model(hidden)
            .embedding("transformer.wte", c.count("vocab_size", 50257))
            .positions("transformer.wpe", c.count("n_positions", 1024))
            .blocks("transformer.h.{}", c.count("n_layer", 12), parts)
            .norm(layer_norm("transformer.ln_f", eps))
            .head("lm_head", {.tied = c.flag("tie_word_embeddings", true)});
    }
};

}  // namespace

KERF_PLUGIN(Gpt2)
