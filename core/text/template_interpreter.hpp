// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/text/template_syntax.hpp"

namespace kerf::core::jinja {

/// Error(input), beginning with the program's `where` and the line, for whatever goes wrong.
std::string render(const Program& program, const nlohmann::ordered_json& variables);

}  // namespace kerf::core::jinja
