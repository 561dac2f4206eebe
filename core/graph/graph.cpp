// SPDX-License-Identifier: Apache-2.0
#include "core/graph/graph.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/graph/op_json.hpp"
#include "core/graph/value_shapes.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

std::vector<Op> read_ops(const json& list, const std::string& where, const std::map<std::string, std::int64_t>& start,
                         const std::string& ends_with, std::int64_t& end_width) {
    if (!list.is_array()) bad_input(where, ": a list of ops is expected");
    std::vector<Op> ops;
    ValueShapes shapes(start, where);
    for (std::size_t i = 0; i < list.size(); ++i) {
        ops.push_back(read_op(list[i], text(where, " op ", i)));
        shapes.follow(ops.back(), i);
    }
    end_width = shapes.width_of_all(ends_with);
    return ops;
}

void check_names(const Graph& graph, std::string_view who) {
    std::set<std::string> linears;
    const auto check = [&](const std::vector<Op>& ops) {
        for (const auto& op : ops)
            if (op.kind == OpKind::linear && !linears.insert(op.name).second)
                bad_input(who, ": two linears are named \"", op.name, "\"");
    };
    check(graph.prologue);
    for (const auto& block : graph.blocks) check(block.ops);
    check(graph.epilogue);
}

json ops_json(const std::vector<Op>& ops) {
    json out = json::array();
    for (const auto& op : ops) out.push_back(op_json(op));
    return out;
}

}  // namespace

Graph parse_graph(const json& document, std::string_view who) {
    const OpReader top(document, text(who, ": the graph document"));
    if (top.integer("graph", 0) != 1)
        top.fail(text("is of version ", top.integer("graph", 0), ", this kerf reads version 1"));
    Graph graph;
    graph.family = top.string("family");
    graph.hidden = top.integer("hidden", 1);
    graph.vocabulary = top.integer("vocabulary", 1);
    graph.positions = top.integer_or("positions", 0, 0);
    for (const char* part : {"prologue", "blocks", "epilogue"})
        if (!top.has(part) || !top.child(part).is_array()) top.fail(text("needs a list \"", part, "\""));

    std::int64_t width = 0, block_width = 0;
    graph.prologue =
        read_ops(document["prologue"], text(who, " prologue"), {{"tokens", 0}, {"positions", 0}}, "x", width);
    for (std::size_t b = 0; b < document["blocks"].size(); ++b) {
        const OpReader block(document["blocks"][b], text(who, " block ", b));
        if (!block.has("ops")) block.fail("needs a list \"ops\"");
        const std::string name = block.string("name");
        graph.blocks.push_back(
            {name, read_ops(block.child("ops"), text(who, " ", name), {{"x", width}}, "y", block_width)});
        width = block_width;  // rotated blocks may give more or fewer features than they take
    }
    graph.epilogue = read_ops(document["epilogue"], text(who, " epilogue"), {{"x", width}}, "logits", block_width);
    if (block_width != graph.vocabulary)
        top.fail(text("has logits of ", block_width, " features for a vocabulary of ", graph.vocabulary));
    check_names(graph, who);
    return graph;
}

json graph_json(const Graph& graph) {
    json blocks = json::array();
    for (const auto& block : graph.blocks) blocks.push_back({{"name", block.name}, {"ops", ops_json(block.ops)}});
    return {{"graph", 1},
            {"family", graph.family},
            {"hidden", graph.hidden},
            {"vocabulary", graph.vocabulary},
            {"positions", graph.positions},
            {"prologue", ops_json(graph.prologue)},
            {"blocks", std::move(blocks)},
            {"epilogue", ops_json(graph.epilogue)}};
}

std::vector<ExpectedTensor> expected_tensors(const std::vector<Op>& ops) {
    std::vector<ExpectedTensor> out;
    const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
        const bool known = std::any_of(out.begin(), out.end(), [&](const auto& t) { return t.name == name; });
        if (!name.empty() && !known) out.push_back({name, std::move(shape)});
    };
    for (const auto& op : ops) {
        switch (op.kind) {
            case OpKind::embedding:
                add(op.weight, {op.rows, op.columns});
                break;
            case OpKind::linear:
                add(op.weight, op.transposed ? std::vector{op.columns, op.rows} : std::vector{op.rows, op.columns});
                add(op.bias, {op.rows});
                break;
            case OpKind::rms_norm:
            case OpKind::layer_norm:
                add(op.weight, {op.rows / op.heads});
                add(op.bias, {op.rows / op.heads});
                break;
            default:
                break;
        }
    }
    return out;
}

std::vector<ExpectedTensor> expected_tensors(const Graph& graph) {
    std::vector<ExpectedTensor> out;
    std::set<std::string> known;
    const auto add = [&](const std::vector<Op>& ops) {
        for (auto& tensor : expected_tensors(ops))
            if (known.insert(tensor.name).second) out.push_back(std::move(tensor));
    };
    add(graph.prologue);
    for (const auto& block : graph.blocks) add(block.ops);
    add(graph.epilogue);
    return out;
}

std::int64_t parameter_count(const std::vector<ExpectedTensor>& tensors) {
    std::int64_t count = 0;
    for (const auto& tensor : tensors) {
        std::int64_t elements = 1;
        for (const auto size : tensor.shape) elements *= size;
        count += elements;
    }
    return count;
}

}  // namespace kerf::core
