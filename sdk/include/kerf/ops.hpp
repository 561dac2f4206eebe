// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kerf/json.hpp"
#include "kerf/values.hpp"

namespace kerf::inline v1::arch {

/// Elementwise functions of the graph document.
enum class Act { silu, gelu, gelu_new, gelu_tanh, relu, quick_gelu };

namespace detail_names {
inline constexpr std::string_view acts[] = {"silu", "gelu", "gelu_new", "gelu_tanh", "relu", "quick_gelu"};
}

/// The activation that a config names, in Hugging Face's spelling; refuses any other.
inline Act act(const Config& config, std::string_view path, std::string_view otherwise = {}) {
    const auto name = otherwise.empty() ? config.text(path) : config.text(path, otherwise);
    constexpr std::pair<std::string_view, Act> known[] = {
        {"silu", Act::silu},         {"swish", Act::silu},           {"gelu", Act::gelu},
        {"gelu_new", Act::gelu_new}, {"gelu_fast", Act::gelu_new},   {"gelu_pytorch_tanh", Act::gelu_tanh},
        {"relu", Act::relu},         {"quick_gelu", Act::quick_gelu}};
    for (const auto& [spelling, kind] : known)
        if (name == spelling) return kind;
    config.unsupported(path, name, "silu, gelu, gelu_new, gelu_pytorch_tanh, relu, quick_gelu");
}

/// Query heads, key-value heads (0: as many) and features of a head (0: hidden / query).
struct Heads {
    std::int64_t query = 0, key_value = 0, dim = 0;
};

struct RopeScaling {
    enum class Type { none, linear, llama3, longrope } type = Type::none;
    double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
    std::int64_t original_positions = 0;
    std::vector<double> short_factors, long_factors;  ///< longrope: one per pair of rotating features
    double attention_factor = 1;                      ///< longrope: of cosine and sine
};

/// Rotary position embedding; `dim` is the number of features of each head that rotate (0: all).
struct Rope {
    double theta = 10000;
    std::int64_t dim = 0;
    bool interleaved = false;
    RopeScaling scaling = {};
};

namespace detail_rope {
inline std::vector<double> factors(const Config& table, const std::string& key, std::int64_t pairs) {
    if (table.size(key) != pairs)
        bad_value(table.where(key), " has ", table.size(key), " factors, but ", pairs,
                  " pairs of features rotate in each head");
    std::vector<double> out;
    for (std::int64_t i = 0; i < pairs; ++i) out.push_back(table.real(key + "." + std::to_string(i)));
    return out;
}

/// LongRoPE (arXiv:2402.13753) as Phi-3 has it. The attention factor that no config names is the paper's
/// sqrt(1 + ln(s) / ln(L)), with s the extension of the original length L.
inline RopeScaling longrope(const Config& config, const Config& table, std::int64_t pairs) {
    // In older configs the original length stands beside the table of settings.
    constexpr std::string_view original = "original_max_position_embeddings", longest = "max_position_embeddings";
    RopeScaling scaling;
    scaling.type = RopeScaling::Type::longrope;
    scaling.short_factors = factors(table, "short_factor", pairs);
    scaling.long_factors = factors(table, "long_factor", pairs);
    scaling.original_positions = table.has(original) ? table.count(original) : config.count(original);
    const double length = static_cast<double>(scaling.original_positions);
    const double extended =
        table.has("factor") ? table.real("factor") : static_cast<double>(config.count(longest)) / length;
    scaling.attention_factor =
        table.real("attention_factor", extended <= 1 ? 1.0 : std::sqrt(1 + std::log(extended) / std::log(length)));
    return scaling;
}
}  // namespace detail_rope

/// Rope as a config gives it: `rope_theta` with `rope_scaling` (transformers 4), or `rope_parameters` (transformers 5).
/// Where both are there, as after a hand has added a scaling, `rope_scaling` counts, as in transformers. Refuses
/// scalings other than none, linear, llama3 and longrope ("su") by name. The share of a head's features that rotates
/// is `partial_rotary_factor`, else what the family's own `share_key` says, else default_share.
inline Rope rope_of(const Config& config, std::int64_t head_dim, double default_theta = 10000, double default_share = 1,
                    std::string_view share_key = "partial_rotary_factor") {
    constexpr std::string_view factor = "partial_rotary_factor";
    for (const auto key : {"rope_scaling", "rope_parameters"})
        if (config.has(key) && !config.is_table(key)) bad_value(config.where(key), " is no table of settings");
    const auto table = config.at(config.size("rope_scaling") > 0 ? "rope_scaling" : "rope_parameters");
    Rope rope;
    rope.theta = table.real("rope_theta", config.real("rope_theta", default_theta));
    const double share = table.real(factor, config.real(factor, config.real(share_key, default_share)));
    const auto named = table.has(factor) ? table.where(factor) : config.where(config.has(factor) ? factor : share_key);
    if (!(share > 0 && share <= 1)) bad_value(named, " = ", share, ", but a share is above 0 and at most 1");
    rope.dim = static_cast<std::int64_t>(static_cast<double>(head_dim) * share);
    if (rope.dim < 2 || rope.dim % 2 != 0)
        bad_value(named, ": ", rope.dim, " of ", head_dim,
                  " features of a head would rotate, but they rotate in pairs");
    const auto type = table.text("rope_type", table.text("type", "default"));
    if (type == "default") return rope;
    if (type == "longrope" || type == "su") {
        rope.scaling = detail_rope::longrope(config, table, rope.dim / 2);
        return rope;
    }
    if (type != "linear" && type != "llama3") table.unsupported("rope_type", type, "default, linear, llama3, longrope");
    rope.scaling.factor = table.real("factor");
    rope.scaling.type = type == "linear" ? RopeScaling::Type::linear : RopeScaling::Type::llama3;
    if (type == "llama3") {
        rope.scaling.low_freq_factor = table.real("low_freq_factor");
        rope.scaling.high_freq_factor = table.real("high_freq_factor");
        rope.scaling.original_positions = table.count("original_max_position_embeddings");
    }
    return rope;
}

/// A value of the graph: its name and how many features it has.
struct Value {
    std::string name;
    std::int64_t width = 0;
};

struct LinearOptions {
    bool bias = false;
    std::string_view role = {};    ///< q, k, v, o, qkv, gate, up, gate_up, down, fc1, fc2, router, project, head
    std::string_view weight = {};  ///< tensor name when it is not `name` + ".weight" (tied embeddings)
    bool transposed = false;       ///< the file holds [in, out]
};

/// What happens to attention's scores between the product and the softmax.
struct ScoreOptions {
    std::int64_t window = 0;  ///< a query sees this many positions, its own included; 0 = all before it
    double softcap = 0;       ///< c: c · tanh(score / c); 0 = none
    bool alibi = false;       ///< Falcon's position bias
};

struct RouteOptions {
    std::int64_t top_k = 1;  ///< experts per token
    bool normalize = true;   ///< the chosen ones' weights sum to 1
};

/// A list of ops while it is written: prologue, one block, or epilogue of docs/graph.md. The parts of a model
/// (parts.hpp) end up here; use it directly for what no part says. Names of modules are relative to the block.
class Ops {
public:
    explicit Ops(std::string prefix) : prefix_(std::move(prefix)) {}

