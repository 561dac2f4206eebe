// SPDX-License-Identifier: Apache-2.0
#include "core/graph/axes.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "core/graph/propagation.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

constexpr std::array<std::string_view, 13> kind_names{
    "residual",  "mlp",         "heads",        "kv_groups",     "experts",        "embedding", "vocabulary",
    "positions", "query_heads", "rotary_pairs", "head_features", "value_features", "other"};
constexpr std::array<std::string_view, 6> role_names{"input", "output", "bias", "norm", "norm_bias", "table"};

AxisKind kind_of(std::uint16_t flags, Tie tie, std::int64_t block) {
    const auto has = [&](std::uint16_t flag) { return (flags & flag) != 0; };
    if (has(touched::tokens)) return AxisKind::vocabulary;
    if (has(touched::positions)) return AxisKind::positions;
    if (has(touched::stream)) return AxisKind::residual;
    if (has(touched::router)) return AxisKind::experts;
    if (tie == Tie::query_heads) return AxisKind::query_heads;
    if (has(touched::heads)) return AxisKind::kv_groups;
    if (tie == Tie::head_features && has(touched::scores) != has(touched::values)) {
        if (has(touched::values)) return AxisKind::value_features;
        return has(touched::rotates) ? AxisKind::rotary_pairs : AxisKind::head_features;
    }
    if (has(touched::outside)) return AxisKind::embedding;
    return block >= 0 ? AxisKind::mlp : AxisKind::other;
}

/// Whether a class of features is a unit of the axes that this propagation is for.
bool is_wanted(std::uint16_t flags, Tie tie) {
    if (tie == Tie::groups) return true;
    const bool elsewhere = (flags & (touched::stream | touched::tokens | touched::router)) != 0;
    if (elsewhere) return false;
    if (tie == Tie::query_heads) return (flags & touched::heads) != 0 && (flags & touched::still) == 0;
    return ((flags & touched::scores) != 0) != ((flags & touched::values) != 0);
}

std::uint64_t mixed(std::uint64_t hash, std::uint64_t value) {
    hash ^= value + 0x9e3779b97f4a7c15ULL + (hash << 6) + (hash >> 2);
    hash *= 0xff51afd7ed558ccdULL;
    return hash ^ (hash >> 33);
}

/// Sorts the classes of a propagation into axes: classes that lie in the same slots, equally often in each, are units
/// of one axis.
class Collector {
public:
    Collector(const Propagation& propagation, Tie tie) : from_(propagation), tie_(tie) {
        number_classes();
        group_classes();
    }

    std::vector<Axis> axes() {
        for (std::size_t s = 0; s < from_.slots().size(); ++s) place(from_.slots()[s]);
        for (std::size_t a = 0; a < axes_.size(); ++a) complete(axes_[a], first_class_[a]);
        add_experts();
        return std::move(axes_);
    }

private:
    std::int32_t class_of(std::int32_t label) const { return class_of_[std::size_t(from_.find(label))]; }

    void number_classes() {
        class_of_.assign(std::size_t(from_.labels()), -1);
        for (const auto& slot : from_.slots())
            for (std::int64_t i = 0; i < slot.features.count(); ++i) {
                const std::int32_t root = from_.find(slot.features[i]);
                if (class_of_[std::size_t(root)] >= 0 || !is_wanted(from_.flags(root), tie_)) continue;
                class_of_[std::size_t(root)] = std::int32_t(roots_.size());
                roots_.push_back(root);
            }
    }

    void group_classes() {
        std::vector<std::uint64_t> signature(roots_.size());
        for (std::size_t c = 0; c < roots_.size(); ++c) signature[c] = mixed(0, from_.flags(roots_[c]));
        for (std::size_t s = 0; s < from_.slots().size(); ++s) {
            const Features& features = from_.slots()[s].features;
            for (std::int64_t i = 0; i < features.count(); ++i)
                if (const auto c = class_of(features[i]); c >= 0)
                    signature[std::size_t(c)] = mixed(signature[std::size_t(c)], s + 1);
        }
        std::unordered_map<std::uint64_t, std::int32_t> known;
        for (std::size_t c = 0; c < roots_.size(); ++c) {
            const auto [at, is_new] = known.try_emplace(signature[c], std::int32_t(axes_.size()));
            if (is_new) {
                axes_.emplace_back();
                first_class_.push_back(c);
            }
            axis_of_.push_back(at->second);
            unit_of_.push_back(std::int32_t(axes_[std::size_t(at->second)].size++));
        }
    }

