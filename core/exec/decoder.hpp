// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/exec/program.hpp"
#include "core/graph/graph.hpp"

namespace kerf::core {

class KeyValues;

/// A text in the making: its tokens so far, and what every attention op keeps of them. Made by Decoder::start().
class Sequence {
public:
    Sequence(Sequence&&) noexcept;
    Sequence& operator=(Sequence&&) noexcept;
    ~Sequence();

    std::span<const std::int64_t> ids() const noexcept { return ids_; }
    std::int64_t length() const noexcept { return std::int64_t(ids_.size()); }
    std::int64_t capacity() const noexcept { return capacity_; }

private:
    friend class Decoder;
    Sequence();
    std::vector<std::int64_t> ids_;
    std::int64_t capacity_ = 0;
    std::vector<KeyValues> layers_;
};

/// A whole model in memory that takes texts token by token: what a full forward pass over a sequence would give for its
/// last position, without doing the earlier ones again. Weights are held in float32, bfloat16 or float16; everything
/// else, keys and values too, is float32. Calls use all threads of parallel_for, and come from one thread at a time.
/// The same bytes at any number of threads, and for a sequence the same whatever others are decoded beside it.
class Decoder {
public:
    /// Error(environment) when the weights do not fit this machine; Error(input) for a graph whose prologue or epilogue
    /// attends. `weights` must outlive it: rows of embeddings are read from there.
    Decoder(const Graph& graph, const WeightSource& weights, DType type);
    ~Decoder();
    Decoder(Decoder&&) noexcept;
    Decoder& operator=(Decoder&&) noexcept;

    /// An empty sequence with room for `capacity` tokens. Error(input) when that is more than the model has positions.
    Sequence start(std::int64_t capacity) const;

    /// Appends ids, at least one; logits [vocabulary] of the last of them, valid until the next call.
    std::span<const float> append(Sequence& sequence, std::span<const std::int64_t> ids);

    /// Appends ids[i] to sequences[i], all different ones; logits [sequences, vocabulary], valid until the next call.
    std::span<const float> step(std::span<Sequence* const> sequences, std::span<const std::int64_t> ids);

    /// How many sequences step() takes at once.
    static constexpr std::size_t most_sequences = 8;

    std::uint64_t weight_bytes() const noexcept;
    DType type() const noexcept;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace kerf::core
