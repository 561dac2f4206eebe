// SPDX-License-Identifier: Apache-2.0
#include "core/graph/residual.hpp"

#include <map>
#include <utility>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

/// A value of a part, by how it hangs together with the stream.
struct Traced {
    enum class Kind { branch, stream, normed } kind = Kind::branch;
    std::int64_t node = -1;     ///< stream, normed: of the stream
    std::int64_t norm = -1;     ///< normed: index of the norm
    std::int64_t made_by = -1;  ///< branch: index of the op
    int readers = 0;
};

/// A value of the stream. One that nothing but a sum reads is no position: it is on its way to `sum`.
struct Node {
    std::string value, name;
    std::int64_t block = -1, sum = -1, features = 0, position = -1;
    bool read = false;
};

class StreamFinder {
public:
    StreamFinder(const Graph& graph, std::string what) : graph_(graph), what_(std::move(what)) {}

    Stream run() {
        stream_.uses.resize(graph_.blocks.size() + 2);
        start();
        for (std::size_t part = 1; part < stream_.uses.size(); ++part) follow(part);
        number_positions();
        resolve();
        return std::move(stream_);
    }

private:
    using Values = std::map<std::string, Traced>;

    [[noreturn]] void refuse(const Op& op, const std::string& why) const {
        bad_input(what_, ": ", part_name_, op.name.empty() ? "" : " ", op.name, " (", op_name(op.kind), ") ", why,
                  ", so that the coordinates of the residual stream cannot be chosen freely");
    }

    /// The prologue adds up embeddings: all of it is a branch that ends in the first position.
    void start() {
        begin(0);
        for (std::size_t i = 0; i < part_->size(); ++i) branch_op((*part_)[i], i);
        nodes_.push_back({"x", "", -1, -1, graph_.hidden, -1, true});
        trace_writers("x", 0, part_->back());
        current_ = 0;
    }

    void begin(std::size_t part) {
        index_ = part;
        part_ = &part_ops(graph_, part);
        part_name_ = part == 0                         ? "the prologue"
                     : part + 1 == stream_.uses.size() ? "the epilogue"
                                                       : graph_.blocks[part - 1].name;
        values_.clear();
        stream_.uses[part].resize(part_->size());
        for (const auto& op : *part_)
            for (const auto& name : op.in) ++values_[name].readers;
    }

    StreamUse& use(std::size_t op) { return stream_.uses[index_][op]; }

    void follow(std::size_t part) {
        begin(part);
        values_["x"].kind = Traced::Kind::stream;
        values_["x"].node = current_;
        for (std::size_t i = 0; i < part_->size(); ++i) follow_op((*part_)[i], i);
        if (part + 1 == stream_.uses.size()) return;
        const Traced& result = values_.at("y");
        if (result.kind != Traced::Kind::stream || result.node == current_)
            bad_input(what_, ": ", part_name_,
                      " does not add anything to its input, so that it has no residual stream");
        current_ = result.node;
        nodes_[std::size_t(current_)].read = true;
    }

    void follow_op(const Op& op, std::size_t i) {
        const Traced in = values_.at(op.in[0]);
        const bool is_norm = (op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm) && op.heads == 1;
        if (in.kind == Traced::Kind::stream && is_norm) {
            read(in.node, op.name);
            use(i).norm = in.node;
            values_[op.out[0]] = made(op, Traced::Kind::normed, in.node, std::int64_t(i));
        } else if (op.kind == OpKind::linear && in.kind != Traced::Kind::branch) {
            read(in.node, op.name);
            use(i).reads = in.node;
            use(i).through = in.norm;
            branch_op(op, i);
        } else if (op.kind == OpKind::dispatch && in.kind != Traced::Kind::branch) {
            if (values_.at(op.in[1]).kind != Traced::Kind::branch)
                refuse(op, "is routed by the residual stream itself");
            values_[op.out[0]] = made(op, in.kind, in.node, in.norm);
        } else if (op.kind == OpKind::add && (is_stream(op.in[0]) || is_stream(op.in[1]))) {
            sum(op, i);
        } else {
            for (const auto& name : op.in)
                if (values_.at(name).kind != Traced::Kind::branch)
                    refuse(op, "reads the residual stream, or a norm of it, without a linear between");
            branch_op(op, i);
        }
    }

    bool is_stream(const std::string& name) const { return values_.at(name).kind == Traced::Kind::stream; }

    Traced made(const Op& op, Traced::Kind kind, std::int64_t node, std::int64_t norm) {
        Traced out = values_[op.out[0]];
        out.kind = kind;
        out.node = node;
        out.norm = norm;
        return out;
    }

