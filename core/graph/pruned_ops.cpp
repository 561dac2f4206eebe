// SPDX-License-Identifier: Apache-2.0
#include "core/graph/pruned_ops.hpp"

#include <algorithm>
#include <set>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

std::int64_t count_kept(const Kept& kept, std::int64_t all) {
    return kept.empty() ? all : std::count(kept.begin(), kept.end(), true);
}

/// A dimension as equal slices: which of them are there, and what is kept in those, the same in each.
struct Slices {
    Kept there;   ///< by slice; never empty
    Kept within;  ///< by index in a slice; never empty
    std::int64_t count() const { return std::count(there.begin(), there.end(), true); }
    std::int64_t each() const { return std::count(within.begin(), within.end(), true); }
};

class Pruner {
public:
    explicit Pruner(const Cuts& cuts) : cuts_(cuts) {}

    PrunedGraph run(const Graph& graph) {
        PrunedGraph out;
        out.graph = graph;
        std::map<std::string, Kept> values;
        out.graph.prologue = follow(graph.prologue, values);
        Kept stream = values["x"];
        out.graph.hidden = count_kept(stream, graph.hidden);
        for (auto& block : out.graph.blocks) {
            values = {{"x", stream}};
            block.ops = follow(block.ops, values);
            stream = values["y"];
        }
        values = {{"x", stream}};
        out.graph.epilogue = follow(graph.epilogue, values);
        out.renamed = std::move(renamed_);
        return out;
    }

private:
    using Values = std::map<std::string, Kept>;

    std::vector<Op> follow(const std::vector<Op>& ops, Values& values);
    Kept follow_op(Op& op, const Values& values);
    void split(Op& op, Values& values) const;
    Kept embedding(Op& op) const;
    Kept linear(Op& op, const Kept& in) const;
    void norm(Op& op, const Kept& in) const;
    void rope(Op& op, const Kept& in) const;
    Kept attention(Op& op, const Kept& q, const Kept& k, const Kept& v) const;
    void route(Op& op, const Kept& in) const;
    void name_experts(std::vector<Op>& ops, const std::vector<std::vector<const Op*>>& originals);

    Kept cut(const std::string& tensor, int dimension) const {
        const auto found = cuts_.kept.find({tensor, dimension});
        return found == cuts_.kept.end() ? Kept() : found->second;
    }
    void expect(const Op& op, const Kept& a, const Kept& b) const {
        if (a != b) internal_error(described(op), ": a cut that does not go with those around it");
    }
    Slices slices(const Op& op, const Kept& kept, std::int64_t slices, std::int64_t each) const;

    std::string described(const Op& op) const {
        return text("removing from ", cuts_.what, ": ", op_name(op.kind), op.name.empty() ? "" : " ", op.name);
    }

    const Cuts& cuts_;
    std::map<std::string, std::string> renamed_;
};

/// Experts that are gone make no value, and what reads such a value goes with it, up to where experts are combined.
std::vector<Op> Pruner::follow(const std::vector<Op>& ops, Values& values) {
    std::vector<Op> out;
    std::set<std::string> gone;
    std::map<std::string, Kept> experts;  // by the value "routing"
    std::vector<std::vector<const Op*>> originals;
    for (const auto& original : ops) {
        Op op = original;
        if (op.expert >= 0) {
            originals.resize(std::max(originals.size(), std::size_t(op.expert) + 1));
            originals[std::size_t(op.expert)].push_back(&original);
        }
        if (op.kind == OpKind::dispatch) {
            const Kept& there = experts[op.in[1]];
            if (!there.empty() && !there[std::size_t(op.expert)]) gone.insert(op.out[0]);
        }
        if (op.kind == OpKind::combine) {
            std::erase_if(op.in, [&](const std::string& value) { return gone.contains(value); });
        } else if (std::any_of(op.in.begin(), op.in.end(), [&](const auto& value) { return gone.contains(value); }) ||
                   gone.contains(op.out[0])) {
            gone.insert(op.out.begin(), op.out.end());
            continue;
        }
        if (op.kind == OpKind::split) {
            split(op, values);
        } else {
            Kept made = follow_op(op, values);
            if (op.kind == OpKind::route) experts[op.out[0]] = made;
            values[op.out[0]] = std::move(made);
        }
        out.push_back(std::move(op));
    }
    for (const auto& [routing, there] : experts) {
        if (there.empty()) continue;
        if (experts.size() > 1)
            bad_input("removing from ", cuts_.what, ": this block has ", experts.size(),
                      " routers; experts can be removed where there is one");
        name_experts(out, originals);
    }
    return out;
}