    Value embedding(const Value& ids, std::string_view weight, std::int64_t rows, std::int64_t width,
                    std::int64_t offset = 0) {
        auto at = attributes();
        detail::member(at, "weight", full(weight));
        shape(at, rows, width);
        detail::member(at, "offset", offset);
        return add("embedding", {ids}, "embedded", width, std::move(at));
    }
    Value linear(const Value& in, std::string_view name, std::int64_t out, const LinearOptions& options = {}) {
        auto at = attributes();
        detail::member(at, "name", full(name));
        shape(at, out, in.width);
        if (options.bias) detail::member(at, "bias", true);
        if (!options.role.empty()) detail::member(at, "role", options.role);
        if (!options.weight.empty()) detail::member(at, "weight", options.weight);
        if (options.transposed) detail::member(at, "transposed", true);
        return add("linear", {in}, options.role.empty() ? "linear" : options.role, out, std::move(at));
    }
    /// `heads`: the features are so many slices, each normalised by itself with the same weight.
    Value rms_norm(const Value& in, std::string_view name, double eps, double offset = 0, std::int64_t heads = 1) {
        auto at = norm(in, name, eps, heads);
        if (offset != 0) detail::member(at, "offset", offset);
        return add("rms_norm", {in}, "normed", in.width, std::move(at));
    }
    Value layer_norm(const Value& in, std::string_view name, double eps, bool affine = true, bool bias = true,
                     std::int64_t heads = 1) {
        auto at = norm(in, name, eps, heads);
        detail::member(at, "affine", affine);
        detail::member(at, "bias", affine && bias);
        return add("layer_norm", {in}, "normed", in.width, std::move(at));
    }
    Value rope(const Value& in, std::int64_t heads, std::int64_t head_dim, const Rope& rope) {
        auto at = attributes();
        detail::member(at, "heads", heads);
        detail::member(at, "head_dim", head_dim);
        detail::member(at, "rotary_dim", rope.dim > 0 ? rope.dim : head_dim);
        detail::member(at, "theta", rope.theta);
        if (rope.interleaved) detail::member(at, "interleaved", true);
        scaling(at, rope.scaling);
        return add("rope", {in}, in.name + "_rotated", in.width, std::move(at));
    }
    Value attention(const Value& q, const Value& k, const Value& v, const Heads& heads, double scale,
                    const ScoreOptions& options = {}) {
        auto at = attributes();
        detail::member(at, "heads", heads.query);
        detail::member(at, "kv_heads", heads.key_value);
        detail::member(at, "head_dim", heads.dim);
        detail::member(at, "scale", scale);
        if (options.window > 0) detail::member(at, "window", options.window);
        if (options.softcap > 0) detail::member(at, "softcap", options.softcap);
        if (options.alibi) detail::member(at, "alibi", true);
        return add("attention", {q, k, v}, "attended", q.width, std::move(at));
    }
    Value activation(const Value& in, Act kind) {
        auto at = attributes();
        detail::member(at, "kind", detail_names::acts[static_cast<std::size_t>(kind)]);
        return add("activation", {in}, "activated", in.width, std::move(at));
    }
    Value mul(const Value& a, const Value& b) { return add("mul", {a, b}, "product", a.width, attributes()); }
    Value add(const Value& a, const Value& b) { return add("add", {a, b}, "sum", a.width, attributes()); }
    /// `rounded`: the factor is rounded to the compute dtype first.
    Value scale(const Value& in, double factor, bool rounded = false) {
        auto at = attributes();
        detail::member(at, "value", factor);
        if (rounded) detail::member(at, "rounded", true);
        return add("scale", {in}, "scaled", in.width, std::move(at));
    }
    /// value · tanh(x / value)
    Value softcap(const Value& in, double value) {
        auto at = attributes();
        detail::member(at, "value", value);
        return add("softcap", {in}, "capped", in.width, std::move(at));
    }
    /// `groups`: the features are so many runs, each of which holds its share of every size.
    std::vector<Value> split(const Value& in, const std::vector<std::int64_t>& sizes, std::int64_t groups = 1) {
        auto at = attributes();
        detail::member_list(at, "sizes", sizes);
        if (groups > 1) detail::member(at, "groups", groups);
        std::vector<Value> out;
        std::vector<std::string> names;
        for (const auto size : sizes) names.push_back(out.emplace_back(Value{unique("part"), size}).name);
        ops_.push_back({"split", {in.name}, names, true, std::move(at)});
        return out;
    }

