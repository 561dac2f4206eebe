// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kerf/tensor.hpp"

namespace kerf::llm_pruner {

/// What a weight is worth (arXiv:2305.11627): S, of its shape. W the weight, G = ∂ℓ/∂W of the mean loss over the
/// examples, A = (1/N) Σ_n (∂ℓ_n/∂W)² elementwise.
///   l1 |W|   l2 W²   vectorize, param_first W⊙G   param_second W⊙A⊙W   param_mix W⊙G − ½ W⊙A⊙W
enum class Criterion : std::uint8_t { random, l1, l2, vectorize, param_first, param_second, param_mix };

inline bool needs_gradients(Criterion c) {
    return c != Criterion::random && c != Criterion::l1 && c != Criterion::l2;
}
inline bool needs_squares(Criterion c) {
    return c == Criterion::param_second || c == Criterion::param_mix;
}

/// A tensor with what the criterion needs of its gradients; the others may be empty. Vectors are one row.
struct Salient {
    MatrixView<const float> weight, gradient, squares;
};

/// One value for each index of `dimension` (0: rows, 1: columns): Σ |S| over the other dimension, for vectorize |Σ S|.
std::vector<double> channel_values(Criterion criterion, const Salient& tensor, int dimension);

/// One weight of a group, one side of it: values [units, each], unit by unit. `each` is a multiple of the group's
/// channels per unit: with grouped queries a KV head's unit has r·D query rows and D key rows.
struct Member {
    std::int64_t each = 1;
    std::vector<double> values;
};

enum class Reduction : std::uint8_t { sum, mean, max, prod, first, second, last };

/// How a member that is longer than the root is brought to its channels. exact: the r channels of a unit that belong to
/// the same channel of its KV head are added. reference: LLM-Pruner's code adds channels that lie units · channels
/// apart, which are those of other KV heads' queries.
enum class Alignment : std::uint8_t { exact, reference };

/// Importance of every channel, [units, channels]: members brought to the group's channels (the fewest that a member
/// has per unit), then reduced over the members channel by channel. `second` and `last` of a group of one is that one.
std::vector<double> channel_importance(std::span<const Member> members, std::int64_t units, Reduction reduction,
                                       Alignment alignment);
/// A unit's importance is the sum of its channels'.
std::vector<double> unit_importance(std::span<const double> channels, std::int64_t units);

}  // namespace kerf::llm_pruner
