// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace kerf::host {

/// What a stage of a plan or of a report removes: "8 of 16 KV groups (50 %), 1408 of 2816 MLP channels (50 %)", or
/// nothing. `axes`: objects with kind, units, and removed (a number or a list); `blocks`: {"before", "after"}.
std::string show_pruned(const nlohmann::json& axes, const nlohmann::json& blocks);

}  // namespace kerf::host
