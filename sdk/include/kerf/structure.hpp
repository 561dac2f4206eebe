// SPDX-License-Identifier: Apache-2.0
/// Everything that the author of a structured pruner needs; docs/method-authors.md shows how. Header-only, C++20.
///
/// A pruner works on axes: dimensions that several weights share, cut into units (an MLP's channels, attention heads,
/// KV groups). It says which units go; kerf takes them out of every weight, streams the model on without them, and
/// writes the smaller one. An AxisMethod gets one axis at a time, with the calibration Gram of the linears that read
/// it; a ModelMethod all axes at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kerf/curvature.hpp"
#include "kerf/instance.hpp"
#include "kerf/job.hpp"
#include "kerf/layer.hpp"
#include "kerf/plugin.hpp"
#include "kerf/schema.hpp"

namespace kerf::inline v1 {

/// What an axis is; see docs/axes.md. Kinds from query_heads on are views: they cut weights that other axes cut too, so
/// that of two axes that cross a method takes one.
enum class AxisKind : std::int32_t {
    other = KERF_AXIS_OTHER,
    residual = KERF_AXIS_RESIDUAL,
    mlp = KERF_AXIS_MLP,
    heads = KERF_AXIS_HEADS,
    kv_groups = KERF_AXIS_KV_GROUPS,
    experts = KERF_AXIS_EXPERTS,
    embedding = KERF_AXIS_EMBEDDING,
    vocabulary = KERF_AXIS_VOCABULARY,
    positions = KERF_AXIS_POSITIONS,
    query_heads = KERF_AXIS_QUERY_HEADS,
    rotary_pairs = KERF_AXIS_ROTARY_PAIRS,
    head_features = KERF_AXIS_HEAD_FEATURES,
    value_features = KERF_AXIS_VALUE_FEATURES
};

/// An axis before any weight is read. Texts are the host's: valid during the call.
struct AxisShape {
    std::string_view name;   ///< "model.layers.3.mlp"
    std::string_view fixed;  ///< why nothing can be removed; empty when it can
    AxisKind kind = AxisKind::other;
    std::int64_t size = 0;      ///< units
    std::int64_t unit = 1;      ///< features of a unit
    std::int64_t balanced = 1;  ///< units come in so many equal runs, which must lose equally many; 1 = no such tie
    std::int64_t keep = 1;      ///< units that have to stay
    std::int64_t block = -1, blocks = 0;   ///< where it lies (-1: in no one block), and how many blocks there are
    std::int64_t in = 0, out = 0;          ///< W [out, in] of all linears that read it, one below the other
    std::int64_t unit_parameters = 0;      ///< that go with one unit
    std::int64_t linear_parameters = 0;    ///< of all linears in all blocks
    std::int64_t model_parameters = 0;     ///< of the whole model, each stored tensor once
    std::int64_t tokens = 0, windows = 0;  ///< of calibration; 0 = none
    std::int64_t planned = -1;             ///< units that plan() said will go; -1 inside plan()
    std::int64_t biased = 0;               ///< how many of the linears that read it add a bias
    /// In survey(): how large the residual stream x is that the block gets, as one over the mean of 1 / ‖x‖² over the
    /// calibration tokens; else 0.
    double stream = 0;

