// SPDX-License-Identifier: Apache-2.0
/// Small models of every shape that the ops can describe, written with the SDK's own builder.
#pragma once

#include <kerf/adapter.hpp>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/graph/graph.hpp"

namespace kerf::core::small {

namespace arch = kerf::arch;

inline Graph parsed(const arch::Architecture& model) {
    return parse_graph(nlohmann::json::parse(model.json("small")), "small model");
}

constexpr std::int64_t hidden = 24, vocabulary = 40, width = 20, head_dim = 6, blocks = 2;

/// Two blocks of these parts around one head that is the embedding's table.
inline Graph tied(const std::vector<arch::Part>& parts, arch::Residual residual = arch::Residual::pre_norm) {
    return parsed(arch::model(hidden)
                      .limit(64)
                      .embedding("embed", vocabulary)
                      .blocks("layers.{}", blocks, parts, residual)
                      .norm(arch::rms_norm("norm", 1e-5))
                      .head("head", {.tied = true}));
}

inline arch::Sublayer grouped_attention(std::int64_t heads, std::int64_t kv_heads) {
    return arch::attention({"q", "k", "v", "o"}, {heads, kv_heads, head_dim}, arch::Rope{.dim = 4});
}
inline arch::Sublayer gated() {
    return arch::gated_mlp({"mlp.gate", "mlp.up", "mlp.down"}, width, arch::Act::silu);
}

/// Four query heads on two key-value heads, rotating in part; a gated MLP.
inline Graph gqa() {
    return tied({arch::rms_norm("n1", 1e-5), grouped_attention(4, 2), arch::rms_norm("n2", 1e-5), gated()});
}
/// The same from one fused projection: q, k, v one after the other, gate and up one after the other.
inline Graph fused() {
    return tied({arch::rms_norm("n1", 1e-5),
                 arch::fused_attention({"qkv", "o"}, arch::QkvLayout::consecutive, {4, 2, head_dim}, arch::Rope{}),
                 arch::rms_norm("n2", 1e-5), arch::fused_gated_mlp({"gate_up", "down"}, width, arch::Act::silu)});
}
/// Query heads beside their key and value in the fused rows, layer norms with biases, parallel sublayers.
inline Graph interleaved(std::int64_t heads, std::int64_t kv_heads) {
    return tied({arch::layer_norm("n", 1e-5),
                 arch::fused_attention({"qkv", "o"}, arch::QkvLayout::per_kv_head, {heads, kv_heads, head_dim},
                                       arch::Rope{.interleaved = true}, {.bias = true, .output_bias = true}),
                 arch::mlp({"fc1", "fc2"}, width, arch::Act::gelu, {.bias = true})},
                arch::Residual::parallel);
}
/// ALiBi, soft-capped scores, no rotation.
inline Graph alibi() {
    return tied({arch::layer_norm("n", 1e-5),
                 arch::attention({"q", "k", "v", "o"}, {4, 4, head_dim}, {}, {.softcap = 2, .alibi = true}),
                 arch::mlp({"fc1", "fc2"}, width, arch::Act::gelu)});
}
/// Norms on each query and key head, norms after the sublayers, norms whose weight has an offset.
inline Graph normed_heads() {
    const arch::RmsNormOptions plus_one{.offset = 1};
    return tied(
        {arch::rms_norm("n1", 1e-5, plus_one),
         arch::then(arch::attention({"q", "k", "v", "o"}, {4, 2, head_dim}, arch::Rope{},
                                    {.q_norm = arch::rms_norm("qn", 1e-5), .k_norm = arch::rms_norm("kn", 1e-5)}),
                    arch::rms_norm("after1", 1e-5, plus_one)),
         arch::rms_norm("n2", 1e-5, plus_one), arch::then(gated(), arch::rms_norm("after2", 1e-5, plus_one))});
}
/// Four experts, two for each token.
inline Graph experts(bool normalize = true) {
    return tied({arch::rms_norm("n1", 1e-5), grouped_attention(4, 2), arch::rms_norm("n2", 1e-5),
                 arch::routed_mlp(
                     "moe.router", "moe.experts.{}", {.count = 4, .top_k = 2, .normalize = normalize},
                     [](const std::string& name) {
                         return arch::gated_mlp({name + ".w1", name + ".w3", name + ".w2"}, width, arch::Act::silu);
                     })});
}
/// An embedding narrower than the stream, learned positions, norms behind the sublayers, weights stored as [in, out].
inline Graph narrow_embedding() {
    return parsed(arch::model(hidden)
                      .embedding("embed", vocabulary, {.width = 10})
                      .project_in("project_in")
                      .positions("positions", 64, {.offset = 2})
                      .blocks("layers.{}", blocks,
                              {arch::attention({"q", "k", "v", "o"}, {4, 4, head_dim}, {},
                                               {.bias = true, .output_bias = true, .transposed = true}),
                               arch::layer_norm("n1", 1e-5),
                               arch::mlp({"fc1", "fc2"}, width, arch::Act::gelu, {.bias = true, .transposed = true}),
                               arch::layer_norm("n2", 1e-5)},
                              arch::Residual::post_norm)
                      .project_out("project_out", 10)
                      .head("head", {.tied = true}));
}

/// All of them by name, for tests that hold for every model.
inline const std::map<std::string, std::function<Graph()>>& all() {
    static const std::map<std::string, std::function<Graph()>> graphs{{"gqa", gqa},
                                                                      {"fused", fused},
                                                                      {"interleaved", [] { return interleaved(4, 2); }},
                                                                      {"multi_query", [] { return interleaved(4, 1); }},
                                                                      {"multi_head", [] { return interleaved(4, 4); }},
                                                                      {"alibi", alibi},
                                                                      {"normed_heads", normed_heads},
                                                                      {"experts", [] { return experts(); }},
                                                                      {"plain_experts", [] { return experts(false); }},
                                                                      {"narrow_embedding", narrow_embedding}};
    return graphs;
}

}  // namespace kerf::core::small
