// SPDX-License-Identifier: Apache-2.0
#include "method.hpp"

KERF_PLUGIN(kerf::llm_pruner::LlmPruner)