    /// Whether it is attention's: heads, KV groups, or query heads by themselves.
    bool is_attention() const {
        return kind == AxisKind::heads || kind == AxisKind::kv_groups || kind == AxisKind::query_heads;
    }
    /// The most units that can go.
    std::int64_t removable() const { return fixed.empty() ? std::max<std::int64_t>(0, size - keep) : 0; }
};

/// Backward sweeps of a ModelMethod that ask for the gradients of an axis's weights.
struct PlannedSweeps {
    std::int32_t count = 0;
    bool squares = false;
    std::int64_t windows = 0, length = 0;  ///< 0: all, whole
    std::int64_t first = 0;                ///< the first window
};

/// Of an AxisMethod that decides how many units go once it has seen all axes.
struct PlannedSurvey {
    bool wanted = false;             ///< AxisPlan::remove is about right then
    std::int64_t scratch_bytes = 0;  ///< as AxisPlan's, of survey()
    double flops = 0;
};

/// What pruning an axis takes and leaves. A default one leaves the axis alone.
struct AxisPlan {
    /// Units that go; 0 is an answer too, -1 is none. Of a ModelMethod: all units of every axis of a block stand for
    /// the block.
    std::int64_t remove = -1;
    bool exact = true;               ///< exactly so many: sizes are known before the run; else about so many
    std::int64_t scratch_bytes = 0;  ///< largest sum of live Buffer and Matrix memory while it is pruned
    double flops = 0;                ///< Grams and sweeps are the core's
    PlannedSweeps sweeps = {};
    PlannedSurvey survey = {};
};

/// What removing units of an axis costs, by a method's own measure: units[i] of them cost costs[i]. Ascends from no
/// unit.
struct AxisCurve {
    std::vector<std::int64_t> units;
    std::vector<double> costs;
    bool empty() const noexcept { return units.empty(); }
};
/// An axis in the hands of allocate().
struct SurveyedAxis {
    AxisShape shape;
    AxisCurve curve;  ///< empty: not surveyed, exactly shape.planned units go (-1: none)
};

/// Index sets of an axis's units along one dimension: `units[u]` is ascending.
class UnitList {
public:
    UnitList() = default;
    UnitList(const std::int64_t* starts, const std::int64_t* indices, std::int64_t units)
        : starts_(starts), indices_(indices), units_(units) {}
    std::int64_t size() const { return units_; }
    std::span<const std::int64_t> operator[](std::int64_t unit) const {
        return {indices_ + starts_[unit], static_cast<std::size_t>(starts_[unit + 1] - starts_[unit])};
    }

private:
    const std::int64_t *starts_ = nullptr, *indices_ = nullptr;
    std::int64_t units_ = 0;
};

/// Where an axis lies in a tensor.
enum class PlaceRole : std::int32_t {
    input = KERF_PLACE_INPUT,    ///< columns of a linear that reads the axis
    output = KERF_PLACE_OUTPUT,  ///< rows of a linear that makes it
    bias = KERF_PLACE_BIAS,
    norm = KERF_PLACE_NORM,
    norm_bias = KERF_PLACE_NORM_BIAS,
    table = KERF_PLACE_TABLE  ///< of an embedding
};

struct Place {
    PlaceRole role = PlaceRole::input;
    std::string_view tensor, module;
    int dimension = 0;  ///< of the tensor; linears are [out, in] whatever the file's layout
    std::int64_t extent = 0;
    UnitList units;
    std::optional<Linear> linear;  ///< of role input, in AxisMethod::prune: weight, Gram, replace()
};

/// One axis in the hands of prune(). Valid during the call.
class Axis {
public:
    Axis(const kerf_host* host, kerf_axis* axis)
        : table_(detail::service<kerf_structure_1>(host, "kerf.structure/1")), host_(host), axis_(axis) {
        kerf_axis_shape raw{};
        raw.struct_size = sizeof(raw);
        detail::call([&](kerf_error* e) { return table_->shape(axis_, &raw, e); });
        shape_ = detail_shape(raw);
        for (std::int64_t i = 0; i < table_->place_count(axis_); ++i) places_.push_back(read_place(i));
    }

    const AxisShape& shape() const noexcept { return shape_; }
    std::string_view name() const noexcept { return shape_.name; }
    std::int64_t size() const noexcept { return shape_.size; }
    std::span<const Place> places() const noexcept { return places_; }

