// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <set>

#include "core/graph/edit.hpp"
#include "core/plugin_api/axis.hpp"
#include "core/plugin_api/tables.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

std::int32_t kind_number(AxisKind kind) {
    switch (kind) {
        case AxisKind::residual:
            return KERF_AXIS_RESIDUAL;
        case AxisKind::mlp:
            return KERF_AXIS_MLP;
        case AxisKind::heads:
            return KERF_AXIS_HEADS;
        case AxisKind::kv_groups:
            return KERF_AXIS_KV_GROUPS;
        case AxisKind::experts:
            return KERF_AXIS_EXPERTS;
        case AxisKind::embedding:
            return KERF_AXIS_EMBEDDING;
        case AxisKind::vocabulary:
            return KERF_AXIS_VOCABULARY;
        case AxisKind::positions:
            return KERF_AXIS_POSITIONS;
        case AxisKind::query_heads:
            return KERF_AXIS_QUERY_HEADS;
        case AxisKind::rotary_pairs:
            return KERF_AXIS_ROTARY_PAIRS;
        case AxisKind::head_features:
            return KERF_AXIS_HEAD_FEATURES;
        case AxisKind::value_features:
            return KERF_AXIS_VALUE_FEATURES;
        case AxisKind::other:
            break;
    }
    return KERF_AXIS_OTHER;
}

std::int32_t role_number(Place::Role role) {
    switch (role) {
        case Place::Role::input:
            return KERF_PLACE_INPUT;
        case Place::Role::output:
            return KERF_PLACE_OUTPUT;
        case Place::Role::bias:
            return KERF_PLACE_BIAS;
        case Place::Role::norm:
            return KERF_PLACE_NORM;
        case Place::Role::norm_bias:
            return KERF_PLACE_NORM_BIAS;
        case Place::Role::table:
            break;
    }
    return KERF_PLACE_TABLE;
}

/// The dimension of a linear's weight as [out, in], whatever the file's layout.
std::int32_t plain_dimension(const Place& place) {
    if (place.role == Place::Role::input) return 1;
    if (place.role == Place::Role::output) return 0;
    return place.dimension;
}

/// Copies as much of `made` as the caller's structure has room for; its struct_size stays.
template <class Table>
void give(const Table& made, Table* out) {
    Table filled = made;
    filled.struct_size = out->struct_size;
    std::memcpy(out, &filled, std::min<std::size_t>(out->struct_size, sizeof(Table)));
}

const Place& place_of(const kerf_axis* axis, std::int64_t index) {
    if (!axis || index < 0 || index >= std::int64_t(axis->axis.places.size()))
        bad_input("place: there is no place ", index);
    return axis->axis.places[std::size_t(index)];
}

kerf_code get_shape(kerf_axis* axis, kerf_axis_shape* out, kerf_error* error) {
    return host_call(error, [&] {
        if (!axis || !out || out->struct_size < sizeof(std::uint32_t))
            bad_input("shape: called without an axis or a place for the result");
        give(axis_shape(axis->axis, axis->facts, axis->planned), out);
    });
}

std::int64_t count_places(kerf_axis* axis) {
    return axis ? std::int64_t(axis->axis.places.size()) : 0;
}

kerf_code get_place(kerf_axis* axis, std::int64_t index, kerf_place* out, kerf_error* error) {
    return host_call(error, [&] {
        if (!axis || !out || out->struct_size < sizeof(std::uint32_t))
            bad_input("place: called without an axis or a place for the result");
        place_of(axis, index);
        kerf_place made{};
        axis->place(std::size_t(index), &made);
        give(made, out);
    });
}

kerf_code get_values(kerf_axis* axis, std::int64_t index, const DLTensor** view, kerf_error* error) {
    return host_call(error, [&] {
        if (!axis || !view) bad_input("values: called without an axis or a place for the result");
        place_of(axis, index);
        *view = axis->values(std::size_t(index));
    });
}

kerf_code remove_units(kerf_axis* axis, const std::int64_t* units, std::int64_t count, kerf_error* error) {
    return host_call(error, [&] {
        if (!axis || count < 0 || (count > 0 && !units)) bad_input("remove: called without an axis or units");
        if (axis->removed) bad_input(axis->axis.name, ": remove was called a second time");
        if (count > axis->axis.size)
            bad_input(axis->axis.name, ": removing ", count, " units of an axis that has ", axis->axis.size);
        axis->removed = checked_removal(axis->axis, std::vector<std::int64_t>(units, units + count));
    });
}

std::int64_t count_axes(kerf_model* model) {
    return model ? std::int64_t(model->axes.size()) : 0;
}
kerf_axis* get_axis(kerf_model* model, std::int64_t index) {
    return index >= 0 && index < count_axes(model) ? model->axes[std::size_t(index)].get() : nullptr;
}

/// The one value that all linears with columns on the axis read, and how large they are; zeros when there is none.
void add_consumers(const Graph& graph, const Axis& axis, AxisFacts& facts) {
    std::set<std::string> modules, inputs;
    for (const auto& place : axis.places)
        if (place.role == Place::Role::input) modules.insert(place.module);
    if (axis.block < 0) return;
    for (const auto& op : graph.blocks[std::size_t(axis.block)].ops) {
        if (op.kind != OpKind::linear || !modules.contains(op.name)) continue;
        inputs.insert(op.in[0]);
        facts.in_features = op.columns;
        facts.out_features += op.rows;
        facts.biased += op.bias.empty() ? 0 : 1;
    }
    if (inputs.size() != 1) facts.in_features = facts.out_features = 0;
}

}  // namespace