    /// A slot may hold parts of several axes: a fused projection that ends in unlike places.
    void place(const Slot& slot) {
        std::map<std::int32_t, std::vector<std::int32_t>> units;
        std::vector<std::int32_t>* row = nullptr;
        std::int32_t row_axis = -1;
        for (std::int64_t i = 0; i < slot.features.count(); ++i) {
            const std::int32_t c = class_of(slot.features[i]);
            if (c < 0) continue;
            if (row == nullptr || axis_of_[std::size_t(c)] != row_axis) {
                row_axis = axis_of_[std::size_t(c)];
                row = &units[row_axis];
                row->resize(std::size_t(slot.features.count()), -1);
            }
            (*row)[std::size_t(i)] = unit_of_[std::size_t(c)];
        }
        for (const auto& [index, unit_of] : units) {
            Axis& axis = axes_[std::size_t(index)];
            if (axis.places.empty()) axis.block = slot.block;
            if (axis.block != slot.block) axis.block = -1;
            Place made = slot.place;
            made.layout = Layout(unit_of, axis.size);
            axis.places.push_back(std::move(made));
        }
    }

    void complete(Axis& axis, std::size_t first_class) const {
        const std::int32_t root = roots_[first_class];
        axis.kind = kind_of(from_.flags(root), tie_, axis.block);
        if (axis.kind == AxisKind::vocabulary) axis.fixed = "its indices are token ids";
        if (axis.kind == AxisKind::positions) axis.fixed = "its indices are positions of the sequence";
        if (axis.kind == AxisKind::rotary_pairs) axis.unit = 2;
        const auto* detail = from_.detail(root);
        if (detail == nullptr) return;
        if (axis.kind == AxisKind::kv_groups || axis.kind == AxisKind::query_heads) {
            axis.unit = detail->unit;
            if (axis.kind == AxisKind::query_heads) axis.balanced = detail->kv_heads;
        }
        if (axis.kind == AxisKind::experts) axis.keep = detail->top_k;
    }

    void add_experts() {
        for (const auto& expert : from_.experts()) {
            const std::int32_t c = class_of(expert.row);
            if (c < 0) continue;
            Axis& axis = axes_[std::size_t(axis_of_[std::size_t(c)])];
            axis.whole.resize(std::size_t(axis.size));
            axis.whole[std::size_t(unit_of_[std::size_t(c)])] = expert.tensors;
        }
    }

    const Propagation& from_;
    Tie tie_;
    std::vector<std::int32_t> class_of_;                   // by label of a class: its number, or -1
    std::vector<std::int32_t> roots_, axis_of_, unit_of_;  // by number of a class
    std::vector<std::size_t> first_class_;                 // by axis
    std::vector<Axis> axes_;
};

/// Query heads that share no key-value head are heads, not groups.
void name_heads(const Graph& graph, std::vector<Axis>& axes) {
    for (auto& axis : axes) {
        if (axis.kind != AxisKind::kv_groups || axis.block < 0) continue;
        for (const auto& op : graph.blocks[std::size_t(axis.block)].ops)
            if (op.kind == OpKind::attention && op.heads == op.kv_heads && op.kv_heads == axis.size &&
                op.head_dim == axis.unit)
                axis.kind = AxisKind::heads;
    }
}

/// "model.layers.0.mlp" of its gate_proj, up_proj and down_proj.
std::string common_module(const Axis& axis) {
    if (axis.places.empty()) return "";
    std::string common = axis.places[0].module + ".";
    for (const auto& place : axis.places) {
        const std::string module = place.module + ".";
        std::size_t same = 0;
        while (same < common.size() && same < module.size() && common[same] == module[same]) ++same;
        common.resize(same);
    }
    const auto dot = common.rfind('.');
    return dot == std::string::npos ? "" : common.substr(0, dot);
}

void name_axes(const Graph& graph, std::vector<Axis>& axes) {
    std::map<std::pair<std::int64_t, AxisKind>, int> alike;
    for (const auto& axis : axes) ++alike[{axis.block, axis.kind}];
    std::set<std::string> taken;
    for (auto& axis : axes) {
        const std::string kind(axis_kind_name(axis.kind));
        const std::string block = axis.block < 0 ? "" : graph.blocks[std::size_t(axis.block)].name + ".";
        std::string name = block + kind;
        if (alike[{axis.block, axis.kind}] > 1) {
            const std::string module = common_module(axis);
            if (!module.empty()) name = module.ends_with("." + kind) ? module : module + "." + kind;
        }
        axis.name = name;
        for (int number = 2; !taken.insert(axis.name).second; ++number) axis.name = text(name, "#", number);
    }
}

}  // namespace

