// SPDX-License-Identifier: Apache-2.0
#include "core/weights/selection.hpp"

#include "core/support/error.hpp"

namespace kerf::core {

std::vector<std::int64_t> selected_shape(const Selection& selection, const std::vector<std::int64_t>& shape) {
    std::vector<std::int64_t> out = shape;
    if (selection.kept.size() > shape.size())
        internal_error(selection.source, ": a selection along ", selection.kept.size(), " dimensions of ",
                       format_shape(shape));
    const auto check = [&](const std::vector<std::int64_t>& indices, std::size_t dimension) {
        if (dimension >= shape.size()) internal_error(selection.source, " has no dimension ", dimension);
        for (const auto index : indices)
            if (index < 0 || index >= shape[dimension])
                internal_error(selection.source, ": index ", index, " past dimension ", dimension, " of ",
                               format_shape(shape));
    };
    for (std::size_t d = 0; d < selection.kept.size(); ++d) {
        check(selection.kept[d], d);
        if (!selection.kept[d].empty()) out[d] = std::int64_t(selection.kept[d].size());
    }
    for (const auto& fill : selection.fills) check(fill.indices, std::size_t(fill.dimension));
    return out;
}

}  // namespace kerf::core
