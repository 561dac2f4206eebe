// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

namespace kerf::core {

/// The machine that a run's figures of time and memory are of: `processor`, `cores`, `threads` (of ours),
/// `memory_bytes`, `system`.
nlohmann::json environment_json();

}  // namespace kerf::core
