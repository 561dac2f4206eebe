// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/support/file.hpp"

namespace kerf::core {

/// What a run has finished, one synced JSON line each. A line is written after the data that it speaks of is on the
/// disk; a torn last line is dropped when the journal is read again.
class Journal {
public:
    /// A new journal whose first line is `identity`.
    static Journal create(const std::filesystem::path& file, const nlohmann::json& identity);
    /// An earlier run's. Error(input) when its identity is another: the recipe, its input, or a plugin has changed.
    static Journal reopen(const std::filesystem::path& file, const nlohmann::json& identity);

    void add(const nlohmann::json& entry);
    /// Lines after the first, in order.
    const std::vector<nlohmann::json>& entries() const noexcept { return entries_; }
    /// Those whose `kind` and `stage` are these, in order. Valid until the next add().
    std::vector<const nlohmann::json*> of_stage(const std::string& kind, std::int64_t stage) const;
    /// The entry whose `kind`, `stage` and `block` are these, or null.
    const nlohmann::json* find(const std::string& kind, std::int64_t stage, std::int64_t block) const;

private:
    File file_;
    std::uint64_t end_ = 0;
    std::vector<nlohmann::json> entries_;
};

}  // namespace kerf::core
