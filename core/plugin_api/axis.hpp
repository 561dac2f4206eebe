// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/graph/axes.hpp"
#include "core/plugin_api/job.hpp"
#include "kerf/abi.h"

namespace kerf::core {

/// Of what scope a method is; tables of band 1.0 have no such slot.
std::int32_t method_scope(const kerf_method& method);

/// What a plugin is told of an axis before any weight is read. `linear_parameters`: of all linears in all blocks;
/// `model_parameters`: of the whole model.
struct AxisFacts {
    std::int64_t in_features = 0, out_features = 0, unit_parameters = 0, linear_parameters = 0, blocks = 0, tokens = 0;
    std::int64_t model_parameters = 0, windows = 0;
    std::int64_t biased = 0;  ///< linears that read it and add a bias
    double stream = 0;        ///< in a survey: the squared size of the residual stream that the block gets
};
std::vector<AxisFacts> axis_facts(const Graph& graph, const std::vector<Axis>& axes, std::int64_t tokens,
                                  std::int64_t windows = 0);
/// Points into `axis`.
kerf_axis_shape axis_shape(const Axis& axis, const AxisFacts& facts, std::int64_t planned);

/// Units that a method named, checked against the axis: in range, each once, enough left, runs equally. Ascending.
/// Error(input).
std::vector<std::int64_t> checked_removal(const Axis& axis, std::vector<std::int64_t> units);

/// What plan_axes() is handed to fill in: nothing goes.
kerf_axis_plan blank_plan();

/// What a method says that removing units of an axis costs: units[i] of them cost costs[i].
struct AxisCurve {
    std::vector<std::int64_t> units;
    std::vector<double> costs;
    bool operator==(const AxisCurve&) const = default;
};
/// survey_axis()'s take() into the AxisCurve that `context` is.
kerf_code take_curve(void* context, const kerf_axis_curve* curve, kerf_error* error);

/// The tensor of one place, float32, linears as [out, in].
struct PlaceValues {
    std::vector<float> values;
    std::vector<std::int64_t> shape;
};

}  // namespace kerf::core

/// One axis in the hands of a pruner: whoever runs the method makes it and takes what was removed.
struct kerf_axis {
    /// `reader` gives the tensor of a place; its result is kept in `*last` until the next one is asked for.
    using Reader = std::function<kerf::core::PlaceValues(const kerf::core::Place&)>;

    kerf_axis(const kerf::core::Axis& axis, const kerf::core::AxisFacts& facts, std::int64_t planned, Reader reader,
              std::shared_ptr<kerf::core::PlaceValues> last);
    kerf_axis(const kerf_axis&) = delete;
    kerf_axis& operator=(const kerf_axis&) = delete;

    const kerf::core::Axis& axis;
    const kerf::core::AxisFacts facts;
    const std::int64_t planned;
    std::vector<kerf_layer*> layers;  ///< by place: the consumer's linear, or null
    std::optional<std::vector<std::int64_t>> removed;

    void place(std::size_t index, kerf_place* out) const;
    const DLTensor* values(std::size_t place);

private:
    struct Units {
        std::vector<std::int64_t> starts, indices;
    };
    Reader reader_;
    std::shared_ptr<kerf::core::PlaceValues> last_;
    std::vector<Units> units_;  // by place
    DLTensor tensor_{};
    std::int64_t shape_[2] = {}, strides_[2] = {};
};

/// All axes of a model in the hands of a pruner of scope MODEL.
struct kerf_model {
    std::vector<std::unique_ptr<kerf_axis>> axes;
};
