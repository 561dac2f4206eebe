// SPDX-License-Identifier: Apache-2.0
#include "core/graph/residual_edit.hpp"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using Bases = std::vector<std::shared_ptr<const Basis>>;

/// How many ops read each tensor. One that several read (tied embeddings) is not one thing any more once they are
/// edited.
std::map<std::string, int> readers_of_tensors(const Graph& graph) {
    std::map<std::string, int> out;
    for (std::size_t part = 0; part < graph.blocks.size() + 2; ++part)
        for (const auto& op : part_ops(graph, part)) {
            if (!op.weight.empty()) ++out[op.weight];
            if (!op.bias.empty()) ++out[op.bias];
        }
    return out;
}

/// What becomes of a linear: left · W · right, and what is added to its bias: W times a column.
struct LinearChange {
    std::vector<Factor> left, right;
    std::string shift;  ///< tensor [in]
    std::int64_t rows = 0, columns = 0;
};

class Changer {
public:
    Changer(const std::map<std::string, int>& readers, TensorEdits& edits) : readers_(readers), edits_(edits) {}

    void linear(Op& op, const LinearChange& change) {
        const Op before = op;
        op.rows = change.rows;
        op.columns = change.columns;
        if (!change.left.empty() || !change.shift.empty()) bias(op, before, change);
        if (change.left.empty() && change.right.empty()) return;
        op.weight = own_name(op.weight, op.name + ".weight");
        const auto shape = op.transposed ? std::vector{op.columns, op.rows} : std::vector{op.rows, op.columns};
        edits_.computed.insert_or_assign(
            op.weight,
            computation(
                {shape, op.transposed, before.weight, {{before.weight, op.transposed, change.left, change.right}}}));
    }

    void table(Op& op, Factor factor, std::int64_t columns) {
        op.columns = columns;
        edits_.computed.insert_or_assign(
            op.weight,
            computation({{op.rows, columns}, false, op.weight, {{op.weight, false, {}, {std::move(factor)}}}}));
    }

private:
    void bias(Op& op, const Op& before, const LinearChange& change) {
        if (before.bias.empty() && change.shift.empty()) return;
        ProductSum sum{{op.rows}, false, before.weight, {}};
        if (!before.bias.empty()) sum.terms.push_back({before.bias, false, change.left, {}});
        if (!change.shift.empty())
            sum.terms.push_back(
                {before.weight, before.transposed, change.left, {{Factor::Kind::column, nullptr, change.shift, 0}}});
        op.bias = before.bias.empty() ? op.name + ".bias" : own_name(before.bias, op.name + ".bias");
        edits_.computed.insert_or_assign(op.bias, computation(std::move(sum)));
    }

    std::string own_name(const std::string& shared, const std::string& own) const {
        return readers_.at(shared) > 1 ? own : shared;
    }

    const std::map<std::string, int>& readers_;
    TensorEdits& edits_;
};

// ---- Fusion
// ----------------------------------------------------------------------------------------------------------

/// Whether the stream's norms take the mean away; refuses what cannot be fused.
bool takes_mean(const Graph& graph, const Stream& stream, const char* what) {
    const Op *layer = nullptr, *rms = nullptr, *bare = nullptr;
    for (std::size_t part = 0; part < stream.uses.size(); ++part)
        for (std::size_t i = 0; i < stream.uses[part].size(); ++i) {
            const Op& op = part_ops(graph, part)[i];
            const StreamUse& use = stream.uses[part][i];
            if (use.norm >= 0) (op.kind == OpKind::layer_norm ? layer : rms) = &op;
            if (use.reads >= 0 && use.through < 0) bare = &op;
            if (use.norm >= 0 && op.kind == OpKind::layer_norm && op.divisor > 0 && op.divisor != op.rows)
                bad_input(what, ": ", op.name, " takes its mean over features that were pruned");
        }
    if (layer && rms)
        bad_input(what, ": ", layer->name, " takes the mean of the residual stream away, ", rms->name,
                  " does not; one of both kinds can be fused");
    if (layer && bare)
        bad_input(what, ": ", bare->name, " reads the residual stream without the layer norm that takes its mean away");
    return layer != nullptr;
}

