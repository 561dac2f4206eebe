// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/graph/graph.hpp"
#include "core/weights/tensor.hpp"

namespace kerf::core {

/// What a list of ops costs, from the graph alone: no weight is read. FLOPs are those of the matrix products, 2 for a
/// multiplication and its addition; norms, activations, softmax and rotations (each a few operations a feature) are
/// left out.
struct Cost {
    std::int64_t parameters = 0;           ///< elements of the tensors that the ops read, each once
    std::int64_t active_parameters = 0;    ///< of which one token meets: of E experts the k that it is routed to
    double prefill_flops = 0;              ///< a token, as the mean over a sequence of `length`
    double decode_flops = 0;               ///< the token after `length` cached ones
    std::int64_t kv_values_per_token = 0;  ///< keys and values that a token adds to the cache until a window is full
    std::int64_t kv_values = 0;            ///< in the cache after `length` tokens; a window keeps its own tokens alone
};

/// `length`: tokens of the prefill, and of the cache at decode; at least 1.
Cost cost_of(const std::vector<Op>& ops, std::int64_t length);

struct GraphCost {
    Cost prologue, epilogue;
    std::vector<Cost> blocks;
    Cost total;  ///< tensors that several parts share (tied embeddings) count once
};
GraphCost cost_of(const Graph& graph, std::int64_t length);

/// FLOPs of ops [first, last) for `tokens` tokens in sequences of `length`.
double forward_flops(const std::vector<Op>& ops, std::size_t first, std::size_t last, std::int64_t tokens,
                     std::int64_t length);

/// How weights are stored.
struct WeightFormat {
    DType dtype = DType::f32;  ///< of everything, or of all but the blocks' linears
    int bits = 0;              ///< of the blocks' linears, in the layout of gptq_format.hpp; 0: they are as the rest
    std::int64_t group_size = -1;  ///< inputs that share scale and zero; -1: all
};
/// Bytes of all tensors of a model, each once, without file headers. A linear for which the packed layout has no place
/// (check_gptq) stays as the rest.
std::uint64_t weight_bytes(const Graph& graph, const WeightFormat& format);
/// Bits that a weight of the blocks' linears takes on average, scales, zeros and group indices included.
double bits_per_weight(const Graph& graph, const WeightFormat& format);

}  // namespace kerf::core
