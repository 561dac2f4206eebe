// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/graph/graph.hpp"

namespace kerf::core {

/// Models that no class of transformers can express are exported with a module that runs any graph, modeling_kerf.py,
/// and a config.json of their own (docs/export.md):
///
///     {"model_type": "kerf", "auto_map": {...}, ..., "kerf": {"family_config": {...}, "graph": {...}}}
///
/// Their model_type is not the family's: the family's own class would load such weights in part, or load all of them
/// and compute something else.

/// The config.json of an export: `config`, the one that the model would have otherwise, goes in whole.
nlohmann::json exported_config(const nlohmann::json& config, const Graph& graph);

/// What a config.json that was read says of the family: of an exported one the config that went in, any other as it
/// is. Error(input), which begins with `file`, for an export without it.
nlohmann::json family_config(nlohmann::json config, const std::string& file);

/// The graph of an exported config.json, null when it is none. Error(input) as parse_graph's.
nlohmann::json exported_graph(const nlohmann::json& config, const std::string& file);

/// Writes modeling_kerf.py into `folder`.
void write_modeling_code(const std::filesystem::path& folder);

}  // namespace kerf::core
