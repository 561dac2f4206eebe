// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/pipeline/components.hpp"
#include "host/loader/manifest.hpp"

namespace kerf::host {

/// A plugin in this process. It is never unloaded, so its tables live as long as the process.
struct LoadedPlugin {
    std::filesystem::path file;
    Manifest manifest;
    std::vector<const kerf_method*> methods;
    std::vector<const kerf_adapter*> adapters;
};

/// Reads the manifest, refuses what cannot work, and only then loads the file and asks for its tables. Everything that
/// the plugin says is checked (sizes, slots, ids, option schemas, agreement with its manifest). Error(input) names the
/// file.
LoadedPlugin load_plugin(const std::filesystem::path& file, const HostVersions& host = this_host());

/// A file that could not be taken, and why.
struct PluginProblem {
    std::filesystem::path file;
    std::string message;
};

/// All plugins of a process, by (kind, id).
class Registry {
public:
    /// Every *.so of the folders (or files), in the order given and by name within each. What cannot be loaded, and
    /// everything that is there twice, is noted as a problem, not thrown. A folder that does not exist is Error(input).
    static Registry scan(const std::vector<std::filesystem::path>& places);

    const std::vector<LoadedPlugin>& plugins() const noexcept { return plugins_; }
    const std::vector<PluginProblem>& problems() const noexcept { return problems_; }
    /// Error(input) with the first problem, and how many more there are.
    void require_sound() const;
    /// What the core runs on.
    core::Components components() const;

private:
    void add(const std::filesystem::path& file);
    void refuse_duplicates(const LoadedPlugin& plugin) const;

    std::vector<LoadedPlugin> plugins_;
    std::vector<PluginProblem> problems_;
    std::vector<std::filesystem::path> seen_;
};

/// Where plugins are looked for: `explicit_places` (--plugin-path), KERF_PLUGIN_PATH (separated by ':'), and
/// ../lib/kerf beside the executable's folder when that exists. Never the current folder.
std::vector<std::filesystem::path> plugin_places(const std::vector<std::string>& explicit_places);

}  // namespace kerf::host
