// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "host/loader/trial.hpp"
#include "kerf/abi.h"

namespace kerf::host {

/// Tries a method of the scope KERF_SCOPE_BASES on a small residual stream: its plan, a survey, and a basis at each
/// position, which has to be orthonormal and the same on 1 and on 3 threads.
void try_bases(const kerf_method& method, void* self, const std::string& id, TrialReporter& reporter);

}  // namespace kerf::host
