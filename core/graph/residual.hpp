// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/graph/graph.hpp"

namespace kerf::core {

/// A place of the residual stream that something reads, through a norm as a rule: its coordinates may be chosen freely
/// there, as long as all that writes to it and all that reads it agree.
struct StreamPosition {
    std::string name;           ///< of the first norm (or linear) that reads it
    std::int64_t block = -1;    ///< whose ops make it; -1: the prologue
    std::string value;          ///< what that part calls it
    bool inside = false;        ///< of the block: there is a later one in it
    std::int64_t features = 0;  ///< of the value
};

/// What an op has to do with the stream; numbers are positions, −1 where it has nothing to do with one.
struct StreamUse {
    std::int64_t norm = -1;     ///< normalises the stream at
    std::int64_t reads = -1;    ///< linear: multiplies the stream at, normalised or not
    std::int64_t through = -1;  ///< linear that reads: the index of the norm in the same list of ops, −1 for none
    std::int64_t writes = -1;   ///< linear or embedding: its output is added to what becomes the stream at
    std::int64_t from = -1;     ///< add: its stream operand is the stream at; equal to `to` inside a longer sum
    std::int64_t to = -1;       ///< add: its result is, or will be added up to, the stream at
    std::size_t operand = 0;    ///< add: which input is the stream
};

/// How the residual stream of a model runs.
struct Stream {
    std::vector<StreamPosition> positions;     ///< in the order in which a token passes them
    std::vector<std::vector<StreamUse>> uses;  ///< by part (prologue, blocks, epilogue) and op

    /// The position that block `b` starts from (the number of blocks: the epilogue), and those that it makes.
    std::int64_t input_of(std::size_t block) const;
    std::vector<std::int64_t> made_by(std::size_t block) const;
};

/// Follows the ops. Error(input) where the coordinates of the stream are not free: a norm on what is added to it or on
/// the stream itself (post-norm), an op other than norms and linears that reads it. `what` begins the sentence.
Stream find_stream(const Graph& graph, const std::string& what);

/// The ops of a part: 0 is the prologue, then the blocks, then the epilogue.
const std::vector<Op>& part_ops(const Graph& graph, std::size_t part);
std::vector<Op>& part_ops(Graph& graph, std::size_t part);

}  // namespace kerf::core
