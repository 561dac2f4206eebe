// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/pipeline/tools.hpp"

namespace kerf::core {

/// Perplexities of a model on the recipe's texts: `{NAME: {"value", "standard_error", "tokens", "windows"}}`. Those of
/// `when` ("before", "after stage") and `stage` (-1: of none) that the journal knows are not measured again.
nlohmann::json perplexities(const RunTools& tools, const Model& model, const std::string& when, std::int64_t stage);

/// Perplexities of the result and, where the recipe asks for it, its agreement with the input model, which gives the
/// input model's perplexities too, into the report.
void evaluate_result(const RunTools& tools, const Model& result, nlohmann::json& report);

}  // namespace kerf::core
