// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
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

/// What readers of a position are multiplied by where that is another matrix than the basis that writers are turned by:
/// null for those that take the basis itself.
struct Readers {
    std::shared_ptr<const Basis> normed;  ///< linears behind a norm
    std::shared_ptr<const Basis> plain;   ///< linears that read the stream itself, shortcuts among them
};

/// The stream of a fused graph in other coordinates: x becomes x Q at each position, Q = bases[position], null where it
/// stays as it is. What reads the stream is multiplied by Q, what writes to it by Qᵀ, and where the coordinates of two
/// positions differ a linear Q'ᵀ Q of the role "shortcut" is put between them (Ashkboos et al. 2024, eq. 9). Norms go
/// on dividing by the number of features that there were. With square bases the function stays the same; narrower ones
/// slice it. A head that shares its weight with the embedding still does if nothing but one basis separates the two.
/// `readers`: by position, or empty. Error(internal) for a graph that is not fused, or bases that do not fit.
Edit rotate(const Graph& graph, const Stream& stream, const std::vector<std::shared_ptr<const Basis>>& bases,
            const std::vector<Readers>& readers = {});

/// Of a rotated graph without shortcuts, where every norm of the stream divides by what it did before: norms as the
/// family has them again, with a weight (of ones) and the mean over the features that there are, which a stock class
/// computes. What it differs by, √(features before / now), goes into the linears behind a norm and into its epsilon.
/// `original`: the graph before fusion. Nothing where a norm of the stream takes a mean away, or has no weight.
std::optional<Edit> restore_norms(const Graph& rotated, const Graph& original);

/// One part of it (0: the prologue, then blocks, then the epilogue): its ops, and the tensors that they read.
struct RotatedPart {
    std::vector<Op> ops;
    TensorEdits tensors;
};
RotatedPart rotate_part(const Graph& graph, const Stream& stream, std::size_t part,
                        const std::vector<std::shared_ptr<const Basis>>& bases,
                        const std::vector<Readers>& readers = {});

}  // namespace kerf::core
