// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kerf/model.hpp"
#include "pruner_options.hpp"

namespace kerf::llm_pruner {

/// One side of a weight in a group: which indices of it make the member, unit by unit.
struct Piece {
    std::size_t place = 0;  ///< its number in the axis
    std::string tensor, kind;
    int dimension = 0;
    std::int64_t each = 1;              ///< indices of a unit
    std::vector<std::int64_t> indices;  ///< [units, each]
    std::int64_t uses = 1;              ///< a tied table counts once as table and once as head
};

/// An axis that is to be pruned, with the members that its importance is made of, in the order that `first` and
/// `second` speak of: attention k, o, v, q (query heads alone: q, o); an MLP's gate or fc1, up, down or fc2; hidden
/// channels: the final norm, then the model from its end to its start. Biases and layer norms have no say, as in the
/// reference.
struct Target {
    std::size_t axis = 0;  ///< its number in the structure
    std::string name;
    std::vector<Piece> pieces;
    std::int64_t last = 0;  ///< the piece that `last` means: o, down
    Group group;            ///< everything but the importance
};

/// Whether a mode prunes `axis`, one of `axes`: attention and MLPs inside the layer windows, or the residual stream.
bool is_pruned(const AxisShape& axis, std::span<const AxisShape> axes, const Options& options);

std::vector<Target> targets_of(Structure& structure, const WholeModel& model, const Options& options);

}  // namespace kerf::llm_pruner
