// SPDX-License-Identifier: Apache-2.0
#include "core/export/export.hpp"

#include <utility>

#include "core/export/modeling_source.hpp"
#include "core/support/error.hpp"
#include "core/support/file.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

constexpr const char* model_type = "kerf";
constexpr const char* module_file = "modeling_kerf.py";

/// What transformers itself looks for in every config, whatever the model.
constexpr const char* common_keys[] = {
    "dtype",     "torch_dtype",       "bos_token_id",        "eos_token_id",        "pad_token_id",
    "use_cache", "initializer_range", "quantization_config", "transformers_version"};

bool is_exported(const json& config) {
    return config.is_object() && config.contains("model_type") && config["model_type"] == model_type;
}

/// A part of "kerf", which every exported config has.
const json& part(const json& config, const char* key, const std::string& file) {
    const auto kerf = config.find("kerf");
    if (kerf == config.end() || !kerf->is_object() || !kerf->contains(key) || !(*kerf)[key].is_object())
        bad_input(file, ": model_type is \"", model_type, "\", but there is no object \"kerf\" with \"", key,
                  "\" in it; is this the config.json that kerf wrote?");
    return (*kerf)[key];
}

}  // namespace

json exported_config(const json& config, const Graph& graph) {
    json out{{"architectures", {"KerfForCausalLM"}},
             {"model_type", model_type},
             {"auto_map",
              {{"AutoConfig", "modeling_kerf.KerfConfig"}, {"AutoModelForCausalLM", "modeling_kerf.KerfForCausalLM"}}},
             {"kerf", {{"family_config", config}, {"graph", graph_json(graph)}}}};
    for (const char* key : common_keys)
        if (config.contains(key)) out[key] = config[key];
    return out;
}

json family_config(json config, const std::string& file) {
    if (!is_exported(config)) return config;
    json family = part(config, "family_config", file);
    // transformers keeps these up to date when it saves the model again.
    for (const char* key : {"dtype", "torch_dtype", "quantization_config"}) {
        family.erase(key);
        if (config.contains(key)) family[key] = config[key];
    }
    return family;
}

json exported_graph(const json& config, const std::string& file) {
    return is_exported(config) ? part(config, "graph", file) : json();
}

void write_modeling_code(const std::filesystem::path& folder) {
    write_atomically(folder / module_file, std::string(modeling_source));
}

}  // namespace kerf::core
