// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/graph/graph.hpp"

namespace kerf::core {

/// Of every index of a dimension, whether it stays; empty: all stay.
using Kept = std::vector<bool>;

/// Indices that tensors lose, by tensor and dimension; dimensions that lose nothing have no entry.
struct Cuts {
    std::map<std::pair<std::string, int>, Kept> kept;
    bool keep_divisor = true;
    std::string what;  ///< for errors: the axes that lose something
};

struct PrunedGraph {
    Graph graph;
    std::map<std::string, std::string> renamed;  ///< tensor of the new graph → of the old, where they differ
};

/// Follows cuts through the ops, independently of how the cuts were found: every op must agree with what its weights
/// and its inputs lose, else Error(internal) names it; a cut that its attributes cannot express is Error(input). Ops of
/// experts whose row in the router goes are dropped.
PrunedGraph pruned_graph(const Graph& graph, const Cuts& cuts);

/// The lists of ops of a graph: prologue, blocks, epilogue.
std::vector<const std::vector<Op>*> all_ops(const Graph& graph);

}  // namespace kerf::core