std::string_view axis_kind_name(AxisKind kind) {
    return kind_names[static_cast<std::size_t>(kind)];
}

std::string_view place_role_name(Place::Role role) {
    return role_names[static_cast<std::size_t>(role)];
}

std::vector<Axis> find_axes(const Graph& graph) {
    std::vector<Axis> axes;
    for (const Tie tie : {Tie::groups, Tie::query_heads, Tie::head_features}) {
        const Propagation propagation(graph, tie);
        for (auto& axis : Collector(propagation, tie).axes())
            // With one query head to each key-value head the heads themselves say it all.
            if (tie != Tie::query_heads || axis.balanced < axis.size) axes.push_back(std::move(axis));
    }
    const auto is_residual = [](const Axis& axis) { return axis.kind == AxisKind::residual; };
    std::stable_partition(axes.begin(), axes.end(), is_residual);
    name_heads(graph, axes);
    name_axes(graph, axes);
    return axes;
}

const Axis& axis_named(const std::vector<Axis>& axes, std::string_view name) {
    std::vector<std::string> known;
    for (const auto& axis : axes) {
        if (axis.name == name) return axis;
        known.push_back(axis.name);
    }
    const std::string near = nearest(std::string(name), known);
    bad_input("the model has no axis \"", name, "\"",
              near.empty() ? "; kerf inspect MODEL --axes lists them" : text("; did you mean ", near, "?"));
}

std::int64_t unit_parameters(const Graph& graph, const Axis& axis, std::int64_t unit) {
    std::map<std::string, std::vector<std::int64_t>> kept;  // what stays of each tensor that the unit is on
    std::map<std::string, std::vector<std::int64_t>> shapes;
    for (auto& tensor : expected_tensors(graph)) shapes.emplace(tensor.name, std::move(tensor.shape));
    for (const auto& place : axis.places) {
        auto& shape = kept.try_emplace(place.tensor, shapes.at(place.tensor)).first->second;
        shape[std::size_t(place.dimension)] -= std::int64_t(place.layout.indices(unit).size());
    }
    const auto count = [](const std::vector<std::int64_t>& shape) {
        std::int64_t elements = 1;
        for (const auto size : shape) elements *= size;
        return elements;
    };
    std::int64_t sum = 0;
    for (const auto& [name, shape] : kept) sum += count(shapes.at(name)) - count(shape);
    if (!axis.whole.empty())
        for (const auto& name : axis.whole[std::size_t(unit)]) sum += count(shapes.at(name));
    return sum;
}

nlohmann::json axes_json(const std::vector<Axis>& axes) {
    using nlohmann::json;
    json out = json::array();
    for (const auto& axis : axes) {
        json places = json::array();
        for (const auto& place : axis.places) {
            json strips = json::array();
            for (const auto& s : place.layout.strips()) {
                json strip{{"offset", s.offset}, {"length", s.length}, {"stride", s.stride}};
                if (s.outer != 0) strip.update({{"inner", s.inner}, {"outer", s.outer}});
                if (s.repeat > 1) strip.update({{"repeat", s.repeat}, {"apart", s.apart}});
                strips.push_back(std::move(strip));
            }
            places.push_back({{"tensor", place.tensor},
                              {"dimension", place.dimension},
                              {"role", place_role_name(place.role)},
                              {"module", place.module},
                              {"extent", place.extent},
                              {"per_unit", place.layout.per_unit()},
                              {"strips", std::move(strips)},
                              {"indices", place.layout.formula()}});
        }
        json entry{{"name", axis.name},      {"kind", axis_kind_name(axis.kind)},
                   {"size", axis.size},      {"unit", axis.unit},
                   {"view", axis.is_view()}, {"places", std::move(places)}};
        if (axis.balanced > 1) entry["balanced"] = axis.balanced;
        if (axis.keep > 1) entry["keep"] = axis.keep;
        if (!axis.fixed.empty()) entry["fixed"] = axis.fixed;
        if (!axis.whole.empty()) entry["whole"] = axis.whole;
        out.push_back(std::move(entry));
    }
    return out;
}

}  // namespace kerf::core
