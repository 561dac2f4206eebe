// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace kerf::core {

/// "0.1.0"
inline std::string version() { return "0.1.0"; }

}  // namespace kerf::core
