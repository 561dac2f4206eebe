// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace kerf::core::report {

/// What a stage removed, as a part of its section: the share by block, parameters, and the width of every axis. Nothing
/// for a stage that removes no units.
std::string pruning_part(const nlohmann::json& stage);

}  // namespace kerf::core::report
