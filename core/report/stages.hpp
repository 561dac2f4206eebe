// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

namespace kerf::core::report {

/// One stage of a run (docs/report.md) as a section of the page: facts, options, plots by block, all figures.
std::string stage_section(const nlohmann::json& stage, std::size_t number);

}  // namespace kerf::core::report
