// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::core {

enum class OpKind : std::uint8_t {
    embedding,
    linear,
    rms_norm,
    layer_norm,
    rope,
    attention,
    activation,
    mul,
    add,
    split,
    scale,
    softcap,
    route,
    dispatch,
    combine
};
enum class ActivationKind : std::uint8_t { silu, gelu, gelu_new, gelu_tanh, relu, quick_gelu };

struct RopeScaling {
    enum class Kind : std::uint8_t { none, linear, llama3, longrope } kind = Kind::none;
    double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
    std::int64_t original_positions = 0;
    std::vector<double> short_factors, long_factors;  ///< longrope: [rotary_dim / 2]
    double attention_factor = 1;                      ///< longrope: of cosine and sine
};

/// One op of the graph document (docs/graph.md); only the attributes of its kind mean anything.
struct Op {
    OpKind kind = OpKind::add;
    std::vector<std::string> in, out;
    std::string name;                    ///< linear, norms: the module's name
    std::string weight, bias;            ///< tensor names; bias is empty where there is none
    std::int64_t rows = 0, columns = 0;  ///< linear: [out, in]; embedding: [rows, width]; norms: rows = size
    std::string role;                    ///< linear
    bool transposed = false;             ///< linear: stored as [in, out]
    double eps = 0;                      ///< norms
    double value = 0;                    ///< scale, softcap; rms_norm's offset on the weight; attention's softmax scale
    bool rounded = false;                ///< scale: `value` is rounded to the compute dtype first
    double softcap = 0;                  ///< attention
    bool alibi = false;                  ///< attention
    std::int64_t offset = 0;             ///< embedding
    std::int64_t heads = 1;              ///< rope, attention; norms: slices of the features
    std::int64_t kv_heads = 1, head_dim = 0, rotary_dim = 0, window = 0;
    std::int64_t value_dim = 0;  ///< attention: features of a value head; 0 = head_dim
    double theta = 10000;
    bool interleaved = false;
    RopeScaling scaling;
    ActivationKind activation = ActivationKind::silu;
    std::vector<std::int64_t> sizes;  ///< split
    std::int64_t groups = 1;          ///< split
    // What pruning leaves of an op that depends on how many features or heads there were.
    std::int64_t divisor = 0;  ///< norms: mean and mean square are sums over so many features; 0 = those that there are
    std::vector<std::int64_t> pairs;        ///< rope: of `pairs_of` pairs those that are there; empty: all
    std::vector<std::int64_t> alibi_heads;  ///< attention: of `alibi_of` heads those that are there; empty: all
    std::int64_t pairs_of = 0, alibi_of = 0;
    std::int64_t experts = 0, top_k = 0;  ///< route
    bool normalize = true;                ///< route
    /// Derived by parse_graph: the expert whose tokens alone reach this op (−1: all tokens do), and what share of the
    /// tokens that is when the router spreads them evenly.
    std::int64_t expert = -1;
    double share = 1;
};

/// Features of an attention op's value heads.
inline std::int64_t value_dim(const Op& op) {
    return op.value_dim > 0 ? op.value_dim : op.head_dim;
}

struct Block {
    std::string name;
    std::vector<Op> ops;
};

/// A model as data.
struct Graph {
    std::string family;
    std::int64_t hidden = 0, vocabulary = 0, positions = 0;
    std::vector<Op> prologue;
    std::vector<Block> blocks;
    std::vector<Op> epilogue;
};

/// A tensor that the graph reads, with the shape that it must have in the checkpoint.
struct ExpectedTensor {
    std::string name;
    std::vector<std::int64_t> shape;
};

/// Parses and checks a graph document: every op known, every value made before it is read and made once, every block
/// from x to y, feature widths consistent. `who` (the adapter) is named in errors, which are Error(input).
Graph parse_graph(const nlohmann::json& document, std::string_view who);
nlohmann::json graph_json(const Graph& graph);

/// Every tensor that the ops read, each once, in the order of the ops.
std::vector<ExpectedTensor> expected_tensors(const std::vector<Op>& ops);
std::vector<ExpectedTensor> expected_tensors(const Graph& graph);
/// Elements of all of them.
std::int64_t parameter_count(const std::vector<ExpectedTensor>& tensors);

std::string_view op_name(OpKind kind);

}  // namespace kerf::core