    void branch_op(const Op& op, std::size_t i) {
        for (const auto& name : op.out) values_[name].made_by = std::int64_t(i);
    }

    void read(std::int64_t node, const std::string& by) {
        Node& at = nodes_[std::size_t(node)];
        at.read = true;
        if (at.name.empty()) at.name = by;
    }

    void sum(const Op& op, std::size_t i) {
        if (is_stream(op.in[0]) && is_stream(op.in[1])) refuse(op, "adds the residual stream to itself");
        const std::size_t operand = is_stream(op.in[0]) ? 0 : 1;
        if (values_.at(op.in[1 - operand]).kind != Traced::Kind::branch)
            refuse(op, "adds a norm of the residual stream to it");
        const std::int64_t from = values_.at(op.in[operand]).node, node = std::int64_t(nodes_.size());
        nodes_.push_back({op.out[0], "", std::int64_t(index_) - 1, -1, nodes_[std::size_t(from)].features, -1, false});
        nodes_[std::size_t(from)].sum = node;
        use(i).from = from;
        use(i).to = node;
        use(i).operand = operand;
        trace_writers(op.in[1 - operand], node, op);
        values_[op.out[0]] = made(op, Traced::Kind::stream, node, -1);
    }

    /// The linears and tables whose outputs add up to a value that is added to the stream.
    void trace_writers(const std::string& value, std::int64_t node, const Op& sum) {
        const Traced& at = values_.at(value);
        if (at.made_by < 0) refuse(sum, text("adds \"", value, "\", which no linear makes"));
        const Op& op = (*part_)[std::size_t(at.made_by)];
        // Of the prologue's x nothing in the prologue is a reader.
        if (at.readers > (index_ == 0 && value == "x" ? 0 : 1))
            refuse(op, "makes what is added to the residual stream and is read elsewhere too");
        switch (op.kind) {
            case OpKind::linear:
            case OpKind::embedding:
                use(std::size_t(at.made_by)).writes = node;
                return;
            case OpKind::add:
                for (const auto& in : op.in) trace_writers(in, node, op);
                return;
            case OpKind::scale:
                return trace_writers(op.in[0], node, op);
            case OpKind::combine:
                for (std::size_t i = 1; i < op.in.size(); ++i) trace_writers(op.in[i], node, op);
                return;
            default:
                refuse(op, "stands between a linear and the sum that becomes the residual stream");
        }
    }

    /// Values of the stream that only a sum reads belong to the position where that sum ends.
    void number_positions() {
        for (auto& node : nodes_) {
            if (!node.read) continue;
            node.position = std::int64_t(stream_.positions.size());
            const bool inside = node.block >= 0 && node.value != "y";
            stream_.positions.push_back({node.name, node.block, node.value, inside, node.features});
        }
        for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node)
            if (node->position < 0 && node->sum >= 0) node->position = nodes_[std::size_t(node->sum)].position;
    }

    void resolve() {
        const auto position = [&](std::int64_t& node) {
            if (node >= 0) node = nodes_[std::size_t(node)].position;
        };
        for (auto& part : stream_.uses)
            for (auto& use : part) {
                position(use.norm);
                position(use.reads);
                position(use.writes);
                position(use.from);
                position(use.to);
            }
    }

    const Graph& graph_;
    std::string what_, part_name_;
    Stream stream_;
    std::vector<Node> nodes_;
    std::size_t index_ = 0;
    const std::vector<Op>* part_ = nullptr;
    Values values_;
    std::int64_t current_ = 0;
};

}  // namespace

std::int64_t Stream::input_of(std::size_t block) const {
    for (std::size_t p = positions.size(); p-- > 0;)
        if (positions[p].block < std::int64_t(block)) return std::int64_t(p);
    return 0;
}

std::vector<std::int64_t> Stream::made_by(std::size_t block) const {
    std::vector<std::int64_t> out;
    for (std::size_t p = 0; p < positions.size(); ++p)
        if (positions[p].block == std::int64_t(block)) out.push_back(std::int64_t(p));
    return out;
}

const std::vector<Op>& part_ops(const Graph& graph, std::size_t part) {
    if (part == 0) return graph.prologue;
    return part <= graph.blocks.size() ? graph.blocks[part - 1].ops : graph.epilogue;
}

std::vector<Op>& part_ops(Graph& graph, std::size_t part) {
    if (part == 0) return graph.prologue;
    return part <= graph.blocks.size() ? graph.blocks[part - 1].ops : graph.epilogue;
}

Stream find_stream(const Graph& graph, const std::string& what) {
    if (graph.prologue.empty() || graph.blocks.empty())
        bad_input(what, ": the model has no blocks, and so no residual stream");
    return StreamFinder(graph, what).run();
}

}  // namespace kerf::core
