// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/calibration/dataset.hpp"
#include "core/graph/edit.hpp"
#include "core/pipeline/model.hpp"
#include "core/pipeline/recipe.hpp"
#include "core/plugin_api/axis.hpp"
#include "kerf/abi.h"

namespace kerf::core {

/// One create()d instance of a method: one set of option values.
class MethodInstance {
public:
    MethodInstance(const MethodComponent& method, const kerf_host* host, nlohmann::json options);
    ~MethodInstance();
    MethodInstance(const MethodInstance&) = delete;
    MethodInstance& operator=(const MethodInstance&) = delete;

    struct Cost {
        std::uint64_t scratch_bytes = 0;
        double flops = 0, bits_per_weight = 32;
        std::string layout = "dense/1";
        int bits = 0;
        std::int64_t group_size = -1;
    };
    Cost cost(const std::string& linear, std::int64_t out, std::int64_t in, std::int64_t tokens) const;
    void compress(kerf_job* job, kerf_layer* layer) const;
    /// Scopes AXES and MODEL: what the method will take from each axis.
    std::vector<kerf_axis_plan> plan_axes(const std::vector<kerf_axis_shape>& shapes) const;
    void prune(kerf_job* job, kerf_axis* axis) const;
    /// Scope AXES: what removing units of the axis costs; checked.
    AxisCurve survey(kerf_job* job, kerf_axis* axis) const;
    /// Units that go of each axis; of one without a curve what its shape says. Not checked.
    std::vector<std::int64_t> allocate(const std::vector<kerf_axis_shape>& shapes,
                                       const std::vector<const AxisCurve*>& curves) const;
    void prune(kerf_job* job, kerf_model* model) const;
    const nlohmann::json& options() const noexcept { return options_; }
    const MethodComponent& method() const noexcept { return method_; }
    /// KERF_NEEDS_* of this set of options.
    std::uint64_t needs() const noexcept;
    /// Those of them that calibration data is for.
    std::uint64_t moments() const noexcept { return needs() & ~std::uint64_t(KERF_NEEDS_OWN_KEYS); }
    /// For a method of the scope KERF_SCOPE_BASES.
    void plan_bases(const kerf_residual* residual, kerf_basis_plan* plan) const;
    void survey(kerf_job* job, const kerf_residual* residual, std::int64_t position,
                const kerf_covariance* covariance) const;
    void choose_basis(kerf_job* job, const kerf_residual* residual, std::int64_t position,
                      const kerf_covariance* covariance, DLTensor* q) const;

private:
    const MethodComponent& method_;
    nlohmann::json options_;
    void* self_ = nullptr;
};

/// A linear that a stage compresses. Blocks are numbered as in the graph; blocks.size() stands for the epilogue.
struct Target {
    std::size_t block = 0, op = 0;
    std::string name;
    std::int64_t out = 0, in = 0;
    std::shared_ptr<const MethodInstance> method;
    MethodInstance::Cost cost;
};

/// An axis that a stage prunes, and the linears of its block that read it, all of one value.
struct AxisTarget {
    const Axis* axis = nullptr;  ///< of Stage::all_axes
    AxisFacts facts;
    std::size_t block = 0;
    std::vector<std::size_t> consumers;  ///< ops
    std::shared_ptr<const MethodInstance> method;
    std::int64_t remove = 0;  ///< units
    std::uint64_t scratch_bytes = 0;
    double flops = 0;
    std::optional<std::vector<std::int64_t>> units;  ///< those that go, where they are known before: scope MODEL
    /// Whether a survey comes first; `remove` is about right until then.
    bool surveyed = false;
    std::uint64_t survey_bytes = 0;
    double survey_flops = 0;
    double cost = 0;  ///< what the survey says of the units that go, once it has been
};
struct BasisStage;
struct ModelStage;

/// A stage with everything about it checked.
struct Stage {
    std::string method_id;
    const MethodComponent* method = nullptr;
    Sequential sequential = Sequential::group;
    std::vector<Target> targets;             ///< in the order of the graph
    std::shared_ptr<const Windows> windows;  ///< null for a method that needs no calibration
    bool calibrated = false;                 ///< sees calibration data
    bool dense_stream = false;               ///< and what the model was before the stage makes of it
    std::optional<Edit> expanded;    ///< of the stage's input, where query heads get keys and values of their own first
    nlohmann::json options;          ///< of linears and axes without override
    std::vector<std::string> notes;  ///< what a person should know before the run: options that do nothing
    // Of a stage that removes structures.
    bool structural = false;
    std::shared_ptr<const std::vector<Axis>> all_axes;  ///< of the stage's input
    std::vector<AxisTarget> axes;                       ///< in the order of the graph
    bool refit = false, zeroed = false;
    double refit_damp = 0;
    std::shared_ptr<const MethodInstance> own;  ///< with the stage's own options
    std::vector<std::size_t> offered;           ///< of all_axes, those that a method of scope AXES is shown
    std::shared_ptr<const BasisStage> bases;  ///< of a method that turns the residual stream; there are no targets then
    std::shared_ptr<const ModelStage> whole;  ///< of a method that sees the whole model; `structural` then

    /// Whether the stage sends calibration tokens through the blocks.
    bool has_stream() const { return calibrated && !bases && sequential != Sequential::shared; }
    /// The stage's input as the stage works on it.
    Model start(const Model& input) const { return expanded ? input.edited(*expanded) : input; }
    std::vector<const Target*> in_block(std::size_t block) const;
    std::vector<const AxisTarget*> axes_in_block(std::size_t block) const;
    /// Whether the tokens go through the blocks once before anything is removed, to see what removing would cost.
    bool surveys() const;
    /// The last block with something to do.
    std::size_t last_block() const;
};

/// Finds the method, validates every option (overrides too), picks the linears, loads the calibration windows, asks for
/// costs. Errors (input) name file and line.
/// `windows`: those of the stage when they are known already, or of the stage before for one that shares its Grams.
Stage resolve_stage(const Recipe& recipe, std::size_t index, const Model& model, const Components& components,
                    std::shared_ptr<const Windows> windows = nullptr);

/// Refuses a number of units that the axis cannot lose. `what`: "plans to remove".
void check_count(const std::string& method, const Axis& axis, std::int64_t count, const char* what);

/// Linears among a block's ops whose columns lie on the axis.
std::vector<std::size_t> consumers_of(const Axis& axis, const std::vector<Op>& ops);

/// The ops of block `block`, or of the epilogue for blocks.size().
const std::vector<Op>& block_ops(const Graph& graph, std::size_t block);

}  // namespace kerf::core
