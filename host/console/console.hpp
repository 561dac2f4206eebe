// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/pipeline/run.hpp"

namespace kerf::host {

/// What goes to stderr while kerf works: log lines, and a bar or lines of progress. Calls may come from any thread.
class Console {
public:
    struct Settings {
        std::string log_level = "info";  ///< debug | info | warning | error | off
        bool quiet = false;              ///< errors only, no progress
        bool json = false;               ///< stdout is for a machine: progress only when a person watches stderr
    };
    /// Error(input) when the log level is unknown.
    explicit Console(const Settings& settings);
    ~Console();
    Console(const Console&) = delete;
    Console& operator=(const Console&) = delete;

    /// level as KERF_LOG_*
    void log(int level, const std::string& message);
    void progress(const std::string& phase, const std::string& detail, double done, double total);
    /// Takes the bar away; further progress draws it again.
    void clear();
    /// What the core is to call. `this` must outlive it.
    core::Observer observer();

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

/// From now on the first SIGINT or SIGTERM asks the run to stop after the current layer; a second one ends the process.
void catch_stop_signals();
bool stop_requested();

/// Writes all of it to stdout. A reader that has gone away is no error; Error(environment) when it cannot be written.
void write_out(std::string_view text);
/// One line on stderr, whatever else is going on.
void write_error_line(const std::string& line);

}  // namespace kerf::host
