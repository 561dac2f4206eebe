// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/curvature/moments.hpp"
#include "core/exec/states.hpp"
#include "core/pipeline/output.hpp"
#include "core/pipeline/stage.hpp"
#include "core/pipeline/structure.hpp"

namespace kerf::core {

/// Linears of one block that read the same value (one Gram, one factor, one column order), and the axes that lie along
/// that value.
struct InputGroup {
    std::string value;         ///< the name of what they read
    std::size_t first_op = 0;  ///< the earliest op that reads it
    std::size_t reader = 0;    ///< one of the linears, which the value is named after
    std::int64_t features = 0;
    std::vector<const Target*> targets;
    std::vector<const AxisTarget*> axes;
    bool lent = false;        ///< whether the moments are for the next stage too
    std::uint64_t needs = 0;  ///< KERF_NEEDS_* of all of them
};
/// Groups of what a stage does in a block, in the order in which their inputs are computed.
std::vector<InputGroup> input_groups(const std::vector<Op>& ops, const Stage& stage, std::size_t block);

/// One pass over the calibration tokens through one block, with its linears compressed on the way (design §4.4).
/// `states` holds the block's input under "x" and, after run(), its output.
class BlockRunner {
public:
    struct Hooks {
        /// A linear is done: write it down. Called in the order of the graph's input groups.
        std::function<void(const Target&, const Compressed&)> made;
        /// An axis is pruned; the weights are rounded to what will lie on disk.
        std::function<void(const AxisTarget&, Pruned&&)> pruned;
        std::function<void(double flops)> progress;
        std::function<void(int level, const std::string&)> log;
        std::function<void()> check_cancelled;
        /// Takes each axis with the moments of its input instead of anything being done to it; null: prune.
        std::function<void(const AxisTarget&, Curvature&)> survey = {};
    };
    /// output_dtype: what the written weight is rounded to, so that what follows sees what is on disk.
    BlockRunner(const Model& model, const Stage& stage, std::size_t block, const OutputLayout& layout,
                const Hooks& hooks);

    using Grams = std::map<std::string, Curvature>;  ///< by value

    /// For a method without calibration.
    void compress_without_data();
    /// For a stage that shares the Grams of the one before, `lent` by it.
    void compress_with(Grams& lent);
    /// Before run(): what `groups` of the next stage need will be wanted, of the columns that stay.
    void lend(const std::vector<InputGroup>& groups);
    Grams take_lent() { return std::move(lent_); }
    /// `last`: whether the block's output is not needed any more. `dense`: what the uncompressed model makes of the
    /// tokens, for stages with a dense stream, kept up in the same way as `states`; else null.
    void run(const Units& units, States& states, States* dense, DType compute, bool last);
    /// How often run() has the tokens go through the block.
    static int block_runs(Sequential sequential, bool last) { return sequential == Sequential::block && !last ? 2 : 1; }

private:
    using Accumulators = std::map<std::string, std::unique_ptr<MomentAccumulator>>;
    /// The tokens as one model sees them.
    struct Stream {
        States* states;
        Program* program;
    };
    /// The compressed model first, then, perhaps, the dense one.
    using Streams = std::vector<Stream>;

    void run_one_pass(const Units& units, const Streams& streams, bool last);
    void run_whole_block(const Units& units, const Streams& streams, bool last);
    void segment(const Units& units, const Streams& streams, std::size_t first, std::size_t last,
                 const std::vector<std::string>& live_out, Accumulators& sums);
    Values run_unit(const Units& units, std::int64_t unit, const Stream& stream, std::size_t first, std::size_t last,
                    const std::vector<std::string>& live_out, const Accumulators& sums) const;
    std::vector<std::string> read_by(std::size_t first, std::size_t last, const Accumulators& sums) const;
    Curvature curvature_of(const InputGroup& group, MomentAccumulator& sums) const;
    void compress_group(const InputGroup& group, Curvature& curvature, Program* program);
    Compressed compress_one(const Target& target, Curvature* curvature);
    std::vector<bool> prune_group(const InputGroup& group, Curvature* curvature, Program* program);

    const Model& model_;
    const Stage& stage_;
    std::size_t block_;
    const std::vector<Op>& ops_;
    const OutputLayout& layout_;
    const Hooks& hooks_;
    std::vector<InputGroup> groups_;
    Grams lent_;
    std::int64_t input_width_ = 0;
};

}  // namespace kerf::core
