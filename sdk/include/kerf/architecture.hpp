// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kerf/ops.hpp"

namespace kerf::inline v1::arch {

/// A norm: applied to a value, gives its normalised copy.
struct Norm {
    std::string name;
    double eps = 1e-5;
    bool rms = true;
    double offset = 0;                ///< rms: added to the weight
    bool affine = true, bias = true;  ///< layer norm

    /// `heads`: the features are so many slices, each normalised by itself with the same weight.
    Value apply(Ops& ops, const Value& in, std::int64_t heads = 1) const {
        return rms ? ops.rms_norm(in, name, eps, offset, heads) : ops.layer_norm(in, name, eps, affine, bias, heads);
    }
};

/// A sublayer: reads one value (the stream, or its norm) and gives what is added to the stream.
struct Sublayer {
    std::function<Value(Ops&, const Value& in, std::int64_t hidden)> apply;
};

using Part = std::variant<Norm, Sublayer>;

struct RmsNormOptions {
    double offset = 0;
};
inline Norm rms_norm(std::string_view name, double eps, RmsNormOptions options = {}) {
    return {.name = std::string(name), .eps = eps, .rms = true, .offset = options.offset};
}
struct LayerNormOptions {
    bool affine = true, bias = true;
};
inline Norm layer_norm(std::string_view name, double eps, LayerNormOptions options = {}) {
    return {.name = std::string(name), .eps = eps, .rms = false, .affine = options.affine, .bias = options.bias};
}

struct Qkvo {
    std::string q, k, v, o;
};
struct AttentionOptions {
    bool bias = false;                             ///< of q, k, v
    bool output_bias = false;                      ///< of o
    std::int64_t window = 0;                       ///< sliding window in tokens; 0 = none
    double scale = 0;                              ///< of the scores; 0 = 1 / sqrt(head dim)
    double softcap = 0;                            ///< c: scores become c · tanh(score / c); 0 = none
    bool alibi = false;                            ///< Falcon's position bias on the scores
    bool transposed = false;                       ///< the file holds the projections as [in, out]
    std::optional<Norm> q_norm = {}, k_norm = {};  ///< of each head by itself, before the rotation
};

namespace detail_parts {
inline Heads complete(Heads heads, std::int64_t hidden, const std::string& where) {
    if (heads.query < 1) throw Error(Code::argument, where, ": attention needs a number of heads");
    if (heads.key_value == 0) heads.key_value = heads.query;
    if (heads.dim == 0) {
        if (hidden % heads.query != 0)
            throw Error(Code::argument, "hidden size ", hidden, " does not split into ", heads.query, " heads");
        heads.dim = hidden / heads.query;
    }
    return heads;
}

/// From projected q, k, v to what is added to the stream.
inline Value attend(Ops& ops, Value q, Value k, const Value& v, const std::string& o, std::int64_t hidden,
                    const Heads& heads, const std::optional<Rope>& rope, const AttentionOptions& options) {
    if (options.q_norm) q = options.q_norm->apply(ops, q, heads.query);
    if (options.k_norm) k = options.k_norm->apply(ops, k, heads.key_value);
    if (rope) {
        q = ops.rope(q, heads.query, heads.dim, *rope);
        k = ops.rope(k, heads.key_value, heads.dim, *rope);
    }
    const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(heads.dim));
    const auto attended = ops.attention(q, k, v, heads, scale,
                                        {.window = options.window, .softcap = options.softcap, .alibi = options.alibi});
    return ops.linear(attended, o, hidden,
                      {.bias = options.output_bias, .role = "o", .transposed = options.transposed});
}
}  // namespace detail_parts

/// Causal self-attention with separate projections. No rope: positions come from elsewhere (learned, alibi).
inline Sublayer attention(Qkvo names, Heads heads, std::optional<Rope> rope = {}, AttentionOptions options = {}) {
    return {[=](Ops& ops, const Value& in, std::int64_t hidden) {
        const Heads h = detail_parts::complete(heads, hidden, ops.full(names.q));
        const auto project = [&](const std::string& name, std::int64_t count, std::string_view role) {
            return ops.linear(in, name, count * h.dim,
                              {.bias = options.bias, .role = role, .transposed = options.transposed});
        };
        const auto q = project(names.q, h.query, "q");
        const auto k = project(names.k, h.key_value, "k");
        const auto v = project(names.v, h.key_value, "v");
        return detail_parts::attend(ops, q, k, v, names.o, hidden, h, rope, options);
    }};
}

