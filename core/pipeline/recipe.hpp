// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/calibration/dataset.hpp"
#include "core/weights/tensor.hpp"

namespace kerf::core {

/// What the inputs of later weights see while a stage runs (design §4.4).
enum class Sequential { linear, group, block, none, shared };

struct ModelSpec {
    std::filesystem::path path;
    std::string device = "cpu";
    DType compute = DType::f32;       ///< f32 or bf16
    std::uint64_t memory_budget = 0;  ///< bytes, 0 = none
};

struct StageSpec {
    std::string method, version;  ///< version: ">=1.0", empty = any
    nlohmann::json options;       ///< object: what the recipe set, not yet validated against the method's schema
    std::vector<std::string> include, exclude;  ///< globs over linear names
    Sequential sequential = Sequential::group;
    std::vector<std::pair<std::string, nlohmann::json>> overrides;  ///< glob → option values, in the recipe's order
    // Of methods that remove structures.
    bool refit = false;        ///< least-squares refit of the weights that read a pruned axis
    double refit_damp = 0.01;  ///< share of mean(diag H)
    bool zeroed = false;       ///< keep all shapes: the columns of what went are zero
    std::optional<TextSource> calibration;
    std::map<std::string, std::string> where;  ///< option name → "recipe.toml:12", for errors
    std::string location;                      ///< "recipe.toml:10", of the [[stage]] header
};

struct PerplexitySpec {
    std::string name;
    TextSource text;
};

struct EvaluationSpec {
    bool before = true;
    bool between = true;  ///< perplexities of what each stage leaves, not of the last one's result alone
    std::vector<PerplexitySpec> perplexity;
    bool kl = false;
};

struct OutputSpec {
    std::filesystem::path path;
    std::string format = "hf";   ///< hf | gptq
    std::optional<DType> dtype;  ///< of unpacked tensors; none = as the input
    bool overwrite = false;
    std::uint64_t shard_bytes = 5'000'000'000;
};

struct Recipe {
    std::filesystem::path file;
    std::string text;  ///< after --set, canonical TOML: goes into the provenance block
    ModelSpec model;
    std::optional<TextSource> calibration;
    std::vector<StageSpec> stages;
    EvaluationSpec evaluation;
    OutputSpec output;
};

}  // namespace kerf::core
