// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/pipeline/stage.hpp"

namespace kerf::core {

/// What became of one linear that reads a pruned axis.
struct PrunedConsumer {
    std::size_t op = 0;
    std::vector<float> weight;  ///< float32 [out, in] in the old shape; the columns that go are 0
    std::vector<float> bias;    ///< where the method changed it; else empty
    std::map<std::string, double> metrics;
};
/// What became of one axis.
struct Pruned {
    std::vector<std::int64_t> units;  ///< that go, ascending
    std::vector<PrunedConsumer> consumers;
};

/// tr(D H Dᵀ) / tr(W H Wᵀ) of the difference D, or the ratio of squared norms where there is no H.
double relative_error(const std::vector<float>& before, const std::vector<float>& after, std::int64_t rows,
                      const Curvature* curvature);

/// Which columns of a linear go with units of the axis that it reads.
std::vector<bool> columns_lost(const Axis& axis, const std::vector<std::int64_t>& units, const std::string& module,
                               std::int64_t columns);

/// The units that a plan stands for until the method has chosen: the last ones of each run.
std::vector<std::int64_t> last_units(const Axis& axis, std::int64_t count);

/// Has the method prune one axis where it has not chosen yet, and refits the consumers where the stage asks for it.
/// `curvature`: of the input of its consumers, null without data.
Pruned prune_axis(const Model& model, const Stage& stage, const AxisTarget& target, Curvature* curvature,
                  const std::function<void(int level, const std::string&)>& log);

/// What the method says that removing units of one axis costs.
AxisCurve survey_axis(const Model& model, const AxisTarget& target, Curvature& curvature,
                      const std::function<void(int level, const std::string&)>& log);

/// The model as a stage will leave it, as far as it can be known before: graph and shapes are right, but for which
/// units went. `model` itself for a stage that removes nothing.
Model planned_result(const Model& model, const Stage& stage);

/// Units that went, and new weights of linears by tensor of the graph, as the file holds them, in the old shape.
struct PrunedParts {
    std::vector<Removal> removals;
    std::map<std::string, std::shared_ptr<const std::vector<float>>> weights;
    void add(const Model& model, const AxisTarget& target, Pruned&& pruned);
};
/// The model with the parts in it: smaller, or with the old shapes where the stage keeps them.
Model pruned_model(const Model& model, const Stage& stage, const PrunedParts& parts);

/// A block that an earlier run finished, as later blocks saw it: the old shapes, with the weights that `written` holds.
Model streamed_model(const Model& model, const Stage& stage, std::size_t block, const std::vector<Removal>& removals,
                     const Checkpoint& written);

nlohmann::json removals_json(const std::vector<Removal>& removals);
std::vector<Removal> removals_from(const nlohmann::json& entry);

}  // namespace kerf::core
