// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace kerf::core {

/// The report of a run as one HTML page that needs nothing but itself: no script, no font, no picture from elsewhere.
/// `run` is what run_recipe() gives (docs/report.md). Whatever is missing in it, or of another type than expected, is
/// left out.
std::string report_html(const nlohmann::json& run);

/// Writes report.json and report.html into `folder`, each whole or not at all.
void write_report(const nlohmann::json& run, const std::filesystem::path& folder);

}  // namespace kerf::core