    /// Router logits to the weight of every expert for every token, zero where it is not chosen.
    Value route(const Value& logits, const RouteOptions& options) {
        auto at = attributes();
        detail::member(at, "experts", logits.width);
        detail::member(at, "top_k", options.top_k);
        detail::member(at, "normalize", options.normalize);
        return add("route", {logits}, "routing", logits.width, std::move(at));
    }
    /// The rows of `in` that go to an expert.
    Value dispatch(const Value& in, const Value& routing, std::int64_t expert) {
        auto at = attributes();
        detail::member(at, "expert", expert);
        return add("dispatch", {in, routing}, "dispatched", in.width, std::move(at));
    }
    /// Σ over experts of weight · output; `outputs` holds one value for each, in order.
    Value combine(const Value& routing, const std::vector<Value>& outputs) {
        if (outputs.empty()) throw Error(Code::argument, full("combine"), ": needs an output of every expert");
        std::vector<Value> in{routing};
        in.insert(in.end(), outputs.begin(), outputs.end());
        return add("combine", in, "combined", outputs.front().width, attributes());
    }

    /// Ends the list: `value` is called `name` from now on.
    void finish(const Value& value, const std::string& name) {
        const bool made = std::any_of(ops_.begin(), ops_.end(), [&](const Op& op) {
            return std::find(op.out.begin(), op.out.end(), value.name) != op.out.end();
        });
        const auto last = made ? value : scale(value, 1);  // the end of an empty list is a copy of its start
        for (auto& op : ops_) {
            std::replace(op.in.begin(), op.in.end(), last.name, name);
            std::replace(op.out.begin(), op.out.end(), last.name, name);
        }
    }
    /// Ops so far, and the most that a model may have: more than 61 blocks of 384 experts need, and few enough that a
    /// config with an absurd number of blocks or experts is refused before it fills the memory.
    std::int64_t size() const noexcept { return static_cast<std::int64_t>(ops_.size()); }
    static constexpr std::int64_t most = 250'000;
    const std::string& prefix() const noexcept { return prefix_; }
    std::string full(std::string_view name) const {
        return prefix_.empty() ? std::string(name) : prefix_ + "." + std::string(name);
    }
    std::string json() const {
        std::string out = "[";
        for (const auto& op : ops_) {
            if (out.size() > 1) out += ',';
            std::string entry = "{";
            detail::member(entry, "op", op.kind);
            detail::member_list(entry, "in", op.in);
            if (op.many)
                detail::member_list(entry, "out", op.out);
            else
                detail::member(entry, "out", op.out.front());
            out += entry + op.attributes + "}";
        }
        return out + "]";
    }

private:
    struct Op {
        std::string kind;
        std::vector<std::string> in, out;
        bool many;
        std::string attributes;  ///< `,"key":value,…`
    };

