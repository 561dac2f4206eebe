// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/pipeline/block_runner.hpp"
#include "core/pipeline/model.hpp"
#include "core/pipeline/stage.hpp"

namespace kerf::core {

/// One step of what a method of scope MODEL does to a model: units that go at a commit, or blocks.
struct ModelEdit {
    std::vector<Removal> removals;  ///< in the units of the model that it changes
    bool keep_divisor = true;
    std::int64_t keep_blocks = 0;  ///< the first ones; 0: all, and the removals count
};
/// The model after the step: a view, whose tensors are cut when they are read.
Model edited(const Model& model, const ModelEdit& edit);
nlohmann::json edits_json(const std::vector<ModelEdit>& edits);
std::vector<ModelEdit> edits_from(const nlohmann::json& list);

/// What a method of scope MODEL made of a model.
struct PrunedModel {
    Model model;  ///< the input, edited
    std::vector<ModelEdit> edits;
    std::map<std::string, double> metrics;  ///< the method's figures
};

/// One prune_model() call. `windows` is null where the recipe calibrates nothing; sweeps keep their states in files in
/// `scratch`. Of the hooks, `made` is not called.
PrunedModel prune_model(const Model& model, const MethodInstance& method, const Windows* windows,
                        const std::filesystem::path& scratch, const BlockRunner::Hooks& hooks);

/// Units of one axis that a method says will go: what plan_axes() answers.
struct PlannedRemoval {
    std::size_t axis = 0;  ///< its number in ModelPlan::axes
    kerf_axis_plan plan{};
};
struct ModelPlan {
    std::vector<Axis> axes;  ///< of the model, all of them
    std::vector<AxisFacts> facts;
    std::vector<PlannedRemoval> removals;  ///< of the axes that the method takes
};
ModelPlan plan_model(const Model& model, const MethodInstance& method, std::int64_t tokens);

}  // namespace kerf::core
