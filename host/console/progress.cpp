// SPDX-License-Identifier: Apache-2.0
#include "host/console/progress.hpp"

#include <algorithm>
#include <cmath>

#include "core/support/text.hpp"
#include "host/console/format.hpp"

namespace kerf::host {
namespace {

constexpr double bar_interval = 0.1, line_interval = 10;  // seconds
constexpr double memory = 30;                             // seconds after which an old pace counts for a third
constexpr double least_to_judge = 1;                      // seconds before a pace is worth telling
constexpr int bar_cells = 24;

double share_done(const ProgressState& state) {
    return state.total > 0 ? std::clamp(state.done / state.total, 0.0, 1.0) : 0;
}

std::string drawn_bar(double share) {
    const int full = static_cast<int>(share * bar_cells);
    std::string out;
    for (int i = 0; i < bar_cells; ++i) out += i < full ? "█" : "░";
    return out;
}

}  // namespace

std::optional<std::string> ProgressMeter::update(const ProgressState& state, double now) {
    learn_pace(state, now);
    if (!due(state, now)) return {};
    shown_ = now;
    phase_ = state.phase;
    return bar_ ? bar_line(state) : plain_line(state);
}

/// Phases differ in speed, so old progress is forgotten by and by. A resumed run starts with much done: only what is
/// seen here counts.
void ProgressMeter::learn_pace(const ProgressState& state, double now) {
    if (started_ < 0) {
        started_ = seen_at_ = now;
        seen_done_ = state.done;
        return;
    }
    const double seconds = std::max(0.0, now - seen_at_), keep = std::exp(-seconds / memory);
    recent_seconds_ = recent_seconds_ * keep + seconds;
    recent_done_ = recent_done_ * keep + std::max(0.0, state.done - seen_done_);
    seen_at_ = now;
    seen_done_ = state.done;
}

bool ProgressMeter::due(const ProgressState& state, double now) const {
    return state.phase != phase_ || now - shown_ >= (bar_ ? bar_interval : line_interval);
}

std::optional<double> ProgressMeter::seconds_left(const ProgressState& state) const {
    if (seen_at_ - started_ < least_to_judge || recent_done_ <= 0) return {};
    return std::max(0.0, state.total - state.done) * recent_seconds_ / recent_done_;
}

std::string ProgressMeter::bar_line(const ProgressState& state) const {
    const double share = share_done(state);
    const auto left = seconds_left(state);
    std::string line = core::text(state.phase, " ", drawn_bar(share), " ", percent(share, 0));
    if (left) line += core::text("  ", core::format_seconds(std::round(*left)), " left");
    if (!state.detail.empty()) line += "  " + state.detail;
    return shortened(line, static_cast<std::size_t>(std::max(columns_ - 1, 20)));
}

std::string ProgressMeter::plain_line(const ProgressState& state) const {
    std::string line = core::text(state.phase, ": ", percent(share_done(state), 0));
    if (const auto left = seconds_left(state))
        line += core::text(", ", core::format_seconds(std::round(*left)), " left");
    if (!state.detail.empty()) line += core::text(" (", state.detail, ")");
    return line;
}

}  // namespace kerf::host