    /// The linears that read the axis; all of one input, so the Gram of the first is that of all.
    std::vector<Linear> consumers() const {
        std::vector<Linear> out;
        for (const auto& place : places_)
            if (place.linear) out.push_back(*place.linear);
        return out;
    }
    /// The units' columns in them.
    UnitList columns() const {
        for (const auto& place : places_)
            if (place.role == PlaceRole::input) return place.units;
        throw Error(Code::argument, shape_.name, ": no linear reads this axis");
    }
    /// The tensor of place i, [out, in], a vector as one row. Valid until the next call, of any axis.
    MatrixView<const float> values(std::size_t place) const {
        const DLTensor* view = nullptr;
        detail::call([&](kerf_error* e) { return table_->values(axis_, static_cast<std::int64_t>(place), &view, e); });
        if (view->ndim == 1) {
            const auto* data = static_cast<const std::byte*>(view->data) + view->byte_offset;
            return {reinterpret_cast<const float*>(data), {1, view->shape[0]}};
        }
        return detail::matrix_of<float>(*view, places_[place].tensor);
    }

    /// Units that go, in any order, perhaps none; once. Columns of consumers become zero for whatever comes after, so
    /// replace() first what is to make up for them.
    void remove(std::span<const std::int64_t> units) {
        detail::call([&](kerf_error* e) {
            return table_->remove(axis_, units.data(), static_cast<std::int64_t>(units.size()), e);
        });
    }

    kerf_axis* handle() const noexcept { return axis_; }

    static AxisShape detail_shape(const kerf_axis_shape& raw) {
        AxisShape out;
        out.name = detail::view(raw.name);
        out.fixed = detail::view(raw.fixed);
        // A kind of a younger host is one that this plugin knows nothing about.
        out.kind = raw.kind >= KERF_AXIS_OTHER && raw.kind <= KERF_AXIS_VALUE_FEATURES ? static_cast<AxisKind>(raw.kind)
                                                                                       : AxisKind::other;
        out.size = raw.size;
        out.unit = raw.unit;
        out.balanced = raw.balanced;
        out.keep = raw.keep;
        out.block = raw.block;
        out.blocks = raw.blocks;
        out.in = raw.in_features;
        out.out = raw.out_features;
        out.unit_parameters = raw.unit_parameters;
        out.linear_parameters = raw.linear_parameters;
        out.tokens = raw.tokens;
        out.planned = raw.planned;
        out.biased = KERF_HOLDS(kerf_axis_shape, &raw, biased) ? raw.biased : 0;
        out.stream = KERF_HOLDS(kerf_axis_shape, &raw, stream) ? raw.stream : 0;
        out.windows = KERF_HOLDS(kerf_axis_shape, &raw, windows) ? raw.windows : 0;
        out.model_parameters = KERF_HOLDS(kerf_axis_shape, &raw, model_parameters) ? raw.model_parameters : 0;
        return out;
    }

private:
    Place read_place(std::int64_t index) const {
        kerf_place raw{};
        raw.struct_size = sizeof(raw);
        detail::call([&](kerf_error* e) { return table_->place(axis_, index, &raw, e); });
        Place out;
        out.role = static_cast<PlaceRole>(raw.role);
        out.tensor = detail::view(raw.tensor);
        out.module = detail::view(raw.module);
        out.dimension = raw.dimension;
        out.extent = raw.extent;
        out.units = UnitList(raw.starts, raw.indices, shape_.size);
        if (raw.layer) out.linear.emplace(host_, raw.layer);
        return out;
    }