/// Experts that stay take the numbers and names of the first ones, so that the model is one with fewer experts.
void Pruner::name_experts(std::vector<Op>& ops, const std::vector<std::vector<const Op*>>& originals) {
    std::map<std::int64_t, std::int64_t> number;  // old → new
    std::map<std::int64_t, std::size_t> position;
    for (const auto& op : ops)
        if (op.expert >= 0) number[op.expert] = 0;
    std::int64_t next = 0;
    for (auto& [was, is] : number) is = next++;
    for (auto& op : ops) {
        if (op.expert < 0) continue;
        const std::int64_t was = op.expert, is = number.at(was);
        const auto& pattern = originals[std::size_t(is)];
        const std::size_t at = position[was]++;
        op.expert = is;
        if (pattern.size() != originals[std::size_t(was)].size() || pattern[at]->kind != op.kind) continue;
        for (const auto& [mine, theirs] : {std::pair{&op.weight, &pattern[at]->weight}, {&op.bias, &pattern[at]->bias}})
            if (!mine->empty() && !theirs->empty() && *mine != *theirs) {
                renamed_[*theirs] = *mine;
                *mine = *theirs;
            }
        op.name = pattern[at]->name;
    }
}

Kept Pruner::follow_op(Op& op, const Values& values) {
    const auto in = [&](std::size_t i) -> const Kept& {
        static const Kept none;
        const auto found = values.find(op.in[i]);
        return found == values.end() ? none : found->second;
    };
    switch (op.kind) {
        case OpKind::embedding:
            return embedding(op);
        case OpKind::linear:
            return linear(op, in(0));
        case OpKind::rms_norm:
        case OpKind::layer_norm:
            norm(op, in(0));
            return in(0);
        case OpKind::rope:
            rope(op, in(0));
            return in(0);
        case OpKind::attention:
            return attention(op, in(0), in(1), in(2));
        case OpKind::mul:
        case OpKind::add:
            expect(op, in(0), in(1));
            return in(0);
        case OpKind::route:
            route(op, in(0));
            return in(0);
        case OpKind::combine:
            for (std::size_t i = 2; i < op.in.size(); ++i) expect(op, in(1), in(i));
            return in(1);
        case OpKind::split:
        case OpKind::dispatch:
        case OpKind::activation:
        case OpKind::scale:
        case OpKind::softcap:
            return in(0);
    }
    return {};
}

Kept Pruner::embedding(Op& op) const {
    const Kept out = cut(op.weight, 1);
    op.columns = count_kept(out, op.columns);
    return out;
}

Kept Pruner::linear(Op& op, const Kept& in) const {
    expect(op, in, cut(op.weight, op.transposed ? 0 : 1));
    const Kept out = cut(op.weight, op.transposed ? 1 : 0);
    if (!op.bias.empty()) expect(op, out, cut(op.bias, 0));
    op.columns = count_kept(in, op.columns);
    op.rows = count_kept(out, op.rows);
    return out;
}

Slices Pruner::slices(const Op& op, const Kept& kept, std::int64_t count, std::int64_t each) const {
    Slices out{Kept(std::size_t(count), true), Kept(std::size_t(each), true)};
    if (kept.empty()) return out;
    bool known = false;
    for (std::int64_t s = 0; s < count; ++s) {
        const auto begin = kept.begin() + s * each;
        const Kept one(begin, begin + each);
        out.there[std::size_t(s)] = std::find(one.begin(), one.end(), true) != one.end();
        if (!out.there[std::size_t(s)]) continue;
        if (known && one != out.within)
            bad_input(described(op), " works on ", count,
                      " heads of the same features; the cut leaves other features in head ", s, " than before it");
        out.within = one;
        known = true;
    }
    if (!known) bad_input(described(op), ": nothing would be left");
    return out;
}

void Pruner::norm(Op& op, const Kept& in) const {
    const std::int64_t each = op.rows / op.heads;
    const Slices left = slices(op, in, op.heads, each);
    const Kept within = left.each() == each ? Kept() : left.within;
    if (!op.weight.empty()) expect(op, within, cut(op.weight, 0));
    if (!op.bias.empty()) expect(op, within, cut(op.bias, 0));
    if (!within.empty() && cuts_.keep_divisor && op.divisor == 0) op.divisor = each;
    op.heads = left.count();
    op.rows = left.count() * left.each();
}

void Pruner::rope(Op& op, const Kept& in) const {
    const Slices left = slices(op, in, op.heads, op.head_dim);
    std::vector<std::int64_t> pairs;
    const std::int64_t half = op.rotary_dim / 2;
    for (std::int64_t i = 0; i < half; ++i) {
        const std::int64_t a = op.interleaved ? 2 * i : i, b = op.interleaved ? a + 1 : a + half;
        if (left.within[std::size_t(a)] != left.within[std::size_t(b)])
            bad_input(described(op), ": features ", a, " and ", b,
                      " of a head rotate together; a cut takes both or none");
        if (left.within[std::size_t(a)]) pairs.push_back(op.pairs.empty() ? i : op.pairs[std::size_t(i)]);
    }
    op.heads = left.count();
    op.head_dim = left.each();
    if (std::int64_t(pairs.size()) == half) return;
    if (pairs.empty()) bad_input(described(op), ": no rotating pair would be left");
    if (op.pairs.empty()) op.pairs_of = half;
    op.pairs = std::move(pairs);
    op.rotary_dim = 2 * std::int64_t(op.pairs.size());
}

