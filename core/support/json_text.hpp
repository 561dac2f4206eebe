// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace kerf::core {

/// Parses JSON that nobody vouches for: at most 64 levels deep, no key twice in an object. Error(input) that begins
/// with `what` (the file's name) and gives the place.
nlohmann::json parse_json(std::string_view text, const std::string& what);

/// The same for a file of at most 64 MiB.
nlohmann::json read_json(const std::filesystem::path& path);

}  // namespace kerf::core
