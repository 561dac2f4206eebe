// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace kerf::host {

/// What `kerf plugins check FILE` found.
struct CheckReport {
    std::vector<std::string> passed;    ///< what was tried and holds, one line each
    std::vector<std::string> problems;  ///< what is wrong, one sentence each
    bool sound() const noexcept { return problems.empty(); }
};

/// Loads a plugin in a child process and puts it through its paces: manifest, tables, option schemas, cost() against
/// what compress() really allocates, equal bytes when run twice, every buffer given back, nothing written to stdout or
/// stderr, adapters that neither claim nor crash on a foreign configuration. A plugin that crashes, calls exit() or
/// does not end within `seconds` is a finding, not the end of kerf. Call it while no other thread runs: the child is a
/// fork.
CheckReport check_plugin(const std::filesystem::path& file, int seconds = 5);

}  // namespace kerf::host
