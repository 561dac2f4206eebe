// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace kerf::core {

/// How a tensor of an edited model is made of one of the model that was edited. Applied when the tensor is read, in the
/// order of the members; a default Selection is the tensor as it is.
struct Selection {
    std::string source;  ///< the tensor that is read; empty: `values` are all there is
    /// Values in the place of those of `source`, row-major; with an empty source also the tensor's own (one dimension).
    std::shared_ptr<const std::vector<float>> values;
    /// Indices along a dimension, ascending, that are all set to `value`.
    struct Fill {
        int dimension = 0;
        std::vector<std::int64_t> indices;
        float value = 0;
    };
    std::vector<Fill> fills;
    /// Of every element, row-major, whether it stays; others become 0. Null: all stay.
    std::shared_ptr<const std::vector<bool>> mask;
    /// By dimension, the indices that are kept, ascending; no entry, or an empty one: all.
    std::vector<std::vector<std::int64_t>> kept;
};

class Computation;

/// What an edit makes, by the name of the tensor: a selection of another, or a computation; and tensors that are not
/// there any more.
struct TensorEdits {
    std::map<std::string, Selection> made;
    std::map<std::string, std::shared_ptr<const Computation>> computed;
    std::vector<std::string> dropped;
};

/// The shape that a selection leaves of `shape`. Error(internal) for a dimension or index that the shape lacks.
std::vector<std::int64_t> selected_shape(const Selection& selection, const std::vector<std::int64_t>& shape);

}  // namespace kerf::core