class Fuser {
public:
    Fuser(const Graph& graph, FuseOptions options)
        : graph_(graph),
          stream_(find_stream(graph, "norm fusion")),
          centred_(takes_mean(graph, stream_, "norm fusion")),
          centre_tables_(centred_ || options.centre_tables),
          readers_(readers_of_tensors(graph)) {}

    Edit run() {
        edit_.graph = graph_;
        Changer changer(readers_, edit_.tensors);
        for (std::size_t part = 0; part < stream_.uses.size(); ++part)
            for (std::size_t i = 0; i < stream_.uses[part].size(); ++i) change(part, i, changer);
        edit_.graph = parse_graph(graph_json(edit_.graph), "norm fusion");
        return std::move(edit_);
    }

private:
    void change(std::size_t part, std::size_t i, Changer& changer) {
        const StreamUse& use = stream_.uses[part][i];
        Op& op = part_ops(edit_.graph, part)[i];
        if (use.norm >= 0) {
            op.kind = OpKind::rms_norm;
            op.weight.clear();
            op.bias.clear();
            op.value = 0;
        }
        if (op.kind == OpKind::embedding && use.writes >= 0 && centre_tables_) changer.table(op, {}, op.columns);
        if (op.kind != OpKind::linear || (use.reads < 0 && use.writes < 0)) return;
        LinearChange change{{}, {}, {}, op.rows, op.columns};
        if (use.writes >= 0 && centred_) change.left.push_back({});
        if (use.through >= 0) {
            const Op& norm = part_ops(graph_, part)[std::size_t(use.through)];
            if (!norm.weight.empty())
                change.right.push_back(
                    {Factor::Kind::diagonal, nullptr, norm.weight, norm.kind == OpKind::rms_norm ? norm.value : 0});
            change.shift = norm.bias;
        }
        changer.linear(op, change);
    }

    const Graph& graph_;
    Stream stream_;
    bool centred_, centre_tables_;
    std::map<std::string, int> readers_;
    Edit edit_;
};

// ---- Rotation
// --------------------------------------------------------------------------------------------------------

class PartRotator {
public:
    PartRotator(const Graph& graph, const Stream& stream, std::size_t part, const Bases& bases,
                const std::vector<Readers>& replaced)
        : graph_(graph),
          stream_(stream),
          part_(part),
          bases_(bases),
          replaced_(replaced),
          readers_(readers_of_tensors(graph)),
          changer_(readers_, out_.tensors) {}

    RotatedPart run() {
        const auto& ops = part_ops(graph_, part_);
        for (std::size_t i = 0; i < ops.size(); ++i) {
            Op op = ops[i];
            change(op, stream_.uses[part_][i]);
            out_.ops.push_back(std::move(op));
        }
        return std::move(out_);
    }

private:
    const std::shared_ptr<const Basis>& basis(std::int64_t position) const { return bases_[std::size_t(position)]; }
    /// What multiplies a reader of a position that has a basis.
    Factor reader(std::int64_t position, bool behind_norm) const {
        Factor out{Factor::Kind::basis, basis(position), {}, 0};
        if (replaced_.empty()) return out;
        const Readers& other = replaced_[std::size_t(position)];
        if (const auto& matrix = behind_norm ? other.normed : other.plain) out.basis = matrix;
        return out;
    }
    std::int64_t size(std::int64_t position) const {
        return basis(position) ? basis(position)->size() : stream_.positions[std::size_t(position)].features;
    }

