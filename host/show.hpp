// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/pipeline/recipe.hpp"
#include "core/pipeline/run.hpp"

namespace kerf::host {

/// What the commands print for people. Each takes what --json prints and leaves out what is not in it.
std::string show_plan(const core::Recipe& recipe, const core::Plan& plan);
std::string show_run(const nlohmann::json& run);
std::string show_evaluation(const nlohmann::json& evaluation);
std::string show_model(const nlohmann::json& model);

}  // namespace kerf::host
