// SPDX-License-Identifier: Apache-2.0
#include "core/graph/propagation.hpp"

#include <algorithm>
#include <numeric>

#include "core/support/error.hpp"

namespace kerf::core {

Features Features::cut(std::int64_t runs, std::int64_t begin, std::int64_t count) const {
    if (runs == 1 && !list_) return {first_ + std::int32_t(begin), count};
    std::vector<std::int32_t> out;
    out.reserve(std::size_t(runs * count));
    const std::int64_t run = count_ / runs;
    for (std::int64_t r = 0; r < runs; ++r)
        for (std::int64_t i = 0; i < count; ++i) out.push_back((*this)[r * run + begin + i]);
    return Features(std::move(out));
}

Propagation::Propagation(const Graph& graph, Tie tie) : tie_(tie) {
    Values values;
    follow(graph.prologue, values);
    Features stream = values.at("x");
    for (const auto& block : graph.blocks) {
        mark(stream, touched::stream);
        ++block_;
        values = {{"x", stream}};
        follow(block.ops, values);
        stream = values.at("y");
    }
    mark(stream, touched::stream);
    block_ = -1;
    values = {{"x", stream}};
    follow(graph.epilogue, values);
    const Features logits = values.at("logits");
    mark(logits, touched::tokens);
    if (logits.count() == tokens_.count()) join(logits, tokens_);

    std::map<std::int32_t, Detail> by_class;
    for (const auto& [label, detail] : details_) by_class.emplace(find(label), detail);
    details_ = std::move(by_class);
}

std::int32_t Propagation::find(std::int32_t label) const {
    auto& parents = parents_;
    while (parents[std::size_t(label)] != label) {
        auto& parent = parents[std::size_t(label)];
        parent = parents[std::size_t(parent)];
        label = parent;
    }
    return label;
}

/// The earlier label stands for both, so that classes are numbered in the order of the ops.
void Propagation::join(std::int32_t a, std::int32_t b) {
    a = find(a);
    b = find(b);
    if (a == b) return;
    if (b < a) std::swap(a, b);
    parents_[std::size_t(b)] = a;
    flags_[std::size_t(a)] |= flags_[std::size_t(b)];
}

void Propagation::join(const Features& a, const Features& b) {
    for (std::int64_t i = 0; i < a.count(); ++i) join(a[i], b[i]);
}

void Propagation::mark(const Features& features, std::uint16_t flags) {
    for (std::int64_t i = 0; i < features.count(); ++i) flags_[std::size_t(find(features[i]))] |= flags;
}

const Propagation::Detail* Propagation::detail(std::int32_t label) const {
    const auto found = details_.find(find(label));
    return found == details_.end() ? nullptr : &found->second;
}

Features Propagation::fresh(std::int64_t count, std::uint16_t flags) {
    constexpr std::int64_t most = std::int64_t{1} << 30;
    const std::int64_t first = labels();
    if (count > most - first)
        bad_input("the model has more than ", most, " features in all its values: axes cannot be found in it");
    parents_.resize(std::size_t(first + count));
    std::iota(parents_.begin() + first, parents_.end(), std::int32_t(first));
    flags_.resize(std::size_t(first + count), std::uint16_t(flags | (block_ < 0 ? touched::outside : 0)));
    return {std::int32_t(first), count};
}

/// A tensor that comes again (tied embeddings, a weight that blocks share) is one thing: its features are joined.
Features Propagation::slot(Place place, Features features) {
    place.extent = features.count();
    const auto [known, is_new] = slot_of_.try_emplace({place.tensor, place.dimension}, slots_.size());
    if (is_new)
        slots_.push_back({std::move(place), features, block_});
    else
        join(slots_[known->second].features, features);
    return features;
}

void Propagation::follow(const std::vector<Op>& ops, Values& values) {
    routes_.clear();
    owners_.clear();
    for (const auto& op : ops) {
        follow_op(op, values);
        own(op);
    }
}

void Propagation::follow_op(const Op& op, Values& values) {
    const auto in = [&](std::size_t i) { return values.at(op.in[i]); };
    switch (op.kind) {
        case OpKind::embedding:
            values[op.out[0]] = embedding(op);
            return;
        case OpKind::linear:
            values[op.out[0]] = linear(op, in(0));
            return;
        case OpKind::rms_norm:
        case OpKind::layer_norm:
            norm(op, in(0));
            break;
        case OpKind::rope:
            rope(op, in(0));
            break;
        case OpKind::attention:
            values[op.out[0]] = attention(op, in(0), in(1), in(2));
            return;
        case OpKind::split: {
            const std::int64_t runs = std::max<std::int64_t>(1, op.groups);
            std::int64_t begin = 0;
            for (std::size_t i = 0; i < op.out.size(); ++i) {
                values[op.out[i]] = in(0).cut(runs, begin, op.sizes[i] / runs);
                begin += op.sizes[i] / runs;
            }
            return;
        }
        case OpKind::mul:
        case OpKind::add:
            join(in(0), in(1));
            break;
        case OpKind::route:
            route(op, in(0));
            break;
        case OpKind::combine:
            for (std::size_t i = 2; i < op.in.size(); ++i) join(in(1), in(i));
            values[op.out[0]] = in(1);
            return;
        case OpKind::dispatch:
        case OpKind::activation:
        case OpKind::scale:
        case OpKind::softcap:
            break;
    }
    values[op.out[0]] = in(0);
}

Features Propagation::embedding(const Op& op) {
    const bool is_tokens = op.in[0] == "tokens";
    const Features rows = fresh(op.rows, is_tokens ? touched::tokens : touched::positions);
    if (is_tokens && tokens_.count() == 0) tokens_ = rows;
    if (is_tokens && tokens_.count() == rows.count()) join(tokens_, rows);
    slot({op.weight, 0, Place::Role::table, op.weight, 0, 0, {}}, rows);
    return slot({op.weight, 1, Place::Role::table, op.weight, 0, 0, {}}, fresh(op.columns));
}

Features Propagation::linear(const Op& op, const Features& in) {
    slot({op.weight, op.transposed ? 0 : 1, Place::Role::input, op.name, 0, 0, {}}, in);
    const Features out =
        slot({op.weight, op.transposed ? 1 : 0, Place::Role::output, op.name, 0, 0, {}}, fresh(op.rows));
    if (!op.bias.empty()) slot({op.bias, 0, Place::Role::bias, op.name, 0, 0, {}}, out);
    if (op.role == "shortcut") mark(out, touched::stream);  // the residual stream in other coordinates
    return out;
}

/// A norm over each head by itself has one weight for all of them: it lies along the features of a head, which only
/// their view knows.
void Propagation::norm(const Op& op, const Features& in) {
    const std::int64_t heads = std::max<std::int64_t>(1, op.heads);
    if (heads > 1 && tie_ != Tie::head_features) return;
    const std::int64_t each = in.count() / heads;
    for (std::int64_t h = 1; h < heads; ++h)
        for (std::int64_t i = 0; i < each; ++i) join(in[i], in[h * each + i]);
    const Features one = in.cut(1, 0, each);
    const double zero = op.kind == OpKind::rms_norm ? -op.value : 0;
    if (!op.weight.empty()) slot({op.weight, 0, Place::Role::norm, op.name, 0, zero, {}}, one);
    if (!op.bias.empty()) slot({op.bias, 0, Place::Role::norm_bias, op.name, 0, 0, {}}, one);
}

void Propagation::rope(const Op& op, const Features& in) {
    const std::int64_t half = op.rotary_dim / 2;
    for (std::int64_t h = 0; h < op.heads; ++h) {
        for (std::int64_t i = 0; i < half; ++i) {
            const std::int64_t a = h * op.head_dim + (op.interleaved ? 2 * i : i);
            join(in[a], in[op.interleaved ? a + 1 : a + half]);
            flags_[std::size_t(find(in[a]))] |= touched::rotates;
        }
    }
}

Features Propagation::attention(const Op& op, const Features& q, const Features& k, const Features& v) {
    const std::int64_t dim = op.head_dim, value_dim = v.count() / op.kv_heads, each = op.heads / op.kv_heads;
    const Features out = fresh(op.heads * value_dim);
    const auto join_run = [&](const Features& features, std::int64_t begin, std::int64_t count, std::int32_t with) {
        for (std::int64_t i = 0; i < count; ++i) join(features[begin + i], with);
    };
    if (tie_ == Tie::head_features) {
        for (std::int64_t i = 0; i < q.count(); ++i) join(q[i], k[i % dim]);
        for (std::int64_t i = 0; i < k.count(); ++i) join(k[i], k[i % dim]);
        for (std::int64_t i = 0; i < v.count(); ++i) join(v[i], v[i % value_dim]);
        for (std::int64_t i = 0; i < out.count(); ++i) join(out[i], v[i % value_dim]);
        mark(k, touched::scores);
        mark(v, touched::values);
        return out;
    }
    const bool groups = tie_ == Tie::groups;
    for (std::int64_t h = 0; h < op.heads; ++h) {
        const std::int32_t head = groups ? k[h / each * dim] : q[h * dim];
        join_run(q, h * dim, dim, head);
        join_run(out, h * value_dim, value_dim, head);
        details_[q[h * dim]] = {groups ? each * dim : dim, op.kv_heads, 0};
    }
    for (std::int64_t g = 0; groups && g < op.kv_heads; ++g) {
        join_run(k, g * dim, dim, k[g * dim]);
        join_run(v, g * value_dim, value_dim, k[g * dim]);
    }
    mark(q, touched::heads);
    if (!groups) {
        mark(k, touched::still);
        mark(v, touched::still);
    }
    return out;
}

void Propagation::route(const Op& op, const Features& in) {
    routes_[op.out[0]] = experts_.size();
    mark(in, touched::router);
    for (std::int64_t e = 0; e < in.count(); ++e) {
        experts_.push_back({in[e], {}});
        details_[in[e]].top_k = op.top_k;
    }
}

/// What is computed from an expert's rows belongs to it, up to where the experts are combined.
void Propagation::own(const Op& op) {
    if (op.kind == OpKind::combine) return;
    std::size_t owner = experts_.size();
    if (op.kind == OpKind::dispatch) owner = routes_.at(op.in[1]) + std::size_t(op.expert);
    for (const auto& value : op.in)
        if (const auto found = owners_.find(value); found != owners_.end()) owner = found->second;
    if (owner >= experts_.size()) return;
    for (const auto& value : op.out) owners_[value] = owner;
    const bool has_tensors = op.kind == OpKind::linear || op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm;
    for (const auto* tensor : {&op.weight, &op.bias})
        if (has_tensors && !tensor->empty()) experts_[owner].tensors.push_back(*tensor);
}

}  // namespace kerf::core