struct FusedQkvo {
    std::string qkv, o;
};
/// How the rows of a fused q, k, v projection lie.
enum class QkvLayout {
    consecutive,  ///< all of q, then k, then v
    per_kv_head,  ///< for each key-value head: the query heads that read it, its key, its value
};
/// Causal self-attention whose q, k and v come from one linear.
inline Sublayer fused_attention(FusedQkvo names, QkvLayout layout, Heads heads, std::optional<Rope> rope = {},
                                AttentionOptions options = {}) {
    return {[=](Ops& ops, const Value& in, std::int64_t hidden) {
        const Heads h = detail_parts::complete(heads, hidden, ops.full(names.qkv));
        const auto qkv = ops.linear(in, names.qkv, (h.query + 2 * h.key_value) * h.dim,
                                    {.bias = options.bias, .role = "qkv", .transposed = options.transposed});
        const auto parts = ops.split(qkv, {h.query * h.dim, h.key_value * h.dim, h.key_value * h.dim},
                                     layout == QkvLayout::per_kv_head ? h.key_value : 1);
        return detail_parts::attend(ops, parts[0], parts[1], parts[2], names.o, hidden, h, rope, options);
    }};
}

struct MlpOptions {
    bool bias = false;
    bool transposed = false;  ///< the file holds the weights as [in, out]
};
struct GateUpDown {
    std::string gate, up, down;
};
/// down(act(gate(x)) · up(x))
inline Sublayer gated_mlp(GateUpDown names, std::int64_t width, Act kind, MlpOptions options = {}) {
    return {[=](Ops& ops, const Value& in, std::int64_t hidden) {
        const auto linear = [&](const Value& x, const std::string& name, std::int64_t out, std::string_view role) {
            return ops.linear(x, name, out, {.bias = options.bias, .role = role, .transposed = options.transposed});
        };
        const auto gate = linear(in, names.gate, width, "gate");
        const auto up = linear(in, names.up, width, "up");
        return linear(ops.mul(ops.activation(gate, kind), up), names.down, hidden, "down");
    }};
}
struct FusedGateUpDown {
    std::string gate_up, down;
};
/// The same with gate and up, in this order, in one linear of 2 · width rows.
inline Sublayer fused_gated_mlp(FusedGateUpDown names, std::int64_t width, Act kind, MlpOptions options = {}) {
    return {[=](Ops& ops, const Value& in, std::int64_t hidden) {
        const auto both = ops.linear(in, names.gate_up, 2 * width,
                                     {.bias = options.bias, .role = "gate_up", .transposed = options.transposed});
        const auto parts = ops.split(both, {width, width});
        return ops.linear(ops.mul(ops.activation(parts[0], kind), parts[1]), names.down, hidden,
                          {.bias = options.bias, .role = "down", .transposed = options.transposed});
    }};
}
struct UpDown {
    std::string fc1, fc2;
};
/// fc2(act(fc1(x)))
inline Sublayer mlp(UpDown names, std::int64_t width, Act kind, MlpOptions options = {}) {
    return {[=](Ops& ops, const Value& in, std::int64_t hidden) {
        const auto inner =
            ops.linear(in, names.fc1, width, {.bias = options.bias, .role = "fc1", .transposed = options.transposed});
        return ops.linear(ops.activation(inner, kind), names.fc2, hidden,
                          {.bias = options.bias, .role = "fc2", .transposed = options.transposed});
    }};
}

