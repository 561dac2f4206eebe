// SPDX-License-Identifier: Apache-2.0
#include "core/graph/axes.hpp"
#include "core/pipeline/model.hpp"
#include "core/pipeline/run.hpp"

namespace kerf::core {

nlohmann::json inspect_axes(const std::filesystem::path& folder, const Components& components) {
    const Model model = Model::describe(folder, components);
    return {{"model", folder.string()},
            {"family", model.graph().family},
            {"parameters", model.parameters()},
            {"axes", axes_json(find_axes(model.graph()))}};
}

}  // namespace kerf::core
