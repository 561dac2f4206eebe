// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace kerf::host {

/// `kerf inspect --axes` for people: axes that differ in the numbers of their names alone are shown once.
std::string show_axes(const nlohmann::json& axes);

}  // namespace kerf::host
