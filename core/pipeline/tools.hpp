// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "core/pipeline/events.hpp"
#include "core/pipeline/journal.hpp"
#include "core/pipeline/meter.hpp"
#include "core/pipeline/prepared.hpp"
#include "core/support/text.hpp"

namespace kerf::core {

/// What the parts of a run work with.
struct RunTools {
    const Recipe& recipe;
    const Prepared& prepared;
    Journal& journal;
    const Events& events;
    Meter& meter;
    const std::filesystem::path& folder;  ///< the unfinished output

    /// Of a stage's result: the output itself for the last one.
    std::filesystem::path folder_of(std::size_t stage) const {
        return stage + 1 >= prepared.stages.size() ? folder : folder / text("stage-", stage);
    }
};

}  // namespace kerf::core