std::int32_t method_scope(const kerf_method& method) {
    constexpr std::size_t needed = offsetof(kerf_method, scope) + sizeof(method.scope);
    return method.struct_size >= needed ? method.scope : std::int32_t(KERF_SCOPE_LINEARS);
}

std::vector<AxisFacts> axis_facts(const Graph& graph, const std::vector<Axis>& axes, std::int64_t tokens,
                                  std::int64_t windows) {
    AxisFacts common;
    common.blocks = std::int64_t(graph.blocks.size());
    common.tokens = tokens;
    common.windows = windows;
    common.model_parameters = parameter_count(expected_tensors(graph));
    for (const auto& block : graph.blocks)
        for (const auto& op : block.ops)
            if (op.kind == OpKind::linear)
                common.linear_parameters += op.rows * op.columns + (op.bias.empty() ? 0 : op.rows);
    std::vector<AxisFacts> out;
    for (const auto& axis : axes) {
        AxisFacts facts = common;
        add_consumers(graph, axis, facts);
        if (axis.size > 0) facts.unit_parameters = unit_parameters(graph, axis, 0);
        out.push_back(facts);
    }
    return out;
}

kerf_axis_shape axis_shape(const Axis& axis, const AxisFacts& facts, std::int64_t planned) {
    kerf_axis_shape out{};
    out.struct_size = sizeof(out);
    out.kind = kind_number(axis.kind);
    out.name = text_of(axis.name);
    out.fixed = text_of(axis.fixed);
    out.size = axis.size;
    out.unit = axis.unit;
    out.balanced = axis.balanced;
    out.keep = axis.keep;
    out.block = axis.block;
    out.blocks = facts.blocks;
    out.in_features = facts.in_features;
    out.out_features = facts.out_features;
    out.unit_parameters = facts.unit_parameters;
    out.linear_parameters = facts.linear_parameters;
    out.model_parameters = facts.model_parameters;
    out.tokens = facts.tokens;
    out.windows = facts.windows;
    out.planned = planned;
    out.biased = facts.biased;
    out.stream = facts.stream;
    return out;
}

kerf_axis_plan blank_plan() {
    kerf_axis_plan out{};
    out.struct_size = sizeof(out);
    out.exact = 1;
    out.remove = -1;
    return out;
}

kerf_code take_curve(void* context, const kerf_axis_curve* curve, kerf_error* error) {
    return host_call(error, [&] {
        if (!curve || curve->count < 0 || (curve->count > 0 && (!curve->units || !curve->costs)))
            bad_input("survey: called without a curve");
        auto& out = *static_cast<AxisCurve*>(context);
        out.units.assign(curve->units, curve->units + curve->count);
        out.costs.assign(curve->costs, curve->costs + curve->count);
    });
}

std::vector<std::int64_t> checked_removal(const Axis& axis, std::vector<std::int64_t> units) {
    check_units(axis, units);
    return units;
}

}  // namespace kerf::core

kerf_axis::kerf_axis(const kerf::core::Axis& axis_, const kerf::core::AxisFacts& facts_, std::int64_t planned_,
                     Reader reader, std::shared_ptr<kerf::core::PlaceValues> last)
    : axis(axis_),
      facts(facts_),
      planned(planned_),
      layers(axis_.places.size()),
      reader_(std::move(reader)),
      last_(std::move(last)),
      units_(axis_.places.size()) {
    for (std::size_t p = 0; p < units_.size(); ++p) {
        units_[p].starts.push_back(0);
        for (std::int64_t u = 0; u < axis.size; ++u) {
            const auto indices = axis.places[p].layout.indices(u);
            units_[p].indices.insert(units_[p].indices.end(), indices.begin(), indices.end());
            units_[p].starts.push_back(std::int64_t(units_[p].indices.size()));
        }
    }
}

void kerf_axis::place(std::size_t index, kerf_place* out) const {
    const auto& from = axis.places[index];
    out->struct_size = sizeof(*out);
    out->role = kerf::core::role_number(from.role);
    out->tensor = kerf::core::text_of(from.tensor);
    out->module = kerf::core::text_of(from.module);
    out->layer = layers[index];
    out->dimension = kerf::core::plain_dimension(from);
    out->extent = from.extent;
    out->starts = units_[index].starts.data();
    out->indices = units_[index].indices.data();
}

const DLTensor* kerf_axis::values(std::size_t index) {
    *last_ = {};  // before the next one is read
    *last_ = reader_(axis.places[index]);
    const auto dimensions = last_->shape.size();
    shape_[0] = last_->shape[0];
    shape_[1] = dimensions > 1 ? last_->shape[1] : 1;
    strides_[0] = dimensions > 1 ? shape_[1] : 1;
    strides_[1] = 1;
    tensor_ =
        DLTensor{last_->values.data(), {kDLCPU, 0}, std::int32_t(dimensions), {kDLFloat, 32, 1}, shape_, strides_, 0};
    return &tensor_;
}

namespace kerf::core {
const kerf_structure_1 structure_table{
    sizeof(kerf_structure_1), 0, get_shape, count_places, get_place, get_values, remove_units, count_axes, get_axis};
}  // namespace kerf::core
