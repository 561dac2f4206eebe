// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/exec/gradient_sweep.hpp"
#include "core/pipeline/model_scope.hpp"
#include "core/pipeline/stage.hpp"

namespace kerf::core {

/// What one axis loses, in the units of the stage's input.
struct AxisLoss {
    std::size_t axis = 0;  ///< its number in Stage::all_axes
    std::int64_t unit_parameters = 0;
    std::vector<std::int64_t> units;
};

/// A stage whose method sees the whole model at once: as it plans, and, after settle(), as it has decided.
struct ModelStage {
    std::shared_ptr<const MethodInstance> method;
    /// Whether all that goes are units inside blocks, of axes that linears with one input read: then the stream of
    /// blocks cuts them (Stage::axes), and can refit those linears. Else `result` is written as it is.
    bool by_axes = true;
    bool exact = true;  ///< false: the plan says about how much goes
    Model result;
    std::vector<AxisLoss> losses;  ///< of axes of blocks that stay
    std::uint64_t scratch_bytes = 0, largest_tensor = 0;
    double flops = 0;

    struct Sweeps {
        std::int64_t count = 0, windows = 0, length = 0;
        bool squares = false;
        std::set<std::string> tensors;
    };
    Sweeps sweeps;

    /// Peak memory while the method decides, and FLOPs and temporary files of its sweeps.
    std::uint64_t memory(const Graph& graph, std::int64_t threads) const;
    double sweep_flops(const Graph& graph) const;
    std::uint64_t disk_bytes(const Graph& graph) const;

private:
    SweepCost sweep_cost(const Graph& graph, std::int64_t threads) const;
};

/// Asks the method what it will do, and fills the stage with that. Error(input) for a plan that cannot be, and for
/// refit and zeroed results of what has no linears to refit.
void plan_model_stage(Stage& stage, const StageSpec& spec, const Model& input,
                      std::shared_ptr<const MethodInstance> method);

/// The stage with what the method really did.
void settle(Stage& stage, const Model& input, const std::vector<ModelEdit>& edits);

}  // namespace kerf::core
