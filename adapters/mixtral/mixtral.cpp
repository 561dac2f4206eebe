// SPDX-License-Identifier: Apache-2.0
#include <kerf/adapter.hpp>

namespace {

using kerf::Config;
using namespace kerf::arch;

/// Present in relatives of the family, where they change the forward pass.
constexpr std::string_view foreign[] = {"shared_expert_intermediate_size", "scoring_func", "routed_scaling_factor"};

Heads heads_of(const Config& c, std::int64_t hidden) {
    const auto query = c.count("num_attention_heads", 32);
    // Without the key transformers assumes 8, with null as many as there are query heads.
    const auto key_value = c.count("num_key_value_heads", c.mentions("num_key_value_heads") ? query : std::int64_t{8});
    if (query % key_value != 0)
        kerf::bad_value(c.where("num_key_value_heads"), " = ", key_value,
                        " does not divide num_attention_heads = ", query);
    if (!c.has("head_dim") && hidden % query != 0)
        kerf::bad_value(c.where("num_attention_heads"), " = ", query, " does not divide hidden_size = ", hidden);
    return {.query = query, .key_value = key_value, .dim = c.count("head_dim", hidden / query)};
}

Experts experts_of(const Config& c) {
    // The class has both names for the number of experts.
    const auto key = c.has("num_local_experts") ? "num_local_experts" : "num_experts";
    const Experts experts{.count = c.count(key, 8), .top_k = c.count("num_experts_per_tok", 2)};
    if (experts.top_k > experts.count)
        kerf::bad_value(c.where("num_experts_per_tok"), " = ", experts.top_k, ", but there are ", experts.count,
                        " experts");
    return experts;
}

/// Mixtral: Mistral's attention, and for each token top_k of the experts as its MLP.
class Mixtral final : public kerf::Adapter {
public:
    static constexpr kerf::Info info{"kerf.mixtral", "1.0.0", "Mixtral 8x7B and 8x22B"};

    bool accepts(const Config& c) const override { return c.text("model_type", "") == "mixtral"; }

    kerf::Architecture describe(const Config& c) const override {
        for (const auto key : foreign) c.must_be_absent(key);
        for (const auto bias : {"attention_bias", "mlp_bias"}) c.must_be(bias, false);
        const auto hidden = c.count("hidden_size", 4096), width = c.count("intermediate_size", 14336);
        const auto eps = c.real("rms_norm_eps", 1e-5);
        const auto heads = heads_of(c, hidden);
        const auto rope = rope_of(c, heads.dim, 1e6);
        if (rope.dim != heads.dim) c.unsupported("partial_rotary_factor", double(rope.dim) / double(heads.dim), 1);
        const auto kind = act(c, "hidden_act", "silu");
        // w1 is the gate, w3 what it multiplies, w2 the way back.
        const auto expert = [=](const std::string& name) {
            return gated_mlp({name + ".w1", name + ".w3", name + ".w2"}, width, kind);
        };
        const std::vector<Part> parts{
            rms_norm("input_layernorm", eps),
            attention({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}, heads, rope,
                      {.window = c.count("sliding_window", 0)}),
            rms_norm("post_attention_layernorm", eps),
            routed_mlp("block_sparse_moe.gate", "block_sparse_moe.experts.{}", experts_of(c), expert)};
        return model(hidden)
            .limit(c.count("max_position_embeddings", 4096 * 32))
            .embedding("model.embed_tokens", c.count("vocab_size", 32000))
            .blocks("model.layers.{}", c.count("num_hidden_layers", 32), parts)
            .norm(rms_norm("model.norm", eps))
            .head("lm_head", {.tied = c.flag("tie_word_embeddings", false)});
    }
};

}  // namespace

KERF_PLUGIN(Mixtral)
