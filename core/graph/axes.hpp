// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/graph/graph.hpp"
#include "core/graph/layout.hpp"

namespace kerf::core {

enum class AxisKind : std::uint8_t {
    residual,        ///< the stream that the blocks add to, through the whole model
    mlp,             ///< what lies between two linears of one block, attention apart: an MLP's width
    heads,           ///< attention heads, each with its own key and value
    kv_groups,       ///< key-value heads, each with the query heads that read it (GQA, MQA)
    experts,         ///< routed experts: rows of the router, and whole experts
    embedding,       ///< a width inside the prologue or epilogue (an embedding narrower than the stream)
    vocabulary,      ///< token ids: rows of the embedding and of the head
    positions,       ///< rows of a table of learned positions
    query_heads,     ///< view: query heads inside their groups, keys and values untouched
    rotary_pairs,    ///< view: pairs of features that rotate together, the same in every query and key head
    head_features,   ///< view: features of every query and key head that do not rotate
    value_features,  ///< view: features of every value head
    other            ///< anything else that ops tie together
};
std::string_view axis_kind_name(AxisKind kind);

/// One tensor's dimension on an axis.
struct Place {
    enum class Role : std::uint8_t { input, output, bias, norm, norm_bias, table };
    std::string tensor;       ///< name in the graph
    int dimension = 0;        ///< of the tensor as the file holds it
    Role role = Role::input;  ///< input: what a linear reads; output: what it makes; table: of an embedding
    std::string module;       ///< of the linear or norm; the tensor's name for a table
    std::int64_t extent = 0;  ///< size of the dimension
    double zero = 0;          ///< the value that silences an element: −offset for a norm that adds one, else 0
    Layout layout;
};
std::string_view place_role_name(Place::Role role);

/// A dimension that several weights share. Removing unit u removes its indices in every place, and nothing else has to
/// change for the model to be the one in which all those indices were zero.
///
/// Axes that are no views divide the weights: every index of every dimension lies on exactly one unit of exactly one of
/// them (but for q/k norms, whose weight all heads share: that one lies on the views alone). Views cut the same indices
/// in another way.
struct Axis {
    std::string name;  ///< unique: "residual", "model.layers.3.mlp"
    AxisKind kind = AxisKind::other;
    std::int64_t size = 0;      ///< units
    std::int64_t unit = 1;      ///< features of a unit: 1, head_dim, a whole group's query features, 2 for a pair
    std::int64_t balanced = 1;  ///< units come in this many equal runs, which must lose equally many; 1 = no such tie
    std::int64_t keep = 1;      ///< units that have to stay (top_k experts)
    std::int64_t block = -1;    ///< the block it lies in; -1: prologue, epilogue or the whole model
    std::string fixed;          ///< why nothing can be removed, empty when it can
    std::vector<Place> places;
    std::vector<std::vector<std::string>> whole;  ///< by unit: tensors that go as a whole (experts); else empty

    bool is_view() const noexcept { return kind >= AxisKind::query_heads && kind <= AxisKind::value_features; }
};

/// The axes of a model, derived from the ops alone: from the residual stream on, in the order of the ops; views last.
/// Linear in the number of features of all values; needs some 12 bytes for each while it runs. Error(input) for a graph
/// of more than 2³⁰ features.
std::vector<Axis> find_axes(const Graph& graph);

/// Error(input) for an unknown name, with the nearest known one.
const Axis& axis_named(const std::vector<Axis>& axes, std::string_view name);

/// Parameters that lie on one unit, each element once.
std::int64_t unit_parameters(const Graph& graph, const Axis& axis, std::int64_t unit);

/// The axes as `kerf inspect --axes --json` prints them (docs/axes.md).
nlohmann::json axes_json(const std::vector<Axis>& axes);

}  // namespace kerf::core
