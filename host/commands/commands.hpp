// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "host/command_line.hpp"
#include "host/console/console.hpp"
#include "host/loader/plugin.hpp"

namespace kerf::host {

/// One function a command: does it and gives the exit code. What goes wrong is thrown.
int run_command(const CommandLine& line, Console& console);
int plan_command(const CommandLine& line, Console& console);
int eval_command(const CommandLine& line, Console& console);
int convert_command(const CommandLine& line, Console& console);
int generate_command(const CommandLine& line, Console& console);
int inspect_command(const CommandLine& line, Console& console);
int plugins_command(const CommandLine& line, Console& console);
int describe_command(const CommandLine& line, Console& console);
int check_command(const CommandLine& line, Console& console);

/// Any command line, whatever may come of it: exit code 0 (done), 1 (our mistake), 2 (bad input or environment; one
/// line on stderr says what) or 130 (interrupted).
int run_kerf(const std::vector<std::string>& arguments) noexcept;

/// Takes --threads to heart.
void use_threads(const CommandLine& line);
/// The plugins that --plugin-path, KERF_PLUGIN_PATH and the installation offer; what cannot be loaded is noted in them.
Registry find_plugins(const CommandLine& line);
/// One JSON object and a line end on stdout.
void write_json(const nlohmann::json& value);

}  // namespace kerf::host