    void change(Op& op, const StreamUse& use) {
        if (use.norm >= 0) {
            if (op.kind != OpKind::rms_norm || !op.weight.empty())
                internal_error("rotate: ", op.name, " is not fused into what reads it");
            if (size(use.norm) != op.rows && op.divisor == 0) op.divisor = op.rows;
            op.rows = size(use.norm);
        }
        if (use.from >= 0 && use.from != use.to && basis(use.from) != basis(use.to)) skip(op, use);
        if (op.kind == OpKind::embedding && use.writes >= 0 && basis(use.writes))
            changer_.table(op, {Factor::Kind::basis, basis(use.writes), {}, 0}, size(use.writes));
        if (op.kind != OpKind::linear) return;
        LinearChange change{{}, {}, {}, op.rows, op.columns};
        if (use.writes >= 0 && basis(use.writes)) {
            change.left.push_back({Factor::Kind::transposed, basis(use.writes), {}, 0});
            change.rows = size(use.writes);
        }
        if (use.reads >= 0 && basis(use.reads)) {
            change.right.push_back(reader(use.reads, use.through >= 0));
            change.columns = size(use.reads);
        }
        if (stays_tied(op, change)) {
            op.columns = change.columns;
            return;
        }
        changer_.linear(op, change);
    }

    /// Whether a linear shares its weight with an embedding that is multiplied by the very same matrix.
    bool stays_tied(const Op& op, const LinearChange& change) const {
        if (!change.left.empty() || change.right.size() != 1) return false;
        for (std::size_t i = 0; i < graph_.prologue.size(); ++i) {
            const Op& table = graph_.prologue[i];
            const std::int64_t writes = stream_.uses[0][i].writes;
            if (table.kind == OpKind::embedding && table.weight == op.weight && !op.transposed && writes >= 0 &&
                basis(writes) == change.right[0].basis)
                return readers_.at(op.weight) == 2;
        }
        return false;
    }

    /// x' + f(x) with x' = x Qᵀ Q' takes the way of a linear.
    void skip(Op& sum, const StreamUse& use) {
        if (part_ == 0 || part_ > graph_.blocks.size()) internal_error("rotate: a shortcut outside the blocks");
        Op op;
        op.kind = OpKind::linear;
        op.role = "shortcut";
        op.name = text(graph_.blocks[part_ - 1].name, ".shortcut_", skips_++);
        op.weight = op.name + ".weight";
        op.rows = size(use.to);
        op.columns = size(use.from);
        op.in = {sum.in[use.operand]};
        op.out = {sum.in[use.operand] + " in other coordinates"};
        sum.in[use.operand] = op.out[0];
        Product product;
        if (basis(use.from)) product.right.push_back(reader(use.from, false));
        if (basis(use.to)) product.left.push_back({Factor::Kind::transposed, basis(use.to), {}, 0});
        out_.tensors.computed.emplace(op.weight,
                                      computation({{op.rows, op.columns}, false, dtype_model(), {std::move(product)}}));
        out_.ops.push_back(std::move(op));
    }

    /// A weight of the block that the shortcut has its dtype of.
    const std::string& dtype_model() const {
        for (const auto& op : part_ops(graph_, part_))
            if (op.kind == OpKind::linear) return op.weight;
        internal_error("rotate: a block without linears");
    }

    const Graph& graph_;
    const Stream& stream_;
    std::size_t part_;
    const Bases& bases_;
    const std::vector<Readers>& replaced_;
    std::map<std::string, int> readers_;
    RotatedPart out_;
    Changer changer_;
    int skips_ = 0;
};

// ---- Norms with weights
// -------------------------------------------------------------------------------------------------------------------

class NormRestorer {
public:
    NormRestorer(const Graph& rotated, const Graph& original)
        : rotated_(rotated),
          original_(original),
          stream_(find_stream(rotated, "restoring norms")),
          readers_(readers_of_tensors(rotated)) {}

