// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace kerf::core {

/// metrics.jsonl of a run: one line an event, each on the disk as soon as it has happened (docs/report.md). For whoever
/// watches the run; nothing reads it back, so it is flushed but not synced.
class Events {
public:
    explicit Events(std::filesystem::path file) : file_(std::move(file)) {}
    /// Adds `"event"` and `"time"` (Unix seconds) to the figures. Those that are no numbers in JSON become null.
    void add(std::string_view event, nlohmann::json figures) const;

private:
    std::filesystem::path file_;
};

}  // namespace kerf::core
