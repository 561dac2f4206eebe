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

    Value apply(Ops& ops, const Value& in) const {
        return rms ? ops.rms_norm(in, name, eps, offset) : ops.layer_norm(in, name, eps, affine, bias);
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
    bool bias = false;         ///< of q, k, v
    bool output_bias = false;  ///< of o
    std::int64_t window = 0;   ///< sliding window in tokens; 0 = none
    double scale = 0;          ///< of the scores; 0 = 1 / sqrt(head dim)
};
/// Causal self-attention with separate projections. No rope: positions come from elsewhere (learned).
inline Sublayer attention(Qkvo names, Heads heads, std::optional<Rope> rope = {}, AttentionOptions options = {}) {
    return {[=](Ops& ops, const Value& in, std::int64_t hidden) {
        Heads h = heads;
        if (h.query < 1) throw Error(Code::argument, ops.full(names.q), ": attention needs a number of heads");
        if (h.key_value == 0) h.key_value = h.query;
        if (h.dim == 0) {
            if (hidden % h.query != 0)
                throw Error(Code::argument, "hidden size ", hidden, " does not split into ", h.query, " heads");
            h.dim = hidden / h.query;
        }
        auto q = ops.linear(in, names.q, h.query * h.dim, {.bias = options.bias, .role = "q"});
        auto k = ops.linear(in, names.k, h.key_value * h.dim, {.bias = options.bias, .role = "k"});
        const auto v = ops.linear(in, names.v, h.key_value * h.dim, {.bias = options.bias, .role = "v"});
        if (rope) {
            q = ops.rope(q, h.query, h.dim, *rope);
            k = ops.rope(k, h.key_value, h.dim, *rope);
        }
        const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(h.dim));
        const auto attended = ops.attention(q, k, v, h, scale, options.window);
        return ops.linear(attended, names.o, hidden, {.bias = options.output_bias, .role = "o"});
    }};
}

struct MlpOptions {
    bool bias = false;
};
struct GateUpDown {
    std::string gate, up, down;
};
/// down(act(gate(x)) · up(x))
inline Sublayer gated_mlp(GateUpDown names, std::int64_t width, Act kind, MlpOptions options = {}) {
    return {[=](Ops& ops, const Value& in, std::int64_t hidden) {
        const auto gate = ops.linear(in, names.gate, width, {.bias = options.bias, .role = "gate"});
        const auto up = ops.linear(in, names.up, width, {.bias = options.bias, .role = "up"});
        const auto inner = ops.mul(ops.activation(gate, kind), up);
        return ops.linear(inner, names.down, hidden, {.bias = options.bias, .role = "down"});
    }};
}
struct UpDown {
    std::string fc1, fc2;
};
/// fc2(act(fc1(x)))
inline Sublayer mlp(UpDown names, std::int64_t width, Act kind, MlpOptions options = {}) {
    return {[=](Ops& ops, const Value& in, std::int64_t hidden) {
        const auto inner = ops.linear(in, names.fc1, width, {.bias = options.bias, .role = "fc1"});
        return ops.linear(ops.activation(inner, kind), names.fc2, hidden, {.bias = options.bias, .role = "fc2"});
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
        if (options.scale != 1) stream_ = prologue_.scale(stream_, options.scale);
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
        for (std::int64_t i = 0; i < count; ++i) {
            std::string name(prefix);
            if (const auto at = name.find("{}"); at != std::string::npos) name.replace(at, 2, std::to_string(i));
            blocks_.push_back(block(name, parts(i), residual));
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
        epilogue_.finish(epilogue_.linear(stream_, name, vocabulary_, linear), "logits");
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