    std::optional<Edit> run() {
        edit_.graph = rotated_;
        Changer changer(readers_, edit_.tensors);
        for (std::size_t part = 0; part < stream_.uses.size(); ++part)
            for (std::size_t i = 0; i < stream_.uses[part].size(); ++i)
                if (!change(part, i, changer)) return {};
        edit_.graph = parse_graph(graph_json(edit_.graph), "restoring norms");
        return std::move(edit_);
    }

private:
    bool change(std::size_t part, std::size_t i, Changer& changer) {
        const StreamUse& use = stream_.uses[part][i];
        const auto &ops = part_ops(rotated_, part), &before = part_ops(original_, part);
        if (ops.size() != before.size() || ops[i].role == "shortcut") return false;
        Op& op = part_ops(edit_.graph, part)[i];
        if (use.norm >= 0) {
            if (before[i].kind != OpKind::rms_norm || before[i].weight.empty() || before[i].divisor > 0) return false;
            const double share = features_share(ops[i]);
            op.weight = before[i].weight;
            op.value = before[i].value;
            op.eps *= share;
            op.divisor = 0;
            ProductSum ones{{op.rows}, false, dtype_model(part, i), {}, 1 - op.value};
            edit_.tensors.computed.insert_or_assign(op.weight, computation(std::move(ones)));
        }
        if (op.kind != OpKind::linear || use.reads < 0 || use.through < 0) return true;
        const double share = features_share(ops[std::size_t(use.through)]);
        LinearChange scaled{{}, {}, {}, op.rows, op.columns};
        if (share != 1) scaled.right.push_back({Factor::Kind::diagonal, nullptr, {}, std::sqrt(share)});
        changer.linear(op, scaled);
        return true;
    }

    static double features_share(const Op& norm) {
        return norm.divisor > 0 ? double(norm.divisor) / double(norm.rows) : 1;
    }
    /// A weight that the norm's own has the dtype of: of a linear behind it.
    const std::string& dtype_model(std::size_t part, std::size_t norm) const {
        const auto& ops = part_ops(rotated_, part);
        for (std::size_t i = 0; i < ops.size(); ++i)
            if (stream_.uses[part][i].through == std::int64_t(norm)) return ops[i].weight;
        internal_error("restoring norms: nothing reads ", ops[norm].name);
    }

    const Graph &rotated_, &original_;
    Stream stream_;
    std::map<std::string, int> readers_;
    Edit edit_;
};

void check_bases(const Stream& stream, const Bases& bases) {
    if (bases.size() != stream.positions.size())
        internal_error("rotate: ", bases.size(), " bases for ", stream.positions.size(), " positions");
    for (std::size_t p = 0; p < bases.size(); ++p)
        if (bases[p] && (bases[p]->features() != stream.positions[p].features || bases[p]->size() < 1 ||
                         bases[p]->size() > bases[p]->features()))
            internal_error("rotate: a basis of ", bases[p]->features(), " x ", bases[p]->size(), " at ",
                           stream.positions[p].name, ", which has ", stream.positions[p].features, " features");
}

}  // namespace

Edit fuse_norms(const Graph& graph, FuseOptions options) {
    return Fuser(graph, options).run();
}

RotatedPart rotate_part(const Graph& graph, const Stream& stream, std::size_t part, const Bases& bases,
                        const std::vector<Readers>& readers) {
    check_bases(stream, bases);
    return PartRotator(graph, stream, part, bases, readers).run();
}

std::optional<Edit> restore_norms(const Graph& rotated, const Graph& original) {
    return NormRestorer(rotated, original).run();
}

Edit rotate(const Graph& graph, const Stream& stream, const Bases& bases, const std::vector<Readers>& readers) {
    Edit edit;
    edit.graph = graph;
    for (std::size_t part = 0; part < stream.uses.size(); ++part) {
        RotatedPart made = rotate_part(graph, stream, part, bases, readers);
        part_ops(edit.graph, part) = std::move(made.ops);
        edit.tensors.computed.merge(made.tensors.computed);
    }
    if (bases[0]) edit.graph.hidden = bases[0]->size();
    edit.graph = parse_graph(graph_json(edit.graph), "rotating the residual stream");
    return edit;
}

}  // namespace kerf::core
