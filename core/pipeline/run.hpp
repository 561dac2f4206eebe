// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/pipeline/components.hpp"
#include "core/pipeline/recipe.hpp"

namespace kerf::core {

/// What a run tells whoever watches it. Calls come from the thread that called run(). All members may be empty.
struct Observer {
    /// `done` of `total` units of work (FLOPs) in what is named ("gptq", "evaluate"); `detail` is the current layer.
    std::function<void(const std::string& phase, const std::string& detail, double done, double total)> progress;
    std::function<void(int level, const std::string& message)> log;  ///< level as KERF_LOG_*
    std::function<bool()> cancelled;  ///< asked between layers; true ends the run (Fault::cancelled)
};

struct PlannedLinear {
    std::string name;
    std::int64_t out_features = 0, in_features = 0;
    double bits_per_weight = 0;
    std::uint64_t output_bytes = 0;
};
struct PlannedAxis {
    std::string name, kind;
    std::int64_t units = 0, removed = 0, removed_parameters = 0;
};
struct PlannedStage {
    std::string method;
    std::vector<PlannedLinear> linears;
    std::vector<PlannedAxis> axes;
    std::int64_t blocks_before = 0, blocks_after = 0, parameters_before = 0, parameters_after = 0;
    bool exact = true;             ///< false: a pruner knows about how much goes alone, and sizes are estimates
    std::int64_t pass = 0;         ///< stages with the same number go through the blocks together
    std::int64_t block_runs = 0;   ///< how often all calibration tokens go through a block
    std::int64_t sweeps = 0;       ///< forward and back
    double flops = 0;              ///< forward and backward passes, Grams, factors and the method itself
    std::uint64_t peak_bytes = 0;  ///< resident memory of the process while this stage runs
    std::uint64_t disk_bytes = 0;  ///< temporary, beside the output
    std::int64_t tokens = 0;
    bool estimated = false;  ///< sizes that it leaves follow from the data: the plan's are upper bounds
};
struct Plan {
    std::vector<PlannedStage> stages;
    bool exact = true;                                ///< whether output_bytes and parameters_after are
    std::uint64_t input_bytes = 0, output_bytes = 0;  ///< safetensors files, headers included
    std::uint64_t peak_bytes = 0;
    std::uint64_t minimum_bytes = 0;  ///< the smallest budget with which this recipe can run
    std::uint64_t disk_bytes = 0;     ///< output and temporary files together
    double flops = 0, seconds = 0;    ///< seconds: from a GEMM rate measured for a moment; 0 when not asked
    std::int64_t parameters_before = 0, parameters_after = 0;
    std::vector<std::string> warnings;  ///< a run has them too
};

/// Validates the whole recipe and works out what it costs. Reads config.json and headers, no weight. Throws
/// Error(input) for anything a person can mend, a memory budget that is too small included (with the minimum that is
/// needed).
Plan make_plan(const Recipe& recipe, const Components& components);
nlohmann::json plan_json(const Plan& plan);

/// The recipe, from validation to the finished output folder. Returns the JSON of `kerf run --json` (interface.md).
/// Output appears under its final name only when complete. resume: go on from an earlier run's journal.
nlohmann::json run_recipe(const Recipe& recipe, const Components& components, bool resume, const Observer& observer);

struct EvalRequest {
    std::filesystem::path model;
    std::filesystem::path reference;  ///< for KL divergence and top-1 agreement; empty = none
    DType compute = DType::f32;
    std::vector<PerplexitySpec> perplexity;
};
/// The JSON of `kerf eval --json`.
nlohmann::json evaluate_model(const EvalRequest& request, const Components& components, const Observer& observer);

/// The JSON of `kerf inspect --json` (docs/commands.md): family, blocks, linears with shapes and dtypes, and what the
/// model costs. `model`: a folder, with weights or with a config.json alone, or a config.json; no weight is read.
/// `length`: tokens of the prefill and of the cache at decode; 0 for 2048, or what the model takes when that is less.
nlohmann::json inspect_model(const std::filesystem::path& model, const Components& components, std::int64_t length = 0);

/// The JSON of `kerf inspect --axes --json` (docs/axes.md): what the model's weights share. Needs config.json alone.
nlohmann::json inspect_axes(const std::filesystem::path& folder, const Components& components);

}  // namespace kerf::core
