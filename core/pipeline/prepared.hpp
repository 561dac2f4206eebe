// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "core/pipeline/output.hpp"
#include "core/pipeline/run.hpp"

namespace kerf::core {

/// A recipe whose every part has been checked: what plan and run both start from.
struct Prepared {
    Model model;
    std::vector<Stage> stages;
    std::vector<Model> models;  ///< what each stage starts from, as planned (shapes are right, but for which units go);
                                ///< last: the result
    std::map<std::string, Windows> evaluation;  ///< by name
    Plan plan;
};

/// Everything that can be wrong is found here, before anything is written: recipe, model, plugins, options, texts,
/// budget.
Prepared prepare(const Recipe& recipe, const Components& components);

/// The layout of stage `index` (or, for recipes without stages, of the copy) over the model that it leaves.
OutputLayout layout_of(const Recipe& recipe, const Prepared& prepared, std::size_t index, const Model& model);

/// Size of a model as dense weights in the recipe's output dtype: of what an earlier stage leaves, were it written.
std::uint64_t bytes_of_dense(const Recipe& recipe, const Prepared& prepared, const Model& model);

/// The stage that takes its Grams from stage `index`, or null.
const Stage* sharer_of(const std::vector<Stage>& stages, std::size_t index);

/// How often tokens went through blocks, as reports and plans say it.
nlohmann::json forward_json(std::int64_t block_runs, std::int64_t blocks);

/// Peak resident memory of a stage, and of an evaluation, in bytes beyond what the process holds when idle.
std::uint64_t stage_memory(const Model& model, const Stage& stage, const Stage* sharer, DType compute,
                           std::int64_t threads);
std::uint64_t evaluation_memory(const Model& model, std::int64_t length, std::int64_t samples, bool with_reference,
                                DType compute, std::int64_t threads);
/// Resident bytes of this process now, and its peak so far.
std::uint64_t resident_bytes();
std::uint64_t peak_resident_bytes();

}  // namespace kerf::core
