// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace kerf::host {

/// Where a run is, as the core tells it: `done` of `total` units of work.
struct ProgressState {
    std::string phase, detail;
    double done = 0, total = 0;
};

/// Decides when a line of progress is due and what it says. The clock is the caller's, so that tests have their own.
class ProgressMeter {
public:
    /// `bar`: a line that is drawn again and again on a terminal of `columns`; otherwise lines that follow each other.
    ProgressMeter(bool bar, int columns) : bar_(bar), columns_(columns) {}

    /// The line to show at `now` (seconds of a steady clock), or nothing when none is due.
    std::optional<std::string> update(const ProgressState& state, double now);
    /// Seconds left at the present pace; nothing while that is not known.
    std::optional<double> seconds_left(const ProgressState& state) const;

private:
    void learn_pace(const ProgressState& state, double now);
    bool due(const ProgressState& state, double now) const;
    std::string bar_line(const ProgressState& state) const;
    std::string plain_line(const ProgressState& state) const;

    bool bar_;
    int columns_;
    std::string phase_;
    double started_ = -1, shown_ = 0, seen_at_ = 0, seen_done_ = 0;
    double recent_done_ = 0, recent_seconds_ = 0;  ///< decayed sums: what the last half minute or so achieved
};

}  // namespace kerf::host
