// SPDX-License-Identifier: Apache-2.0
/// A piece of a graph (prologue, a block, epilogue) under LibTorch's autograd. Inside core/exec alone: LibTorch's
/// headers.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/exec/program.hpp"
#include "core/exec/rotation.hpp"
#include "core/graph/graph.hpp"

namespace kerf::core {

/// Of a linear y = x Wᵀ + b on `rows` rows: δ = ∂ℓ/∂y. The gradient of W is δᵀ x, that of b the column sums of δ.
struct LinearGradient {
    const Op* op;
    at::Tensor x, delta;  ///< float32 [rows, in], [rows, out]
};
/// Of a norm's weight or bias, [size].
struct VectorGradient {
    std::string tensor;
    at::Tensor value;
};
/// Of the rows that an embedding op looked up, in the order of the tokens.
struct TableGradient {
    const Op* op;
    at::Tensor delta;  ///< float32 [tokens, width]
};

/// What one batch says about a piece's weights and its input.
struct PieceGradients {
    at::Tensor input;  ///< ∂ℓ/∂x, as x; undefined for a prologue
    std::vector<LinearGradient> linears;
    std::vector<VectorGradient> vectors;
    std::vector<TableGradient> tables;
};

/// The ops of one piece, float32, with their weights. Weights of linears are no leaves of the tape: their gradients are
/// products of two tensors that are far smaller, and whoever sums over batches multiplies straight into its sum.
/// backward() may be called from several threads at once.
class DifferentiablePiece {
public:
    using Wanted = std::function<bool(const std::string& tensor)>;

    /// `wanted`: tensors (by their names in the graph) whose gradients backward() is to give. `length`: the longest
    /// window.
    DifferentiablePiece(const std::vector<Op>& ops, const WeightSource& weights, const Wanted& wanted,
                        std::int64_t length);

    /// A piece's input for one batch of windows: x [tokens, features] of a block or an epilogue, ids of a prologue.
    struct Input {
        at::Tensor x;
        std::span<const std::int64_t> ids;
        Batch batch;
    };
    /// Runs the ops, asks `seed` for ∂ℓ/∂y once y (the value `result`) is there, and goes back.
    PieceGradients backward(const Input& input, const std::string& result,
                            const std::function<at::Tensor(const at::Tensor& y)>& seed) const;

    const std::vector<Op>& ops() const noexcept { return ops_; }

private:
    class Tape;

    void load(const Op& op, const WeightSource& weights);

    std::vector<Op> ops_;
    const WeightSource& source_;
    Wanted wanted_;
    std::map<std::string, at::Tensor, std::less<>> weights_;  // by tensor name; linears as [out, in]
    std::vector<std::unique_ptr<Rotation>> rotations_;        // by op, null for other kinds
    std::map<std::string, std::size_t, std::less<>> last_reads_;
};

}  // namespace kerf::core
