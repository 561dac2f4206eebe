// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "kerf/abi.h"

namespace kerf::core {

/// A loaded method or adapter and where it is from. The tables live as long as the process: plugins are never unloaded.
struct MethodComponent {
    std::string id, version, plugin;
    std::filesystem::path file;
    const kerf_method* table = nullptr;
};
struct AdapterComponent {
    std::string id, version, plugin;
    std::filesystem::path file;
    const kerf_adapter* table = nullptr;
};

/// What the host's loader found; the core runs on it.
struct Components {
    const kerf_host* host = nullptr;  ///< the table that the plugins were given: core/plugin_api/host_table.hpp
    std::vector<MethodComponent> methods;
    std::vector<AdapterComponent> adapters;
    const MethodComponent* method(const std::string& id) const;
};

}  // namespace kerf::core