    const kerf_structure_1* table_;
    const kerf_host* host_;
    kerf_axis* axis_;
    AxisShape shape_;
    std::vector<Place> places_;
};

/// All axes of a model in the hands of ModelMethod::prune(). Valid during the call.
class Structure {
public:
    Structure(const kerf_host* host, kerf_model* model) : host_(host), model_(model) {
        const auto* table = detail::service<kerf_structure_1>(host, "kerf.structure/1");
        for (std::int64_t i = 0; i < table->axis_count(model); ++i) axes_.emplace_back(host, table->axis(model, i));
    }
    std::span<Axis> axes() noexcept { return axes_; }
    const kerf_host* host() const noexcept { return host_; }
    kerf_model* handle() const noexcept { return model_; }

private:
    const kerf_host* host_;
    kerf_model* model_;
    std::vector<Axis> axes_;
};

namespace detail {

/// As much of a plan as the host has room for.
inline void write_plan(const AxisPlan& plan, kerf_axis_plan& out) {
    out.exact = plan.exact && !plan.survey.wanted ? 1 : 0;
    out.remove = plan.remove;
    out.scratch_bytes = static_cast<std::uint64_t>(plan.scratch_bytes);
    out.flops = plan.flops;
    if (KERF_HOLDS(kerf_axis_plan, &out, sweep_length)) {
        out.sweeps = plan.sweeps.count;
        out.sweep_squares = plan.sweeps.squares ? 1 : 0;
        out.sweep_windows = plan.sweeps.windows;
        out.sweep_length = plan.sweeps.length;
    }
    if (KERF_HOLDS(kerf_axis_plan, &out, sweep_first)) out.sweep_first = plan.sweeps.first;
    if (KERF_HOLDS(kerf_axis_plan, &out, survey_flops)) {
        out.survey = plan.survey.wanted ? 1 : 0;
        out.survey_bytes = static_cast<std::uint64_t>(plan.survey.scratch_bytes);
        out.survey_flops = plan.survey.flops;
    } else if (plan.survey.wanted) {
        throw Error(Code::unsupported,
                    "this kerf is older than surveys of axes, which these options need; use a newer one");
    }
}

/// plan_axes() over a method's plan_all().
template <class M, class Options>
kerf_code plan_axes(void* self, const kerf_axis_shape* const* axes, std::size_t count, kerf_axis_plan* const* plans,
                    kerf_error* error) noexcept {
    return guarded(error, [&] {
        const M& method = static_cast<const Instance<M, Options>*>(self)->method;
        std::vector<AxisShape> shapes;
        for (std::size_t i = 0; i < count; ++i) shapes.push_back(Axis::detail_shape(*axes[i]));
        std::vector<AxisPlan> answers(count);
        method.plan_all(shapes, answers);
        for (std::size_t i = 0; i < count; ++i) {
            for (const auto bytes : {answers[i].scratch_bytes, answers[i].survey.scratch_bytes})
                if (bytes < 0) throw Error(Code::internal, "plan() gives ", bytes, " bytes of scratch");
            write_plan(answers[i], *plans[i]);
        }
    });
}

template <class M, class Options>
kerf_code survey_axis(void* self, kerf_job* job, kerf_axis* handle,
                      kerf_code (*take)(void*, const kerf_axis_curve*, kerf_error*), void* context,
                      kerf_error* error) noexcept {
    kerf_code taken = KERF_OK;
    const kerf_code made = guarded(error, [&] {
        const auto* instance = static_cast<const Instance<M, Options>*>(self);
        Axis axis(instance->host, handle);
        Job work(instance->host, job);
        const AxisCurve curve = instance->method.survey(axis, work);
        if (curve.units.size() != curve.costs.size())
            throw Error(Code::internal, "survey() gives ", curve.units.size(), " counts and ", curve.costs.size(),
                        " costs");
        const kerf_axis_curve raw{sizeof(kerf_axis_curve), 0, static_cast<std::int64_t>(curve.units.size()),
                                  curve.units.data(), curve.costs.data()};
        taken = take(context, &raw, error);
    });
    return made == KERF_OK ? taken : made;
}

template <class M, class Options>
kerf_code allocate_axes(void* self, const kerf_axis_shape* const* axes, const kerf_axis_curve* const* curves,
                        std::size_t count, std::int64_t* remove, kerf_error* error) noexcept {
    return guarded(error, [&] {
        std::vector<SurveyedAxis> surveyed(count);
        for (std::size_t i = 0; i < count; ++i) {
            surveyed[i].shape = Axis::detail_shape(*axes[i]);
            if (!curves[i]) continue;
            surveyed[i].curve.units.assign(curves[i]->units, curves[i]->units + curves[i]->count);
            surveyed[i].curve.costs.assign(curves[i]->costs, curves[i]->costs + curves[i]->count);
        }
        const std::vector<std::int64_t> out = static_cast<const Instance<M, Options>*>(self)->method.allocate(surveyed);
        if (out.size() != count)
            throw Error(Code::internal, "allocate() gives ", out.size(), " counts for ", count, " axes");
        for (std::size_t i = 0; i < count; ++i)
            if (curves[i]) remove[i] = out[i];
    });
}

/// What both kinds of pruners plan with.
template <class Options>
class Pruner : public MethodTag {
public:
    static constexpr std::uint32_t abi_minor = 1;
    virtual ~Pruner() = default;

