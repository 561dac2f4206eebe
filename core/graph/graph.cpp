// SPDX-License-Identifier: Apache-2.0
#include "core/graph/graph.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

template <class Enum, std::size_t N>
using Names = std::array<std::pair<std::string_view, Enum>, N>;

constexpr Names<OpKind, 11> op_names{{{"embedding", OpKind::embedding},
                                      {"linear", OpKind::linear},
                                      {"rms_norm", OpKind::rms_norm},
                                      {"layer_norm", OpKind::layer_norm},
                                      {"rope", OpKind::rope},
                                      {"attention", OpKind::attention},
                                      {"activation", OpKind::activation},
                                      {"mul", OpKind::mul},
                                      {"add", OpKind::add},
                                      {"split", OpKind::split},
                                      {"scale", OpKind::scale}}};

constexpr Names<ActivationKind, 6> activation_names{{{"silu", ActivationKind::silu},
                                                     {"gelu", ActivationKind::gelu},
                                                     {"gelu_new", ActivationKind::gelu_new},
                                                     {"gelu_tanh", ActivationKind::gelu_tanh},
                                                     {"relu", ActivationKind::relu},
                                                     {"quick_gelu", ActivationKind::quick_gelu}}};

// A dimension beyond this is no model but a broken or hostile file; products of two stay inside int64.
constexpr std::int64_t largest_dimension = std::int64_t{1} << 30;

/// Reads the attributes of one op; every message says which adapter and which op.
class OpReader {
public:
    OpReader(const json& op, std::string where) : op_(op), where_(std::move(where)) {
        if (!op.is_object()) fail("is not an object");
    }

    [[noreturn]] void fail(const std::string& what) const { bad_input(where_, " ", what); }
    bool has(const char* key) const { return op_.contains(key) && !op_[key].is_null(); }

    std::string string(const char* key) const {
        if (!has(key) || !op_[key].is_string() || op_[key].get_ref<const std::string&>().empty())
            fail(text("needs a text \"", key, "\""));
        return op_[key].get<std::string>();
    }
    std::string string_or(const char* key, const std::string& otherwise) const {
        return has(key) ? string(key) : otherwise;
    }
    std::int64_t integer(const char* key, std::int64_t least) const {
        if (!has(key) || !op_[key].is_number_integer()) fail(text("needs a whole number \"", key, "\""));
        const auto value = op_[key].get<std::int64_t>();
        if (value < least || value > largest_dimension)
            fail(text("has \"", key, "\" = ", value, ", which is out of range"));
        return value;
    }
    std::int64_t integer_or(const char* key, std::int64_t least, std::int64_t otherwise) const {
        return has(key) ? integer(key, least) : otherwise;
    }
    double real(const char* key) const {
        if (!has(key) || !op_[key].is_number()) fail(text("needs a number \"", key, "\""));
        return op_[key].get<double>();
    }
    double real_or(const char* key, double otherwise) const { return has(key) ? real(key) : otherwise; }
    bool flag_or(const char* key, bool otherwise) const {
        if (!has(key)) return otherwise;
        if (!op_[key].is_boolean()) fail(text("needs true or false as \"", key, "\""));
        return op_[key].get<bool>();
    }
    std::vector<std::string> names(const char* key) const {
        if (has(key) && op_[key].is_string()) return {string(key)};
        if (!has(key) || !op_[key].is_array())
            fail(text("needs \"", key, "\": the name of a value or a list of names"));
        std::vector<std::string> out;
        for (const auto& name : op_[key]) {
            if (!name.is_string()) fail(text("has something else than names in \"", key, "\""));
            out.push_back(name.get<std::string>());
        }
        return out;
    }
    std::vector<std::int64_t> integers(const char* key) const {
        if (!has(key) || !op_[key].is_array() || op_[key].empty()) fail(text("needs a list \"", key, "\""));
        std::vector<std::int64_t> out;
        for (const auto& value : op_[key]) {
            if (!value.is_number_integer() || value.get<std::int64_t>() < 1 ||
                value.get<std::int64_t>() > largest_dimension)
                fail(text("has something else than sizes in \"", key, "\""));
            out.push_back(value.get<std::int64_t>());
        }
        return out;
    }
    const json& child(const char* key) const { return op_[key]; }
    const std::string& where() const { return where_; }

private:
    const json& op_;
    std::string where_;
};

RopeScaling read_scaling(const OpReader& op) {
    if (!op.has("scaling")) return {};
    const OpReader scaling(op.child("scaling"), op.where() + " scaling");
    RopeScaling out;
    const auto type = scaling.string("type");
    out.factor = scaling.real("factor");
    if (!(out.factor > 0)) scaling.fail("needs a factor above 0");
    if (type == "linear") {
        out.kind = RopeScaling::Kind::linear;
    } else if (type == "llama3") {
        out.kind = RopeScaling::Kind::llama3;
        out.low_freq_factor = scaling.real("low_freq_factor");
        out.high_freq_factor = scaling.real("high_freq_factor");
        out.original_positions = scaling.integer("original_positions", 1);
        if (!(out.high_freq_factor > out.low_freq_factor)) scaling.fail("needs high_freq_factor > low_freq_factor");
    } else {
        scaling.fail(text("has the unknown type \"", type, "\""));
    }
    return out;
}