struct Experts {
    std::int64_t count = 0, top_k = 1;
    bool normalize = true;  ///< the chosen ones' weights sum to 1
};
/// Σ over each token's top_k experts of weight · expert(x), the weights a softmax over router(x). `router` is a
/// linear's name, `expert` holds the number as `{}`; make(name of one expert) gives its sublayer.
inline Sublayer routed_mlp(std::string_view router, std::string_view expert, Experts experts,
                           std::function<Sublayer(const std::string& name)> make) {
    return {[=, router = std::string(router), expert = std::string(expert)](Ops& ops, const Value& in,
                                                                            std::int64_t hidden) {
        const auto at = expert.find("{}");
        if (at == std::string::npos) throw Error(Code::argument, ops.full(expert), ": needs {} for its number");
        const auto logits = ops.linear(in, router, experts.count, {.role = "router"});
        const auto routing = ops.route(logits, {.top_k = experts.top_k, .normalize = experts.normalize});
        std::vector<Value> outputs;
        for (std::int64_t e = 0; e < experts.count; ++e) {
            auto name = expert;
            name.replace(at, 2, std::to_string(e));
            outputs.push_back(make(name).apply(ops, ops.dispatch(in, routing, e), hidden));
        }
        return ops.combine(routing, outputs);
    }};
}

/// A sublayer whose output is normalised before it is added to the stream.
inline Sublayer then(Sublayer sublayer, Norm norm) {
    return {[=](Ops& ops, const Value& in, std::int64_t hidden) {
        return norm.apply(ops, sublayer.apply(ops, in, hidden));
    }};
}
/// Anything else, op by op: `custom([](Ops& ops, const Value& in, std::int64_t hidden) { return ops.…; })`.
inline Sublayer custom(std::function<Value(Ops&, const Value&, std::int64_t)> apply) {
    return {std::move(apply)};
}

/// How the parts of a block meet the residual stream x.
enum class Residual {
    pre_norm,   ///< x += sublayer(norm(x)): a norm is for the sublayer after it
    post_norm,  ///< x += sublayer(x); x = norm(x): a norm is for the stream before it
    parallel    ///< x += Σ sublayer(norm(x)): all sublayers read the block's input, through the last norm before them
};

struct EmbeddingOptions {
    std::int64_t width = 0;  ///< 0 = hidden; another width needs project_in()
    double scale = 1;        ///< of the embedded tokens
    bool rounded = false;    ///< the scale is rounded to the compute dtype first
};
struct PositionOptions {
    std::int64_t offset = 0;  ///< position p reads row p + offset
};
struct ProjectOptions {
    bool bias = false;
};
struct HeadOptions {
    bool tied = false;  ///< reads the embedding's table
    bool bias = false;
    double softcap = 0;  ///< c: logits become c · tanh(logit / c); 0 = none
};

/// A model, written from its first op to its last; see model().
class Architecture {
public:
    explicit Architecture(std::int64_t hidden) : hidden_(hidden), prologue_(""), epilogue_("") {}

