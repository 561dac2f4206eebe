// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace kerf::host {

/// Hears how a trial goes.
class TrialReporter {
public:
    virtual ~TrialReporter() = default;
    virtual void begin(const std::string& step) = 0;  ///< "gptq: compressing a layer"
    virtual void problem(const std::string& what) = 0;
};

/// Loads a plugin into this process and calls everything that it offers with small made-up data. Meant for a process
/// that may die of it.
void try_plugin(const std::filesystem::path& file, TrialReporter& reporter);

}  // namespace kerf::host