void read_attributes(const OpReader& in, Op& op) {
    const auto shape = [&] {
        const auto sizes = in.integers("shape");
        if (sizes.size() != 2) in.fail("needs a \"shape\" of two sizes");
        op.rows = sizes[0];
        op.columns = sizes[1];
    };
    switch (op.kind) {
        case OpKind::embedding:
            shape();
            op.weight = in.string("weight");
            op.offset = in.integer_or("offset", 0, 0);
            break;
        case OpKind::linear:
            shape();
            op.name = in.string("name");
            op.weight = in.string_or("weight", op.name + ".weight");
            if (in.flag_or("bias", false)) op.bias = in.string_or("bias_name", op.name + ".bias");
            op.role = in.string_or("role", "");
            op.transposed = in.flag_or("transposed", false);
            break;
        case OpKind::rms_norm:
        case OpKind::layer_norm:
            op.name = in.string("name");
            op.rows = in.integer("size", 1);
            op.eps = in.real("eps");
            if (op.kind == OpKind::rms_norm || in.flag_or("affine", true)) op.weight = op.name + ".weight";
            if (op.kind == OpKind::layer_norm && !op.weight.empty() && in.flag_or("bias", true))
                op.bias = op.name + ".bias";
            op.value = in.real_or("offset", 0);
            break;
        case OpKind::rope:
            op.heads = in.integer("heads", 1);
            op.head_dim = in.integer("head_dim", 2);
            op.rotary_dim = in.integer_or("rotary_dim", 2, op.head_dim);
            op.theta = in.real("theta");
            op.interleaved = in.flag_or("interleaved", false);
            op.scaling = read_scaling(in);
            if (op.rotary_dim > op.head_dim || op.rotary_dim % 2 != 0)
                in.fail("needs an even rotary_dim within head_dim");
            if (!(op.theta > 0)) in.fail("needs theta above 0");
            break;
        case OpKind::attention:
            op.heads = in.integer("heads", 1);
            op.kv_heads = in.integer("kv_heads", 1);
            op.head_dim = in.integer("head_dim", 1);
            op.value = in.real("scale");
            op.window = in.integer_or("window", 0, 0);
            if (op.heads % op.kv_heads != 0)
                in.fail(text("has ", op.heads, " query heads, which ", op.kv_heads, " key-value heads do not divide"));
            break;
        case OpKind::activation: {
            const auto kind = in.string("kind");
            const auto* known = std::find_if(activation_names.begin(), activation_names.end(),
                                             [&](const auto& n) { return n.first == kind; });
            if (known == activation_names.end()) in.fail(text("has the unknown activation \"", kind, "\""));
            op.activation = known->second;
            break;
        }
        case OpKind::split:
            op.sizes = in.integers("sizes");
            break;
        case OpKind::scale:
            op.value = in.real("value");
            break;
        case OpKind::mul:
        case OpKind::add:
            break;
    }
}

std::size_t inputs_of(OpKind kind) {
    return kind == OpKind::attention ? 3 : kind == OpKind::mul || kind == OpKind::add ? 2 : 1;
}

Op read_op(const json& document, const std::string& where) {
    const OpReader in(document, where);
    Op op;
    const auto kind = in.string("op");
    const auto* known = std::find_if(op_names.begin(), op_names.end(), [&](const auto& n) { return n.first == kind; });
    if (known == op_names.end()) in.fail(text("is the unknown op \"", kind, "\""));
    op.kind = known->second;
    op.in = in.names("in");
    op.out = in.names("out");
    read_attributes(in, op);
    const std::size_t makes = op.kind == OpKind::split ? op.sizes.size() : 1;
    if (op.in.size() != inputs_of(op.kind) || op.out.size() != makes)
        in.fail(text("(", kind, ") takes ", inputs_of(op.kind), " values and makes ", makes, ", not ", op.in.size(),
                     " and ", op.out.size()));
    return op;
}

/// The width that each value has, followed through a list of ops; a mismatch is the adapter's mistake and is named.
class Widths {
public:
    Widths(std::map<std::string, std::int64_t> known, std::string who)
        : known_(std::move(known)), who_(std::move(who)) {}

