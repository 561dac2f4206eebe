// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/calibration/dataset.hpp"
#include "core/exec/program.hpp"
#include "core/support/file.hpp"

namespace kerf::core {

/// Token windows cut into units of work. A unit is what one thread runs at a time: whole windows, enough of them for
/// efficient matrix products. The cut depends on the windows alone.
class Units {
public:
    /// At most `tokens` tokens to a unit, but one window at least.
    explicit Units(const Windows& windows, std::int64_t tokens = unit_tokens)
        : windows_(&windows),
          per_unit_(std::max<std::int64_t>(1, tokens / std::max<std::int64_t>(1, windows.length))) {}

    /// Tokens of a unit of a gradient sweep. With squares a unit is one window; else windows are so few that one unit
    /// would be a large share of them: an even number of units, or one of two threads would often have none.
    static std::int64_t sweep_tokens(std::int64_t samples, std::int64_t length, bool squares) {
        if (squares) return length;
        const std::int64_t most = std::max<std::int64_t>(1, unit_tokens / std::max<std::int64_t>(1, length));
        const std::int64_t units = 2 * ((samples + 2 * most - 1) / (2 * most));
        return (samples + units - 1) / std::max<std::int64_t>(1, units) * length;
    }

    std::int64_t count() const { return (windows_->samples + per_unit_ - 1) / per_unit_; }
    std::int64_t tokens() const { return windows_->samples * windows_->length; }
    std::int64_t length() const { return windows_->length; }
    /// Tokens of a full unit.
    std::int64_t largest() const { return std::min(per_unit_, windows_->samples) * windows_->length; }
    Batch batch(std::int64_t unit) const {
        return {std::min(per_unit_, windows_->samples - unit * per_unit_), windows_->length};
    }
    std::int64_t first_token(std::int64_t unit) const { return unit * per_unit_ * windows_->length; }
    /// Calls `visit(first, tokens)` for the rows of a unit that are no padding, run by run.
    template <class Visit>
    void each_run(std::int64_t unit, Visit&& visit) const {
        const std::int64_t samples = batch(unit).tokens() / windows_->length;
        if (windows_->used.empty()) return visit(std::int64_t{0}, samples * windows_->length);
        for (std::int64_t i = 0; i < samples; ++i)
            visit(i * windows_->length, windows_->used[std::size_t(unit * per_unit_ + i)]);
    }
    std::span<const std::int64_t> ids(std::int64_t unit) const {
        return std::span(windows_->ids).subspan(std::size_t(first_token(unit)), std::size_t(batch(unit).tokens()));
    }
    const Windows& windows() const { return *windows_; }

    /// Enough rows for a matrix product near its peak; more would only cost memory.
    static constexpr std::int64_t unit_tokens = 512;

private:
    const Windows* windows_;
    std::int64_t per_unit_;
};

/// Activations of all units under names, in nameless files: their size never counts against memory, whatever the number
/// of calibration tokens; the system's page cache keeps them near while it has room. put() and get() of different units
/// may run at once. A value behind a dispatch has fewer rows than its unit has tokens; get() gives as many as were put.
class States {
public:
    States(const Units& units, std::filesystem::path folder, DType dtype)
        : units_(units), folder_(std::move(folder)), dtype_(dtype) {}

    enum class Room { now, when_written };
    /// Makes room on the disk for a value with rows for all tokens, or lets it grow as rows are put; not beside put()
    /// or get().
    void declare(const std::string& name, std::int64_t features, Room room = Room::now);
    void drop(const std::string& name);
    void rename(const std::string& from, const std::string& to);
    void put(const std::string& name, std::int64_t unit, const Value& value);
    Value get(const std::string& name, std::int64_t unit) const;
    bool has(const std::string& name) const { return slots_.contains(name); }
    std::int64_t features(const std::string& name) const { return slots_.at(name).features; }

private:
    struct Slot {
        std::int64_t features = 0;
        std::vector<std::int64_t> rows;  ///< of each unit
        Room room = Room::now;
        File file;
    };
    const Units& units_;
    std::filesystem::path folder_;
    DType dtype_;
    File take_file(std::uint64_t bytes);
    std::map<std::string, Slot> slots_;
    std::vector<File> spare_;  ///< of dropped values: their pages are there already, new files would need new ones
};

}  // namespace kerf::core