    /// Called once `opt` is set: the place to refuse combinations of options that the schema cannot.
    virtual void check() const {}
    /// What will go of an axis, before any weight is read.
    virtual AxisPlan plan(const AxisShape& axis) const = 0;
    /// The same for all axes at once, for a method that weighs them against each other.
    virtual void plan_all(std::span<const AxisShape> axes, std::span<AxisPlan> plans) const {
        for (std::size_t i = 0; i < axes.size(); ++i) plans[i] = plan(axes[i]);
    }

    Options opt;
};

}  // namespace detail

/// Base of a pruner that takes axes one at a time, as the stream of blocks reaches the linears that read them. An axis
/// is one inside a block (heads, KV groups, query heads, MLP widths); plan() answers for all of them, also views that
/// cross others.
template <class Options>
class AxisMethod : public detail::Pruner<Options> {
public:
    /// Ends with axis.remove() of the planned number of units.
    virtual void prune(Axis& axis, Job& job) const = 0;

    /// Of an axis whose plan wants a survey: what removing units of it costs in the model as the stage gets it, where
    /// all else is whole. Asked of every such axis before prune() is of any; removes nothing.
    virtual AxisCurve survey(Axis& axis, Job&) const {
        throw Error(Code::internal, axis.name(), ": plan() wants a survey, but the method has no survey()");
    }
    /// How many units go of each axis (of those that were not surveyed whatever it says), once all curves are known.
    virtual std::vector<std::int64_t> allocate(std::span<const SurveyedAxis>) const {
        throw Error(Code::internal, "plan() wants a survey, but the method has no allocate()");
    }

    template <class M>
    static const kerf_method* kerf_table() {
        static const kerf_method table = [] {
            kerf_method t = detail::Instance<M, Options>::table();
            t.scope = KERF_SCOPE_AXES;
            t.survey_axis = detail::survey_axis<M, Options>;
            t.allocate_axes = detail::allocate_axes<M, Options>;
            t.plan_axes = detail::plan_axes<M, Options>;
            t.prune_axis = [](void* self, kerf_job* job, kerf_axis* handle, kerf_error* error) noexcept -> kerf_code {
                return detail::guarded(error, [&] {
                    const auto* instance = static_cast<const detail::Instance<M, Options>*>(self);
                    Axis axis(instance->host, handle);
                    Job work(instance->host, job);
                    instance->method.prune(axis, work);
                });
            };
            return t;
        }();
        return &table;
    }
};

/// Base of a pruner that sees the whole model before it decides.
template <class Options>
class ModelMethod : public detail::Pruner<Options> {
public:
    /// Calls remove() once on every axis that loses something.
    virtual void prune(Structure& model, Job& job) const = 0;

    template <class M>
    static const kerf_method* kerf_table() {
        static const kerf_method table = [] {
            kerf_method t = detail::Instance<M, Options>::table();
            t.scope = KERF_SCOPE_MODEL;
            t.plan_axes = detail::plan_axes<M, Options>;
            t.prune_model = [](void* self, kerf_job* job, kerf_model* handle, kerf_error* error) noexcept -> kerf_code {
                return detail::guarded(error, [&] {
                    const auto* instance = static_cast<const detail::Instance<M, Options>*>(self);
                    Structure model(instance->host, handle);
                    Job work(instance->host, job);
                    instance->method.prune(model, work);
                });
            };
            return t;
        }();
        return &table;
    }
};

}  // namespace kerf::inline v1