    void follow(const Op& op, std::size_t index) {
        where_ = text(who_, " op ", index, " (", op_name(op.kind), op.name.empty() ? "" : " ", op.name, ")");
        for (std::size_t i = 0; i < op.out.size(); ++i) {
            const auto width = width_out(op, i);
            if (!known_.emplace(op.out[i], width).second)
                bad_input(where_, ": the value \"", op.out[i], "\" is made twice");
        }
    }
    std::int64_t of(const std::string& value) const {
        const auto found = known_.find(value);
        if (found == known_.end())
            bad_input(where_.empty() ? who_ : where_, ": nothing makes the value \"", value, "\"");
        return found->second;
    }

private:
    void expect(const std::string& value, std::int64_t width) const {
        if (of(value) != width)
            bad_input(where_, ": \"", value, "\" has ", of(value), " features, ", width, " are expected");
    }
    std::int64_t width_out(const Op& op, std::size_t index) const {
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
                return of(op.in[0]);
            case OpKind::attention:
                expect(op.in[0], op.heads * op.head_dim);
                expect(op.in[1], op.kv_heads * op.head_dim);
                expect(op.in[2], op.kv_heads * op.head_dim);
                return op.heads * op.head_dim;
            case OpKind::mul:
            case OpKind::add:
                expect(op.in[1], of(op.in[0]));
                return of(op.in[0]);
            case OpKind::split: {
                std::int64_t sum = 0;
                for (const auto size : op.sizes) sum += size;
                expect(op.in[0], sum);
                return op.sizes[index];
            }
            case OpKind::activation:
            case OpKind::scale:
                return of(op.in[0]);
        }
        return 0;
    }

    std::map<std::string, std::int64_t> known_;
    std::string who_, where_;
};

std::vector<Op> read_ops(const json& list, const std::string& where, std::map<std::string, std::int64_t> start,
                         const std::string& ends_with, std::int64_t& end_width) {
    if (!list.is_array()) bad_input(where, ": a list of ops is expected");
    std::vector<Op> ops;
    Widths widths(std::move(start), where);
    for (std::size_t i = 0; i < list.size(); ++i) {
        ops.push_back(read_op(list[i], text(where, " op ", i)));
        for (const auto& value : ops.back().in) widths.of(value);
        widths.follow(ops.back(), i);
    }
    end_width = widths.of(ends_with);
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

json op_json(const Op& op) {
    json out{{"op", op_name(op.kind)}, {"in", op.in}};
    out["out"] = op.kind == OpKind::split ? json(op.out) : json(op.out[0]);
    switch (op.kind) {
        case OpKind::embedding:
            out.update({{"weight", op.weight}, {"shape", {op.rows, op.columns}}, {"offset", op.offset}});
            break;
        case OpKind::linear:
            out.update({{"name", op.name},
                        {"shape", {op.rows, op.columns}},
                        {"weight", op.weight},
                        {"bias", !op.bias.empty()}});
            if (!op.bias.empty()) out["bias_name"] = op.bias;
            if (!op.role.empty()) out["role"] = op.role;
            if (op.transposed) out["transposed"] = true;
            break;
        case OpKind::rms_norm:
            out.update({{"name", op.name}, {"size", op.rows}, {"eps", op.eps}, {"offset", op.value}});
            break;
        case OpKind::layer_norm:
            out.update({{"name", op.name},
                        {"size", op.rows},
                        {"eps", op.eps},
                        {"affine", !op.weight.empty()},
                        {"bias", !op.bias.empty()}});
            break;
        case OpKind::rope:
            out.update({{"heads", op.heads},
                        {"head_dim", op.head_dim},
                        {"rotary_dim", op.rotary_dim},
                        {"theta", op.theta},
                        {"interleaved", op.interleaved}});
            if (op.scaling.kind == RopeScaling::Kind::linear)
                out["scaling"] = {{"type", "linear"}, {"factor", op.scaling.factor}};
            if (op.scaling.kind == RopeScaling::Kind::llama3)
                out["scaling"] = {{"type", "llama3"},
                                  {"factor", op.scaling.factor},
                                  {"low_freq_factor", op.scaling.low_freq_factor},
                                  {"high_freq_factor", op.scaling.high_freq_factor},
                                  {"original_positions", op.scaling.original_positions}};
            break;
        case OpKind::attention:
            out.update({{"heads", op.heads},
                        {"kv_heads", op.kv_heads},
                        {"head_dim", op.head_dim},
                        {"scale", op.value},
                        {"window", op.window}});
            break;
        case OpKind::activation:
            out["kind"] = std::find_if(activation_names.begin(), activation_names.end(), [&](const auto& n) {
                              return n.second == op.activation;
                          })->first;
            break;
        case OpKind::split:
            out["sizes"] = op.sizes;
            break;
        case OpKind::scale:
            out["value"] = op.value;
            break;
        case OpKind::mul:
        case OpKind::add:
            break;
    }
    return out;
}

json ops_json(const std::vector<Op>& ops) {
    json out = json::array();
    for (const auto& op : ops) out.push_back(op_json(op));
    return out;
}

}  // namespace

std::string_view op_name(OpKind kind) {
    return std::find_if(op_names.begin(), op_names.end(), [&](const auto& n) { return n.second == kind; })->first;
}

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
        if (block_width != width) block.fail(text("takes ", width, " features and gives ", block_width));
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
                add(op.weight, {op.rows});
                add(op.bias, {op.rows});
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
