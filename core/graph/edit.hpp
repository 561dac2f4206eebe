// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/graph/axes.hpp"
#include "core/weights/selection.hpp"

namespace kerf::core {

/// Units of an axis that go.
struct Removal {
    std::string axis;
    std::vector<std::int64_t> units;  ///< in any order
};

/// A graph and how its tensors are made of those of the graph that was edited.
struct Edit {
    Graph graph;
    TensorEdits tensors;
};

/// Sorts the units and checks that they can go: of the axis, each named once, enough of them left, and equally many of
/// every run. Error(input) in words.
void check_units(const Axis& axis, std::vector<std::int64_t>& units);

struct RemoveOptions {
    /// A norm over a pruned dimension goes on dividing by the number of features that it had (`divisor` in the graph),
    /// so that removing equals zeroing. Without, mean and mean square are those of the features that stay, as in
    /// LLM-Pruner's channel-wise mode: another function, which the stock classes can express.
    bool keep_divisor = true;
};

/// Removes units from any number of axes at once; `axes` are those of `graph`. What stays keeps its order. Experts that
/// stay are numbered anew, under the names of the first ones. Error(input) in words for: an unknown axis or one that
/// cannot be cut, a unit out of range or named twice, all units (or fewer left than must stay), groups that would lose
/// unequally many, and cuts that an op cannot express (two axes that cross, attention heads of different sizes).
Edit remove(const Graph& graph, const std::vector<Axis>& axes, std::span<const Removal> removals,
            RemoveOptions options = {});

/// The counterpart that keeps all shapes: every element on the named units becomes the value that silences it (0; for
/// weights of a norm that adds an offset, minus that). An expert is silenced by a bias of −1e30 on its row of the
/// router, which the graph gets when it has none. The same errors as remove().
Edit zero(const Graph& graph, const std::vector<Axis>& axes, std::span<const Removal> removals);

/// The same function without grouped queries: every query head reads a key and a value head of its own, a copy of the
/// one that its group shared. Graphs without grouped queries stay as they are. Error(input) where queries, keys and
/// values come out of one fused linear group by group.
Edit expand_keys(const Graph& graph);

/// The graph with its first `count` blocks, of which at least one has to stay. Error(input) for a count that it has
/// not.
Edit keep_blocks(const Graph& graph, std::int64_t count);

/// Elements of one linear's weight that become 0. `keep`: [out, in] row-major, whatever the file's layout.
/// Error(input) for an unknown linear or a mask of another size.
Edit mask(const Graph& graph, std::string_view linear, const std::vector<bool>& keep);

}  // namespace kerf::core
