// SPDX-License-Identifier: Apache-2.0
#include "core/graph/value_shapes.hpp"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "core/support/error.hpp"

namespace kerf::core {

ValueShapes::ValueShapes(const std::map<std::string, std::int64_t>& start, std::string who) : who_(std::move(who)) {
    for (const auto& [name, width] : start) known_[name].width = width;
}

void ValueShapes::follow(Op& op, std::size_t index) {
    where_ = text(who_, " op ", index, " (", op_name(op.kind), op.name.empty() ? "" : " ", op.name, ")");
    for (const auto& value : op.in) of(value);
    Shape made = rows_out(op);
    // An op works on the rows that it reads: of a dispatch those that it picks, of a combine those of all experts.
    const Shape works_on = op.kind == OpKind::dispatch || op.kind == OpKind::combine ? made : of(op.in.back());
    op.expert = works_on.expert;
    op.share = works_on.share;
    for (std::size_t i = 0; i < op.out.size(); ++i) {
        made.width = width_out(op, i);
        if (!known_.emplace(op.out[i], made).second) bad_input(where_, ": the value \"", op.out[i], "\" is made twice");
    }
    if (op.kind == OpKind::route)
        routings_[op.out[0]] = {op.experts, static_cast<double>(op.top_k) / static_cast<double>(op.experts)};
}

std::int64_t ValueShapes::width_of_all(const std::string& value) const {
    expect_all_tokens(value);
    return of(value).width;
}

const ValueShapes::Shape& ValueShapes::of(const std::string& value) const {
    const auto found = known_.find(value);
    if (found == known_.end()) bad_input(where_.empty() ? who_ : where_, ": nothing makes the value \"", value, "\"");
    return found->second;
}

const ValueShapes::Routing& ValueShapes::routing_of(const Op& op, const std::string& value) const {
    const auto found = routings_.find(value);
    if (found == routings_.end()) bad_input(where_, ": \"", value, "\" is not what a route op makes");
    if (op.kind == OpKind::dispatch && op.expert >= found->second.experts)
        bad_input(where_, ": expert ", op.expert, " of ", found->second.experts);
    return found->second;
}

void ValueShapes::expect(const std::string& value, std::int64_t width) const {
    if (of(value).width != width)
        bad_input(where_, ": \"", value, "\" has ", of(value).width, " features, ", width, " are expected");
}

void ValueShapes::expect_all_tokens(const std::string& value) const {
    if (!of(value).routing.empty())
        bad_input(where_, ": \"", value, "\" has rows for the tokens of expert ", of(value).expert,
                  " alone; rows for all tokens are expected");
}

void ValueShapes::expect_same_rows(const std::string& value, const Shape& as) const {
    if (!of(value).same_rows(as)) bad_input(where_, ": \"", value, "\" has rows for other tokens than are expected");
}

ValueShapes::Shape ValueShapes::dispatched(const Op& op) const {
    const Routing& routing = routing_of(op, op.in[1]);
    return {0, op.in[1], op.expert, routing.share};
}

/// Which tokens the op's outputs have rows for.
ValueShapes::Shape ValueShapes::rows_out(const Op& op) const {
    switch (op.kind) {
        case OpKind::embedding:
        case OpKind::rope:
        case OpKind::attention:
        case OpKind::route:
            for (const auto& value : op.in) expect_all_tokens(value);
            return {};
        case OpKind::dispatch:
            expect_all_tokens(op.in[0]);
            return dispatched(op);
        case OpKind::combine:
            check_combine(op);
            return {};
        default:
            for (const auto& value : op.in) expect_same_rows(value, of(op.in[0]));
            return of(op.in[0]);
    }
}

void ValueShapes::check_combine(const Op& op) const {
    const Routing& routing = routing_of(op, op.in[0]);
    const auto given = static_cast<std::int64_t>(op.in.size()) - 1;
    if (given != routing.experts)
        bad_input(where_, ": combines ", given, " values, but the routing has ", routing.experts, " experts");
    for (std::int64_t expert = 0; expert < given; ++expert) {
        const auto& value = op.in[static_cast<std::size_t>(expert + 1)];
        expect_same_rows(value, {0, op.in[0], expert, routing.share});
        expect(value, of(op.in[1]).width);
    }
}

std::int64_t ValueShapes::width_out(const Op& op, std::size_t index) const {
    switch (op.kind) {
        case OpKind::embedding:
            expect(op.in[0], 0);  // ids carry no features
            return op.columns;
        case OpKind::linear:
            expect(op.in[0], op.columns);
            return op.rows;
        case OpKind::rms_norm:
        case OpKind::layer_norm:
            expect(op.in[0], op.rows);
            return op.rows;
        case OpKind::rope:
            expect(op.in[0], op.heads * op.head_dim);
            break;
        case OpKind::attention:
            expect(op.in[0], op.heads * op.head_dim);
            expect(op.in[1], op.kv_heads * op.head_dim);
            expect(op.in[2], op.kv_heads * value_dim(op));
            return op.heads * value_dim(op);
        case OpKind::mul:
        case OpKind::add:
            expect(op.in[1], of(op.in[0]).width);
            break;
        case OpKind::split:
            expect(op.in[0], std::accumulate(op.sizes.begin(), op.sizes.end(), std::int64_t{0}));
            return op.sizes[index];
        case OpKind::route:
            expect(op.in[0], op.experts);
            break;
        case OpKind::combine:
            return of(op.in[1]).width;
        case OpKind::activation:
        case OpKind::scale:
        case OpKind::softcap:
        case OpKind::dispatch:
            break;
    }
    return of(op.in[0]).width;
}

namespace {

std::int64_t features_made(const std::vector<Op>& ops, const Op& op, const std::string& value, std::int64_t input) {
    switch (op.kind) {
        case OpKind::linear:
        case OpKind::rms_norm:
        case OpKind::layer_norm:
            return op.rows;
        case OpKind::embedding:
            return op.columns;
        case OpKind::attention:
            return op.heads * value_dim(op);
        case OpKind::split:
            return op.sizes[std::size_t(std::find(op.out.begin(), op.out.end(), value) - op.out.begin())];
        case OpKind::combine:
            return features_of(ops, op.in[1], input);
        default:
            return features_of(ops, op.in[0], input);
    }
}

}  // namespace

std::int64_t features_of(const std::vector<Op>& ops, const std::string& value, std::int64_t input) {
    for (const auto& op : ops)
        if (std::find(op.out.begin(), op.out.end(), value) != op.out.end()) return features_made(ops, op, value, input);
    if (value == "x") return input;
    internal_error("no op makes ", value);
}

std::vector<std::string> live_at(const std::vector<Op>& ops, std::size_t op) {
    std::set<std::string> made{"x"}, live;
    for (std::size_t i = 0; i < op; ++i) made.insert(ops[i].out.begin(), ops[i].out.end());
    for (std::size_t i = op; i < ops.size(); ++i)
        for (const auto& value : ops[i].in)
            if (made.contains(value)) live.insert(value);
    return {live.begin(), live.end()};
}

}  // namespace kerf::core
