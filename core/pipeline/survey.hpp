// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "core/pipeline/tools.hpp"

namespace kerf::core {

/// A stage as its survey goes through the blocks: the axes that are surveyed and nothing else, with what asking takes
/// in the place of what pruning takes, one Gram matrix at a time.
Stage survey_of(const Stage& stage);

/// Streams the stage's whole input once, has the method say what removing units of each surveyed axis costs, and fixes
/// how many units go of each. Curves lie in the journal, block by block; blocks that an earlier run has surveyed are
/// only streamed through, and not even that once all are, so that the counts are those of a run that was not
/// interrupted.
void survey(const RunTools& tools, std::size_t index, Stage& stage, const Model& input);

}  // namespace kerf::core