/// Head h of the queries reads key-value head h / (heads / kv_heads): what stays must divide in the same way.
Kept Pruner::attention(Op& op, const Kept& q, const Kept& k, const Kept& v) const {
    const std::int64_t value_dim = core::value_dim(op), each = op.heads / op.kv_heads;
    const Slices query = slices(op, q, op.heads, op.head_dim), key = slices(op, k, op.kv_heads, op.head_dim),
                 value = slices(op, v, op.kv_heads, value_dim);
    if (query.within != key.within || key.there != value.there)
        internal_error(described(op), ": queries, keys and values are cut apart");
    std::int64_t in_group = -1;
    for (std::int64_t g = 0; g < op.kv_heads; ++g) {
        const auto begin = query.there.begin() + g * each;
        const std::int64_t left = std::count(begin, begin + each, true);
        if (!key.there[std::size_t(g)]) {
            if (left != 0) internal_error(described(op), ": queries without their key-value head ", g);
            continue;
        }
        if (in_group >= 0 && left != in_group)
            bad_input(described(op), ": every key-value head needs equally many query heads; the cut leaves ", in_group,
                      " to one and ", left, " to head ", g);
        in_group = left;
    }
    Kept out;
    if (!q.empty() || !v.empty())
        for (std::int64_t h = 0; h < op.heads; ++h)
            for (std::int64_t d = 0; d < value_dim; ++d)
                out.push_back(query.there[std::size_t(h)] && value.within[std::size_t(d)]);
    if (std::find(out.begin(), out.end(), false) == out.end()) out.clear();
    if (op.alibi && query.count() != op.heads) {
        std::vector<std::int64_t> slopes;
        for (std::int64_t h = 0; h < op.heads; ++h)
            if (query.there[std::size_t(h)])
                slopes.push_back(op.alibi_heads.empty() ? h : op.alibi_heads[std::size_t(h)]);
        if (op.alibi_heads.empty()) op.alibi_of = op.heads;
        op.alibi_heads = std::move(slopes);
    }
    op.heads = query.count();
    op.kv_heads = key.count();
    op.head_dim = query.each();
    op.value_dim = value.each() == op.head_dim ? 0 : value.each();
    return out;
}

void Pruner::split(Op& op, Values& values) const {
    const Kept in = values[op.in[0]];
    if (in.empty()) {
        for (const auto& value : op.out) values[value] = {};
        return;
    }
    const std::int64_t run = std::int64_t(in.size()) / op.groups;
    std::vector<Kept> parts(op.sizes.size());
    std::int64_t runs_left = -1;
    for (std::int64_t r = 0, at = 0; r < op.groups; ++r, at = r * run)
        for (std::size_t i = 0; i < parts.size(); ++i)
            for (std::int64_t j = 0; j < op.sizes[i] / op.groups; ++j) parts[i].push_back(in[std::size_t(at++)]);
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const std::int64_t each = op.sizes[i] / op.groups;
        std::int64_t runs = 0, left_in_run = -1;
        for (std::int64_t r = 0; r < op.groups; ++r) {
            const auto begin = parts[i].begin() + r * each;
            const std::int64_t left = std::count(begin, begin + each, true);
            if (left == 0) continue;
            if (left_in_run >= 0 && left != left_in_run)
                bad_input(described(op), ": its ", op.groups,
                          " groups must keep equally many features; the cut leaves ", left_in_run, " and ", left);
            left_in_run = left;
            ++runs;
        }
        if (runs == 0) bad_input(described(op), ": nothing would be left of its part \"", op.out[i], "\"");
        if (runs_left >= 0 && runs != runs_left)
            bad_input(described(op), ": its parts would have ", runs_left, " and ", runs, " groups");
        runs_left = runs;
        op.sizes[i] = count_kept(parts[i], 0);
        const bool all = std::find(parts[i].begin(), parts[i].end(), false) == parts[i].end();
        values[op.out[i]] = all ? Kept() : std::move(parts[i]);
    }
    op.groups = runs_left;
}

void Pruner::route(Op& op, const Kept& in) const {
    op.experts = count_kept(in, op.experts);
    if (op.top_k > op.experts)
        bad_input(described(op), ": ", op.top_k, " experts are chosen for every token, ", op.experts, " would be left");
}

}  // namespace

PrunedGraph pruned_graph(const Graph& graph, const Cuts& cuts) {
    return Pruner(cuts).run(graph);
}

std::vector<const std::vector<Op>*> all_ops(const Graph& graph) {
    std::vector<const std::vector<Op>*> out{&graph.prologue};
    for (const auto& block : graph.blocks) out.push_back(&block.ops);
    out.push_back(&graph.epilogue);
    return out;
}

}  // namespace kerf::core