    /// Starts with nothing, so that the first member brings its comma.
    static std::string attributes() { return {}; }
    static void shape(std::string& at, std::int64_t rows, std::int64_t columns) {
        detail::member_list(at, "shape", std::vector{rows, columns});
    }
    std::string norm(const Value& in, std::string_view name, double eps, std::int64_t heads) const {
        auto at = attributes();
        detail::member(at, "name", full(name));
        detail::member(at, "size", in.width);
        detail::member(at, "eps", eps);
        if (heads > 1) detail::member(at, "heads", heads);
        return at;
    }
    static void scaling(std::string& at, const RopeScaling& scaling) {
        if (scaling.type == RopeScaling::Type::none) return;
        constexpr std::string_view types[] = {"none", "linear", "llama3", "longrope"};
        std::string inner = "{";
        detail::member(inner, "type", types[static_cast<std::size_t>(scaling.type)]);
        if (scaling.type == RopeScaling::Type::longrope) {
            detail::member_list(inner, "short", scaling.short_factors);
            detail::member_list(inner, "long", scaling.long_factors);
            detail::member(inner, "attention_factor", scaling.attention_factor);
        } else {
            detail::member(inner, "factor", scaling.factor);
        }
        if (scaling.type == RopeScaling::Type::llama3) {
            detail::member(inner, "low_freq_factor", scaling.low_freq_factor);
            detail::member(inner, "high_freq_factor", scaling.high_freq_factor);
        }
        if (scaling.type != RopeScaling::Type::linear)
            detail::member(inner, "original_positions", scaling.original_positions);
        at += ",\"scaling\":" + inner + "}";
    }
    std::string unique(std::string_view wish) {
        std::string name(wish);
        // Blocks with hundreds of experts make hundreds of values of one wish: the search goes on where it ended.
        for (auto& next = next_.try_emplace(name, 2).first->second; !taken_.insert(name).second; ++next)
            name = std::string(wish) + std::to_string(next);
        return name;
    }
    Value add(std::string_view kind, const std::vector<Value>& in, std::string_view wish, std::int64_t width,
              std::string at) {
        if (size() >= most) bad_value(full(wish), ": the config asks for more than ", most, " ops");
        Op op{std::string(kind), {}, {unique(wish)}, false, std::move(at)};
        for (const auto& value : in) op.in.push_back(value.name);
        ops_.push_back(std::move(op));
        return {ops_.back().out.front(), width};
    }

    std::string prefix_;
    std::vector<Op> ops_;
    std::set<std::string> taken_{"x", "y"};
    std::map<std::string, int> next_;  ///< the number that a second, third, … value of a name gets
};

}  // namespace kerf::inline v1::arch
