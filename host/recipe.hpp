// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/pipeline/components.hpp"
#include "core/pipeline/recipe.hpp"

namespace kerf::host {

/// What the command line changes in a recipe before it is read.
struct RecipeChanges {
    std::vector<std::string> set;  ///< KEY=VALUE, as of --set
    std::string output;            ///< replaces output.path, relative to the current folder; empty = as written
    std::string memory;            ///< replaces model.memory; empty = as written
};

/// Reads a recipe file (docs/recipe.md) as far as it can be read without plugins and model: unknown keys, wrong types
/// and values out of range are Error(input) with file, line and column. Options of methods are kept as they are, for
/// the method's schema. Paths are taken relative to the recipe's folder.
core::Recipe read_recipe(const std::filesystem::path& file, const RecipeChanges& changes = {});

/// The same for a recipe in memory; `file` is its name in complaints and provenance, and decides what paths are
/// relative to.
core::Recipe parse_recipe(std::string_view text, const std::filesystem::path& file, const RecipeChanges& changes = {});

/// Refuses keys of a stage that are no option of its method but nearly one of the stage's own ("exlude"): the method's
/// schema knows only options, and would not think of them. Methods that are not there are left to the core.
void check_stage_keys(const core::Recipe& recipe, const core::Components& components);

}  // namespace kerf::host
