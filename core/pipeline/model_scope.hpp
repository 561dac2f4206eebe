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

/// What a method of scope MODEL made of a model.
struct PrunedModel {
    Model model;                                ///< the input, edited: a view, whose tensors are cut when they are read
    std::vector<std::vector<Removal>> commits;  ///< what went at each commit, in the units of the model that it changed
    std::map<std::string, double> metrics;      ///< the method's figures
};

/// One prune_model() call. `windows` is null where the recipe calibrates nothing; sweeps keep their states in files in
/// `scratch`. Of the hooks, `made` is not called.
PrunedModel prune_model(const Model& model, const MethodInstance& method, const Windows* windows,
                        const std::filesystem::path& scratch, const BlockRunner::Hooks& hooks);

/// Units of each axis that a method says will go, by the axes' names: what plan_axes() answers.
struct PlannedRemoval {
    std::string axis;
    std::int64_t remove = 0;
    bool exact = true;
    std::uint64_t scratch_bytes = 0;
    double flops = 0;
};
std::vector<PlannedRemoval> plan_model(const Model& model, const MethodInstance& method, std::int64_t tokens);

}  // namespace kerf::core
