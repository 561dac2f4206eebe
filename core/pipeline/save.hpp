// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/pipeline/model.hpp"
#include "core/pipeline/output.hpp"

namespace kerf::core {

/// The config.json with which the model's own class in transformers builds exactly this graph, or nothing when no
/// setting of it can (widths that differ between blocks, a norm with another divisor, heads that its config cannot
/// size). Sizes go under the keys that the config has for them already, or under a key that makes the adapter build the
/// graph: what the adapter makes of the new config decides.
std::optional<nlohmann::json> stock_config(const Model& model, const Components& components);

/// config.json of an output, and whether the model's own class in transformers can take it; if not, `config` goes into
/// an export (core/export).
struct FinalConfig {
    nlohmann::json config;
    bool stock = true;
};
FinalConfig final_config(const Model& model, const OutputLayout& layout, const Components& components);

struct SaveOptions {
    std::optional<DType> dtype;  ///< of floating tensors; none: as they are stored
    std::uint64_t shard_bytes = 5'000'000'000;
};

/// Writes a model (an edited one, as a rule) as a checkpoint: safetensors, config.json, tokenizer files, and kerf.json
/// with the graph, by which Model::open() finds the shapes again where config.json cannot say them. The folder appears
/// when it is whole. Error(input) when it is there already; Error(environment) when the disk is full.
void save_model(const Model& model, const Components& components, const std::filesystem::path& folder,
                const SaveOptions& options = {});

}  // namespace kerf::core