    /// The longest sequence the model takes.
    Architecture& limit(std::int64_t positions) { return (positions_ = positions, *this); }
    /// Tokens to vectors, from the table `name` + ".weight".
    Architecture& embedding(std::string_view name, std::int64_t vocabulary, EmbeddingOptions options = {}) {
        vocabulary_ = vocabulary;
        table_ = std::string(name) + ".weight";
        stream_ = prologue_.embedding({"tokens", 0}, table_, vocabulary, options.width > 0 ? options.width : hidden_);
        if (options.scale != 1) stream_ = prologue_.scale(stream_, options.scale, options.rounded);
        return *this;
    }
    /// A linear from the embedding's width to the model's.
    Architecture& project_in(std::string_view name, ProjectOptions options = {}) {
        stream_ = prologue_.linear(stream_, name, hidden_, {.bias = options.bias, .role = "project"});
        return *this;
    }
    /// Learned positions, added: a table of `limit + offset` rows named `name` + ".weight".
    Architecture& positions(std::string_view name, std::int64_t limit, PositionOptions options = {}) {
        positions_ = limit;
        const auto learned = prologue_.embedding({"positions", 0}, std::string(name) + ".weight",
                                                 limit + options.offset, hidden_, options.offset);
        stream_ = prologue_.add(stream_, learned);
        return *this;
    }
    /// `count` blocks of the same parts; `{}` in the prefix is the block's number.
    Architecture& blocks(std::string_view prefix, std::int64_t count, const std::vector<Part>& parts,
                         Residual residual = Residual::pre_norm) {
        return blocks(
            prefix, count, [&](std::int64_t) { return parts; }, residual);
    }
    /// Blocks that differ: parts(number) gives each one's.
    Architecture& blocks(std::string_view prefix, std::int64_t count,
                         const std::function<std::vector<Part>(std::int64_t)>& parts,
                         Residual residual = Residual::pre_norm) {
        if (stream_.width != hidden_)
            throw Error(Code::argument, "the embedding is ", stream_.width, " wide, the model ", hidden_,
                        ": project_in() is missing");
        for (std::int64_t i = 0, ops = 0; i < count; ++i) {
            std::string name(prefix);
            if (const auto at = name.find("{}"); at != std::string::npos) name.replace(at, 2, std::to_string(i));
            blocks_.push_back(block(name, parts(i), residual));
            ops += blocks_.back().size();
            if (ops > Ops::most) bad_value(prefix, ": ", count, " blocks are more than ", Ops::most, " ops");
        }
        begin_epilogue();
        return *this;
    }
    /// The norm after the last block.
    Architecture& norm(const Norm& norm) {
        begin_epilogue();
        stream_ = norm.apply(epilogue_, stream_);
        return *this;
    }
    /// A linear from the model's width to the head's.
    Architecture& project_out(std::string_view name, std::int64_t width, ProjectOptions options = {}) {
        begin_epilogue();
        stream_ = epilogue_.linear(stream_, name, width, {.bias = options.bias, .role = "project"});
        return *this;
    }
    /// Vectors to logits; the last call.
    Architecture& head(std::string_view name, HeadOptions options = {}) {
        begin_epilogue();
        LinearOptions linear{.bias = options.bias, .role = "head"};
        if (options.tied) linear.weight = table_;
        auto logits = epilogue_.linear(stream_, name, vocabulary_, linear);
        if (options.softcap > 0) logits = epilogue_.softcap(logits, options.softcap);
        epilogue_.finish(logits, "logits");
        complete_ = true;
        return *this;
    }

    /// The graph document, docs/graph.md.
    std::string json(std::string_view family) const {
        if (!complete_) throw Error(Code::internal, "the model has no head()");
        std::string out = "{";
        detail::member(out, "graph", 1);
        detail::member(out, "family", family);
        detail::member(out, "hidden", hidden_);
        detail::member(out, "vocabulary", vocabulary_);
        detail::member(out, "positions", positions_);
        out += ",\"prologue\":" + prologue_.json() + ",\"blocks\":[";
        for (const auto& block : blocks_) {
            if (&block != &blocks_.front()) out += ',';
            std::string entry = "{";
            detail::member(entry, "name", block.prefix());
            out += entry + ",\"ops\":" + block.json() + "}";
        }
        return out + "],\"epilogue\":" + epilogue_.json() + "}";
    }

private:
    Ops block(const std::string& name, const std::vector<Part>& parts, Residual residual) const {
        Ops ops(name);
        const Value input{"x", hidden_};
        Value stream = input;
        std::optional<Value> normed;
        for (const auto& part : parts) {
            if (const auto* norm = std::get_if<Norm>(&part)) {
                if (residual == Residual::post_norm)
                    stream = norm->apply(ops, stream);
                else
                    normed = norm->apply(ops, residual == Residual::parallel ? input : stream);
                continue;
            }
            const Value& base = residual == Residual::parallel ? input : stream;
            const Value in = normed ? *normed : base;
            stream = ops.add(stream, std::get<Sublayer>(part).apply(ops, in, hidden_));
            if (residual == Residual::pre_norm) normed.reset();
        }
        ops.finish(stream, "y");
        return ops;
    }
    void begin_epilogue() {
        if (in_epilogue_) return;
        in_epilogue_ = true;
        prologue_.finish(stream_, "x");
        stream_ = {"x", hidden_};
    }

    std::int64_t hidden_, vocabulary_ = 0, positions_ = 0;
    Ops prologue_, epilogue_;
    std::vector<Ops> blocks_;
    Value stream_;
    std::string table_;
    bool in_epilogue_ = false, complete_ = false;
};

/// A model whose residual stream is `hidden` wide: `model(…).embedding(…).blocks(…).norm(…).head(…)`.
inline Architecture model(std::int64_t hidden) {
    return Architecture(hidden);
}

}  // namespace kerf::inline v1::arch
