// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "core/graph/edit.hpp"
#include "core/graph/product.hpp"
#include "core/graph/residual.hpp"

namespace kerf::core {

struct FuseOptions {
    /// Takes the mean of each row away from embedding tables under RMS norms too, which changes the function: what the
    /// reference implementation of SliceGPT does. Under layer norms it is always done, and changes nothing.
    bool centre_tables = false;
};

/// The same function with every norm of the residual stream an RMS norm without a weight: scales and biases go into the
/// linears that read them; of layer norms the mean goes into what writes to the stream. A head that shares its weight
/// with the embedding gets one of its own. Such norms commute with every orthogonal map of the stream. Error(input)
/// where that cannot be: find_stream()'s reasons, layer norms beside RMS norms, a stream that is read without its layer
/// norm.
Edit fuse_norms(const Graph& graph, FuseOptions options = {});

/// The stream of a fused graph in other coordinates: x becomes x Q at each position, Q = bases[position], null where it
/// stays as it is. What reads the stream is multiplied by Q, what writes to it by Qᵀ, and where the coordinates of two
/// positions differ a linear Q'ᵀ Q of the role "shortcut" is put between them (Ashkboos et al. 2024, eq. 9). Norms go
/// on dividing by the number of features that there were. With square bases the function stays the same; narrower ones
/// slice it. Error(internal) for a graph that is not fused, or bases that do not fit.
Edit rotate(const Graph& graph, const Stream& stream, const std::vector<std::shared_ptr<const Basis>>& bases);

/// One part of it (0: the prologue, then blocks, then the epilogue): its ops, and the tensors that they read.
struct RotatedPart {
    std::vector<Op> ops;
    TensorEdits tensors;
};
RotatedPart rotate_part(const Graph& graph, const Stream& stream, std::size_t part,
                        const std::vector<std::shared_ptr<const Basis>>& bases);

}  // namespace kerf::core
