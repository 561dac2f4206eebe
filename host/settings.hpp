// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <toml++/toml.h>

#include <string>
#include <string_view>
#include <vector>

namespace kerf::host {

/// The steps of a dotted path: `stage.0.override."model.layers.*".bits` has five. Error(input) on an empty step or an
/// open quote; `setting` names the whole in complaints.
std::vector<std::string> split_path(std::string_view path, const std::string& setting);

/// Applies "KEY=VALUE" to a recipe. VALUE is a TOML value; what is none is a text, so that plain words and paths need
/// no quotes. Tables on the way are made, elements of lists must exist. The new value's place is "--set KEY=VALUE".
void apply_setting(toml::table& recipe, const std::string& setting);

/// Puts a text at a dotted path; `place` is where complaints say that it comes from ("--output").
void put_text(toml::table& recipe, std::string_view path, const std::string& value, const std::string& place);

}  // namespace kerf::host
