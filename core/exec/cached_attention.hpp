// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/graph/graph.hpp"

namespace kerf::core {

/// What one attention op keeps of one sequence: keys and values of every position so far, float32
/// [kv_heads, capacity, head_dim] each, so that a head's keys follow each other in memory.
class KeyValues {
public:
    KeyValues(const Op& attention, std::int64_t capacity);

    /// k and v: [count, kv_heads · head_dim] of the positions from `first` on.
    void store(std::int64_t first, std::int64_t count, const float* k, const float* v);
    const float* keys(std::int64_t head) const { return keys_.get() + head * capacity_ * head_dim_; }
    const float* values(std::int64_t head) const { return values_.get() + head * capacity_ * head_dim_; }

private:
    std::int64_t capacity_, kv_heads_, head_dim_;
    std::unique_ptr<float[]> keys_, values_;  // not written before they are used: a system gives pages when they are
};

/// Some consecutive positions of one sequence, whose keys and values are stored already.
struct AttentionRun {
    const KeyValues* cache = nullptr;
    std::int64_t first = 0, count = 0;  ///< positions
    const float* q = nullptr;           ///< [count, heads · head_dim]
    float* out = nullptr;               ///< likewise
};

/// Causal attention of each run's queries over their own sequence. A run of few queries goes through kernels whose bits
/// do not depend on the other runs; a longer one through BLAS, a tile of queries at a time.
void attend_cached(const Op& attention, std::span<const AttentionRun> runs);

}  // namespace kerf::core
