// SPDX-License-Identifier: Apache-2.0
#include "core/graph/op_json.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace kerf::core {
namespace {

using nlohmann::json;

template <class Enum, std::size_t N>
using Names = std::array<std::pair<std::string_view, Enum>, N>;

constexpr Names<OpKind, 15> op_names{{{"embedding", OpKind::embedding},
                                      {"linear", OpKind::linear},
                                      {"rms_norm", OpKind::rms_norm},
                                      {"layer_norm", OpKind::layer_norm},
                                      {"rope", OpKind::rope},
                                      {"attention", OpKind::attention},
                                      {"activation", OpKind::activation},
                                      {"mul", OpKind::mul},
                                      {"add", OpKind::add},
                                      {"split", OpKind::split},
                                      {"scale", OpKind::scale},
                                      {"softcap", OpKind::softcap},
                                      {"route", OpKind::route},
                                      {"dispatch", OpKind::dispatch},
                                      {"combine", OpKind::combine}}};

constexpr Names<ActivationKind, 6> activation_names{{{"silu", ActivationKind::silu},
                                                     {"gelu", ActivationKind::gelu},
                                                     {"gelu_new", ActivationKind::gelu_new},
                                                     {"gelu_tanh", ActivationKind::gelu_tanh},
                                                     {"relu", ActivationKind::relu},
                                                     {"quick_gelu", ActivationKind::quick_gelu}}};

RopeScaling read_scaling(const OpReader& op, std::int64_t rotary_dim) {
    if (!op.has("scaling")) return {};
    const OpReader scaling(op.child("scaling"), op.where() + " scaling");
    RopeScaling out;
    const auto type = scaling.string("type");
    if (type == "longrope") {
        out.kind = RopeScaling::Kind::longrope;
        out.short_factors = scaling.reals("short", rotary_dim / 2);
        out.long_factors = scaling.reals("long", rotary_dim / 2);
        out.original_positions = scaling.integer("original_positions", 1);
        out.attention_factor = scaling.real("attention_factor");
        for (const auto* factors : {&out.short_factors, &out.long_factors})
            for (const double factor : *factors)
                if (!(factor > 0)) scaling.fail("needs factors above 0");
        return out;
    }
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

void read_shape(const OpReader& in, Op& op) {
    const auto sizes = in.integers("shape");
    if (sizes.size() != 2) in.fail("needs a \"shape\" of two sizes");
    for (const auto size : sizes)
        if (size > largest_side) in.fail(text("has a side of ", size, " in \"shape\", more than ", largest_side));
    op.rows = sizes[0];
    op.columns = sizes[1];
}

void read_linear(const OpReader& in, Op& op) {
    read_shape(in, op);
    op.name = in.string("name");
    op.weight = in.string_or("weight", op.name + ".weight");
    if (in.flag_or("bias", false)) op.bias = in.string_or("bias_name", op.name + ".bias");
    op.role = in.string_or("role", "");
    op.transposed = in.flag_or("transposed", false);
}

void read_norm(const OpReader& in, Op& op) {
    op.name = in.string("name");
    op.rows = in.integer("size", 1);
    op.eps = in.real("eps");
    if (!(op.eps >= 0)) in.fail(text("needs an eps of 0 or more, not ", op.eps));
    op.heads = in.integer_or("heads", 1, 1);
    if (op.rows % op.heads != 0)
        in.fail(text("has ", op.rows, " features, which do not split into ", op.heads, " heads"));
    if (in.flag_or("affine", true)) op.weight = op.name + ".weight";
    if (op.kind == OpKind::layer_norm && !op.weight.empty() && in.flag_or("bias", true)) op.bias = op.name + ".bias";
    op.value = in.real_or("offset", 0);
    op.divisor = in.integer_or("divisor", op.rows / op.heads, 0);
}

/// Of `of` things the ones that are there: a list that ascends.
std::vector<std::int64_t> read_kept(const OpReader& in, const char* key, const char* of_key, std::int64_t count,
                                    std::int64_t& of) {
    if (!in.has(key)) return {};
    of = in.integer(of_key, count);
    const auto kept = in.integers(key, 0);
    for (std::size_t i = 0; i < kept.size(); ++i)
        if (kept[i] >= of || (i > 0 && kept[i] <= kept[i - 1]))
            in.fail(text("needs an ascending list of numbers below ", of, " as \"", key, "\""));
    if (std::int64_t(kept.size()) != count) in.fail(text("has ", kept.size(), " \"", key, "\" for ", count));
    return kept;
}

void read_rope(const OpReader& in, Op& op) {
    op.heads = in.integer("heads", 1);
    op.head_dim = in.integer("head_dim", 2);
    op.rotary_dim = in.integer_or("rotary_dim", 2, op.head_dim);
    op.theta = in.real("theta");
    op.interleaved = in.flag_or("interleaved", false);
    if (op.rotary_dim > op.head_dim || op.rotary_dim % 2 != 0) in.fail("needs an even rotary_dim within head_dim");
    op.pairs = read_kept(in, "pairs", "pairs_of", op.rotary_dim / 2, op.pairs_of);
    op.scaling = read_scaling(in, op.pairs.empty() ? op.rotary_dim : 2 * op.pairs_of);
    if (!(op.theta > 0)) in.fail("needs theta above 0");
}

void read_attention(const OpReader& in, Op& op) {
    op.heads = in.integer("heads", 1);
    op.kv_heads = in.integer("kv_heads", 1);
    op.head_dim = in.integer("head_dim", 1);
    op.value = in.real("scale");
    op.window = in.integer_or("window", 0, 0);
    op.softcap = in.real_or("softcap", 0);
    op.alibi = in.flag_or("alibi", false);
    op.value_dim = in.integer_or("value_dim", 1, 0);
    if (op.alibi) op.alibi_heads = read_kept(in, "alibi_heads", "alibi_of", op.heads, op.alibi_of);
    if (op.softcap < 0) in.fail("needs a softcap above 0, or none");
    if (op.heads % op.kv_heads != 0)
        in.fail(text("has ", op.heads, " query heads, which ", op.kv_heads, " key-value heads do not divide"));
}

void read_activation(const OpReader& in, Op& op) {
    const auto kind = in.string("kind");
    const auto* known =
        std::find_if(activation_names.begin(), activation_names.end(), [&](const auto& n) { return n.first == kind; });
    if (known == activation_names.end()) in.fail(text("has the unknown activation \"", kind, "\""));
    op.activation = known->second;
}

void read_split(const OpReader& in, Op& op) {
    op.sizes = in.integers("sizes");
    op.groups = in.integer_or("groups", 1, 1);
    for (const auto size : op.sizes)
        if (size % op.groups != 0)
            in.fail(text("has a size of ", size, ", which ", op.groups, " groups do not divide"));
}

void read_route(const OpReader& in, Op& op) {
    op.experts = in.integer("experts", 1);
    op.top_k = in.integer("top_k", 1);
    op.normalize = in.flag_or("normalize", true);
    if (op.top_k > op.experts) in.fail(text("chooses ", op.top_k, " of ", op.experts, " experts"));
}

void read_attributes(const OpReader& in, Op& op) {
    switch (op.kind) {
        case OpKind::embedding:
            read_shape(in, op);
            op.weight = in.string("weight");
            op.offset = in.integer_or("offset", 0, 0);
            break;
        case OpKind::linear:
            return read_linear(in, op);
        case OpKind::rms_norm:
        case OpKind::layer_norm:
            return read_norm(in, op);
        case OpKind::rope:
            return read_rope(in, op);
        case OpKind::attention:
            return read_attention(in, op);
        case OpKind::activation:
            return read_activation(in, op);
        case OpKind::split:
            return read_split(in, op);
        case OpKind::scale:
            op.value = in.real("value");
            op.rounded = in.flag_or("rounded", false);
            break;
        case OpKind::softcap:
            op.value = in.real("value");
            if (!(op.value > 0)) in.fail("needs a value above 0");
            break;
        case OpKind::route:
            return read_route(in, op);
        case OpKind::dispatch:
            op.expert = in.integer("expert", 0);
            break;
        case OpKind::mul:
        case OpKind::add:
        case OpKind::combine:
            break;
    }
}

/// How many values an op of this kind reads.
std::size_t inputs_of(const Op& op) {
    switch (op.kind) {
        case OpKind::attention:
            return 3;
        case OpKind::mul:
        case OpKind::add:
        case OpKind::dispatch:
            return 2;
        case OpKind::combine:  // the routing, and one value of each expert: counted where the experts are known
            return std::max<std::size_t>(2, op.in.size());
        default:
            return 1;
    }
}

json scaling_json(const RopeScaling& scaling) {
    switch (scaling.kind) {
        case RopeScaling::Kind::none:
            break;
        case RopeScaling::Kind::linear:
            return {{"type", "linear"}, {"factor", scaling.factor}};
        case RopeScaling::Kind::llama3:
            return {{"type", "llama3"},
                    {"factor", scaling.factor},
                    {"low_freq_factor", scaling.low_freq_factor},
                    {"high_freq_factor", scaling.high_freq_factor},
                    {"original_positions", scaling.original_positions}};
        case RopeScaling::Kind::longrope:
            return {{"type", "longrope"},
                    {"short", scaling.short_factors},
                    {"long", scaling.long_factors},
                    {"original_positions", scaling.original_positions},
                    {"attention_factor", scaling.attention_factor}};
    }
    return {};
}

json linear_json(const Op& op) {
    json out{{"name", op.name}, {"shape", {op.rows, op.columns}}, {"weight", op.weight}, {"bias", !op.bias.empty()}};
    if (!op.bias.empty()) out["bias_name"] = op.bias;
    if (!op.role.empty()) out["role"] = op.role;
    if (op.transposed) out["transposed"] = true;
    return out;
}

json norm_json(const Op& op) {
    json out{{"name", op.name}, {"size", op.rows}, {"eps", op.eps}};
    if (op.heads > 1) out["heads"] = op.heads;
    if (op.divisor > 0) out["divisor"] = op.divisor;
    if (op.kind == OpKind::layer_norm) out.update({{"affine", !op.weight.empty()}, {"bias", !op.bias.empty()}});
    if (op.kind == OpKind::rms_norm) out["offset"] = op.value;
    if (op.kind == OpKind::rms_norm && op.weight.empty()) out["affine"] = false;
    return out;
}

json rope_json(const Op& op) {
    json out{{"heads", op.heads},
             {"head_dim", op.head_dim},
             {"rotary_dim", op.rotary_dim},
             {"theta", op.theta},
             {"interleaved", op.interleaved}};
    if (op.scaling.kind != RopeScaling::Kind::none) out["scaling"] = scaling_json(op.scaling);
    if (!op.pairs.empty()) out.update({{"pairs", op.pairs}, {"pairs_of", op.pairs_of}});
    return out;
}

json attention_json(const Op& op) {
    json out{{"heads", op.heads},
             {"kv_heads", op.kv_heads},
             {"head_dim", op.head_dim},
             {"scale", op.value},
             {"window", op.window}};
    if (op.softcap > 0) out["softcap"] = op.softcap;
    if (op.alibi) out["alibi"] = true;
    if (!op.alibi_heads.empty()) out.update({{"alibi_heads", op.alibi_heads}, {"alibi_of", op.alibi_of}});
    if (op.value_dim > 0) out["value_dim"] = op.value_dim;
    return out;
}

json attributes_json(const Op& op) {
    switch (op.kind) {
        case OpKind::embedding:
            return {{"weight", op.weight}, {"shape", {op.rows, op.columns}}, {"offset", op.offset}};
        case OpKind::linear:
            return linear_json(op);
        case OpKind::rms_norm:
        case OpKind::layer_norm:
            return norm_json(op);
        case OpKind::rope:
            return rope_json(op);
        case OpKind::attention:
            return attention_json(op);
        case OpKind::activation:
            return {{"kind", std::find_if(activation_names.begin(), activation_names.end(), [&](const auto& n) {
                                 return n.second == op.activation;
                             })->first}};
        case OpKind::split:
            return op.groups > 1 ? json{{"sizes", op.sizes}, {"groups", op.groups}} : json{{"sizes", op.sizes}};
        case OpKind::scale:
            return op.rounded ? json{{"value", op.value}, {"rounded", true}} : json{{"value", op.value}};
        case OpKind::softcap:
            return {{"value", op.value}};
        case OpKind::route:
            return {{"experts", op.experts}, {"top_k", op.top_k}, {"normalize", op.normalize}};
        case OpKind::dispatch:
            return {{"expert", op.expert}};
        case OpKind::mul:
        case OpKind::add:
        case OpKind::combine:
            break;
    }
    return json::object();
}

}  // namespace

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
    if (op.in.size() != inputs_of(op) || op.out.size() != makes)
        in.fail(text("(", kind, ") takes ", inputs_of(op), " values and makes ", makes, ", not ", op.in.size(), " and ",
                     op.out.size()));
    return op;
}

json op_json(const Op& op) {
    json out{{"op", op_name(op.kind)}, {"in", op.in}};
    out["out"] = op.kind == OpKind::split ? json(op.out) : json(op.out[0]);
    out.update(attributes_json(op));
    return out;
}

std::string_view op_name(OpKind kind) {
    return std::find_if(op_names.begin(), op_names.end(), [&](const auto& n) { return n.second == kind; })->first;
}

}  // namespace kerf::core
