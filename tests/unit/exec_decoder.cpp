// SPDX-License-Identifier: Apache-2.0
// Decoding token by token against the full forward pass of Program, for every op that has to do with it.
#include "core/exec/decoder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "core/exec/row_ops.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int64_t>;

constexpr std::int64_t hidden = 32, vocabulary = 40, positions = 64;

json linear(const std::string& name, std::int64_t out, std::int64_t in, const std::string& from, const std::string& to,
            bool bias = false, bool transposed = false) {
    return {{"op", "linear"}, {"name", name}, {"shape", {out, in}},      {"in", from},
            {"out", to},      {"bias", bias}, {"transposed", transposed}};
}
json norm(const std::string& kind, const std::string& name, const std::string& from, const std::string& to,
          std::int64_t size = hidden, std::int64_t heads = 1) {
    return {{"op", kind}, {"name", name}, {"size", size}, {"heads", heads}, {"eps", 1e-5}, {"in", from}, {"out", to}};
}
json two(const std::string& op, const std::string& a, const std::string& b, const std::string& to) {
    return {{"op", op}, {"in", {a, b}}, {"out", to}};
}
json rope(const std::string& from, const std::string& to, std::int64_t heads, const json& more = json::object()) {
    json op{{"op", "rope"}, {"in", from}, {"out", to}, {"heads", heads}, {"head_dim", 8}, {"theta", 1000.0}};
    op["rotary_dim"] = 8;
    if (!more.is_null()) op.update(more);
    return op;
}
json attention(std::int64_t heads, std::int64_t kv_heads, const json& more = json::object()) {
    json op{{"op", "attention"},    {"in", {"q", "k", "v"}}, {"out", "a"},   {"heads", heads},
            {"kv_heads", kv_heads}, {"head_dim", 8},         {"scale", 0.35}};
    if (!more.is_null()) op.update(more);
    return op;
}

/// Attention sub-block with q, k, v of its own: x → h.
json attention_ops(const std::string& at, std::int64_t heads, std::int64_t kv, const json& rope_more,
                   const json& attention_more, bool qk_norm = false) {
    json ops{norm("rms_norm", at + ".norm", "x", "n"), linear(at + ".q", heads * 8, hidden, "n", "q0"),
             linear(at + ".k", kv * 8, hidden, "n", "k0"), linear(at + ".v", kv * 8, hidden, "n", "v")};
    std::string q = "q0", k = "k0";
    if (qk_norm) {
        ops.push_back(norm("rms_norm", at + ".qn", "q0", "q1", heads * 8, heads));
        ops.push_back(norm("rms_norm", at + ".kn", "k0", "k1", kv * 8, kv));
        q = "q1";
        k = "k1";
    }
    ops.push_back(rope(q, "q", heads, rope_more));
    ops.push_back(rope(k, "k", kv, rope_more));
    ops.push_back(attention(heads, kv, attention_more));
    ops.push_back(linear(at + ".o", hidden, heads * 8, "a", "o"));
    ops.push_back(two("add", "x", "o", "h"));
    return ops;
}
/// Gated MLP of a width: h → y.
void add_mlp(json& ops, const std::string& at, std::int64_t width, const std::string& kind = "silu") {
    ops.push_back(norm("rms_norm", at + ".norm2", "h", "m"));
    ops.push_back(linear(at + ".gate", width, hidden, "m", "g"));
    ops.push_back({{"op", "activation"}, {"kind", kind}, {"in", "g"}, {"out", "s"}});
    ops.push_back(linear(at + ".up", width, hidden, "m", "u"));
    ops.push_back(two("mul", "s", "u", "p"));
    ops.push_back(linear(at + ".down", hidden, width, "p", "d"));
    ops.push_back(two("add", "h", "d", "y"));
}
json llama_block(const std::string& at, const json& rope_more = json::object(),
                 const json& attention_more = json::object(), bool qk_norm = false) {
    json ops = attention_ops(at, 4, 2, rope_more, attention_more, qk_norm);
    add_mlp(ops, at, 48);
    return ops;
}

json graph_of(const std::vector<json>& blocks, const json& prologue = {}, const json& epilogue = {}) {
    json out{
        {"graph", 1}, {"family", "test"}, {"hidden", hidden}, {"vocabulary", vocabulary}, {"positions", positions}};
    out["prologue"] = prologue.is_null() ? json{{{"op", "embedding"},
                                                 {"weight", "embed"},
                                                 {"shape", {vocabulary, hidden}},
                                                 {"in", "tokens"},
                                                 {"out", "x"}}}
                                         : prologue;
    out["epilogue"] = epilogue.is_null()
                          ? json{norm("rms_norm", "final", "x", "n"), linear("head", vocabulary, hidden, "n", "logits")}
                          : epilogue;
    out["blocks"] = json::array();
    for (std::size_t b = 0; b < blocks.size(); ++b)
        out["blocks"].push_back({{"name", "b" + std::to_string(b)}, {"ops", blocks[b]}});
    return out;
}

json plain_graph() {
    return graph_of({llama_block("b0"), llama_block("b1")});
}

json gemma_graph() {
    json prologue{
        {{"op", "embedding"}, {"weight", "embed"}, {"shape", {vocabulary, hidden}}, {"in", "tokens"}, {"out", "e"}},
        {{"op", "scale"}, {"value", 5.65}, {"in", "e"}, {"out", "x"}}};
    json epilogue{norm("rms_norm", "final", "x", "n"),
                  linear("head", vocabulary, hidden, "n", "l"),
                  {{"op", "softcap"}, {"value", 3.0}, {"in", "l"}, {"out", "logits"}}};
    epilogue[0]["offset"] = 1.0;
    return graph_of({llama_block("b0", {}, {{"window", 5}, {"softcap", 2.0}}, true),
                     llama_block("b1", {}, {{"softcap", 2.0}}, true)},
                    prologue, epilogue);
}

/// Fused and grouped projection, biases, partial interleaved rope, attention and MLP beside each other, layer norms.
json neox_graph() {
    json ops{norm("layer_norm", "b0.norm", "x", "n"),
             linear("b0.qkv", 96, hidden, "n", "f", true, true),
             {{"op", "split"}, {"sizes", {32, 32, 32}}, {"groups", 4}, {"in", "f"}, {"out", {"q0", "k0", "v"}}},
             rope("q0", "q", 4, {{"rotary_dim", 4}, {"interleaved", true}}),
             rope("k0", "k", 4, {{"rotary_dim", 4}, {"interleaved", true}}),
             attention(4, 4),
             linear("b0.o", hidden, 32, "a", "o", true),
             linear("b0.fc1", 80, hidden, "n", "f1", true),
             {{"op", "activation"}, {"kind", "gelu"}, {"in", "f1"}, {"out", "f2"}},
             linear("b0.fc2", hidden, 80, "f2", "d", true),
             two("add", "o", "d", "t"),
             two("add", "x", "t", "y")};
    return graph_of({ops});
}

/// Positions added to the embedding, and biases that grow with the distance.
json alibi_graph() {
    json prologue{
        {{"op", "embedding"}, {"weight", "embed"}, {"shape", {vocabulary, hidden}}, {"in", "tokens"}, {"out", "e"}},
        {{"op", "embedding"},
         {"weight", "places"},
         {"shape", {positions + 2, hidden}},
         {"offset", 2},
         {"in", "positions"},
         {"out", "p"}},
        two("add", "e", "p", "x")};
    return graph_of({llama_block("b0", {}, {{"alibi", true}}), llama_block("b1", {}, {{"alibi", true}})}, prologue);
}

json longrope_graph() {
    const json scaling{{"scaling",
                        {{"type", "longrope"},
                         {"short", {1.0, 1.1, 1.3, 1.5}},
                         {"long", {1.0, 2.0, 4.0, 9.0}},
                         {"original_positions", 24},
                         {"attention_factor", 1.19}}}};
    return graph_of({llama_block("b0", scaling), llama_block("b1", scaling)});
}

json expert_graph() {
    json ops = attention_ops("b0", 4, 2, json::object(), json::object());
    ops.push_back(norm("rms_norm", "b0.norm2", "h", "m"));
    ops.push_back(linear("b0.router", 4, hidden, "m", "r"));
    ops.push_back({{"op", "route"}, {"experts", 4}, {"top_k", 2}, {"normalize", true}, {"in", "r"}, {"out", "w"}});
    json combined = {"w"};
    for (int e = 0; e < 4; ++e) {
        const std::string n = std::to_string(e), at = "b0.expert" + n;
        ops.push_back({{"op", "dispatch"}, {"expert", e}, {"in", {"m", "w"}}, {"out", "m" + n}});
        ops.push_back(linear(at + ".gate", 24, hidden, "m" + n, "g" + n));
        ops.push_back(linear(at + ".up", 24, hidden, "m" + n, "u" + n));
        ops.push_back({{"op", "activation"}, {"kind", "gelu_tanh"}, {"in", "g" + n}, {"out", "s" + n}});
        ops.push_back(two("mul", "s" + n, "u" + n, "p" + n));
        ops.push_back(linear(at + ".down", hidden, 24, "p" + n, "d" + n));
        combined.push_back("d" + n);
    }
    ops.push_back({{"op", "combine"}, {"in", combined}, {"out", "c"}});
    ops.push_back(two("add", "h", "c", "y"));
    return graph_of({ops});
}

/// What pruning leaves: blocks of other widths and head counts, one without attention.
json ragged_graph() {
    json thin = attention_ops("b1", 3, 1, json::object(), json::object());
    add_mlp(thin, "b1", 17, "relu");
    json no_attention{two("add", "x", "x", "h")};
    add_mlp(no_attention, "b2", 5, "quick_gelu");
    return graph_of({llama_block("b0"), thin, no_attention});
}

/// A graph with random weights.
class Fixture {
public:
    explicit Fixture(const json& document) : graph(parse_graph(document, "test")) {
        initialise_execution();
        std::mt19937 random(1);
        std::normal_distribution<float> normal;
        for (const auto& tensor : expected_tensors(graph)) {
            std::int64_t count = 1;
            for (const auto size : tensor.shape) count *= size;
            auto& values = weights_[tensor.name];
            const float spread = tensor.shape.size() > 1 ? 0.25f : 0.2f;
            for (std::int64_t i = 0; i < count; ++i)
                values.push_back(normal(random) * spread + (tensor.shape.size() == 1 ? 1.0f : 0.0f));
            widths_[tensor.name] = tensor.shape.back();
        }
        source = {.whole = [this](const std::string& name) { return weights_.at(name); },
                  .row =
                      [this](const std::string& name, std::int64_t row, std::span<float> out) {
                          std::copy_n(weights_.at(name).begin() + row * widths_.at(name), widths_.at(name),
                                      out.begin());
                      }};
    }
    Fixture(const Fixture&) = delete;

    void round_weights(DType type) {
        for (auto& [name, values] : weights_)
            if (name != "embed" && name != "places" && !name.ends_with("norm.weight") &&
                !name.ends_with("norm2.weight") && name != "final.weight")
                round_to(type, values);
    }

    /// Logits [tokens, vocabulary] of the full forward pass.
    std::vector<float> full(const Ids& ids) const {
        const Batch batch{1, std::int64_t(ids.size())};
        const std::string keep_x[] = {"x"}, keep_y[] = {"y"}, keep[] = {"logits"};
        Value x = Program(graph.prologue, source, DType::f32, batch.length).embed(ids, batch, keep_x[0]);
        for (const auto& block : graph.blocks) {
            Values values{{"x", x}};
            Program(block.ops, source, DType::f32, batch.length).run(values, batch, 0, block.ops.size(), keep_y);
            x = values.at("y");
        }
        Values values{{"x", x}};
        Program(graph.epilogue, source, DType::f32, batch.length).run(values, batch, 0, graph.epilogue.size(), keep);
        return values.at("logits").to_floats();
    }
    /// Of the last token alone.
    std::vector<float> last(const Ids& ids) const {
        const auto all = full(ids);
        return {all.end() - vocabulary, all.end()};
    }

    Graph graph;
    WeightSource source;

private:
    std::map<std::string, std::vector<float>> weights_;
    std::map<std::string, std::int64_t> widths_;
};

Ids some_ids(std::int64_t count, unsigned seed = 5) {
    std::mt19937 random(seed);
    Ids out;
    for (std::int64_t i = 0; i < count; ++i) out.push_back(std::int64_t(random() % vocabulary));
    return out;
}

Ids head_of(const Ids& ids, std::size_t count) {
    return {ids.begin(), ids.begin() + std::ptrdiff_t(count)};
}

/// The bound: 1e-5 of the largest logit.
void expect_agreement(std::span<const float> got, const std::vector<float>& expected, const std::string& where) {
    ASSERT_EQ(got.size(), expected.size());
    float largest = 0;
    for (const float value : expected) largest = std::max(largest, std::abs(value));
    for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], expected[i], 1e-5f * largest) << where << ", logit " << i;
}

struct Case {
    const char* name;
    json (*graph)();
};

class Decoding : public testing::TestWithParam<Case> {};

TEST_P(Decoding, TokenByTokenAgreesWithTheFullForwardPass) {
    const Fixture model(GetParam().graph());
    Decoder decoder(model.graph, model.source, DType::f32);
    const Ids ids = some_ids(40);
    Sequence sequence = decoder.start(40);
    for (std::size_t n = 1; n <= ids.size(); ++n) {
        const auto logits = decoder.append(sequence, std::span(&ids[n - 1], 1));
        expect_agreement(logits, model.last(head_of(ids, n)), "token " + std::to_string(n));
    }
}

TEST_P(Decoding, APromptAtOnceAgreesWithTheFullForwardPassAndSoDoesWhatFollows) {
    const Fixture model(GetParam().graph());
    Decoder decoder(model.graph, model.source, DType::f32);
    const Ids ids = some_ids(48, 9);
    for (const std::size_t prompt : {2u, 8u, 9u, 33u, 47u}) {
        Sequence sequence = decoder.start(48);
        expect_agreement(decoder.append(sequence, head_of(ids, prompt)), model.last(head_of(ids, prompt)), "prompt");
        for (std::size_t n = prompt + 1; n <= std::min<std::size_t>(prompt + 3, ids.size()); ++n)
            expect_agreement(decoder.append(sequence, std::span(&ids[n - 1], 1)), model.last(head_of(ids, n)),
                             "token " + std::to_string(n) + " after a prompt of " + std::to_string(prompt));
        EXPECT_TRUE(std::ranges::equal(sequence.ids(), head_of(ids, std::min<std::size_t>(prompt + 3, ids.size()))));
    }
}

TEST_P(Decoding, ASequenceGetsTheSameBytesAloneAndBesideOthersAtAnyNumberOfThreads) {
    const Fixture model(GetParam().graph());
    const Ids prompts[] = {some_ids(20, 1), some_ids(3, 2), some_ids(24, 3)};
    std::vector<std::vector<float>> alone;
    const auto decode = [&](bool together) {
        Decoder decoder(model.graph, model.source, DType::bf16);
        std::vector<Sequence> sequences;
        std::vector<std::vector<float>> out(3);
        for (const auto& prompt : prompts) {
            sequences.push_back(decoder.start(40));
            decoder.append(sequences.back(), prompt);
        }
        for (std::int64_t token = 0; token < 4; ++token) {
            const Ids next(3, token + 7);
            Sequence* all[] = {&sequences[0], &sequences[1], &sequences[2]};
            std::vector<float> logits;
            if (together) {
                const auto made = decoder.step(all, next);
                logits.assign(made.begin(), made.end());
            } else {
                for (auto* one : all) {
                    const auto made = decoder.step(std::span(&one, 1), std::span(next).first(1));
                    logits.insert(logits.end(), made.begin(), made.end());
                }
            }
            for (std::size_t s = 0; s < 3; ++s)
                out[s].insert(out[s].end(), logits.begin() + std::ptrdiff_t(s) * vocabulary,
                              logits.begin() + std::ptrdiff_t(s + 1) * vocabulary);
        }
        return out;
    };
    set_threads(1);
    alone = decode(false);
    for (const int threads : {1, 2, 5}) {
        set_threads(threads);
        EXPECT_EQ(decode(true), alone) << threads;
        EXPECT_EQ(decode(false), alone) << threads;
    }
    set_threads(0);
}

INSTANTIATE_TEST_SUITE_P(Graphs, Decoding,
                         testing::Values(Case{"llama", plain_graph}, Case{"gemma", gemma_graph},
                                         Case{"neox", neox_graph}, Case{"alibi", alibi_graph},
                                         Case{"longrope", longrope_graph}, Case{"experts", expert_graph},
                                         Case{"ragged", ragged_graph}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Decoder, HoldsWeightsIn16BitsWithNoOtherRounding) {
    for (const DType type : {DType::bf16, DType::f16}) {
        Fixture model(plain_graph());
        Decoder decoder(model.graph, model.source, type);
        EXPECT_EQ(decoder.type(), type);
        model.round_weights(type);
        const Ids ids = some_ids(30);
        Sequence sequence = decoder.start(31);
        expect_agreement(decoder.append(sequence, head_of(ids, 29)), model.last(head_of(ids, 29)), "prompt");
        expect_agreement(decoder.append(sequence, std::span(&ids[29], 1)), model.last(ids), "token");
    }
}

TEST(Decoder, RefusesTextsBeyondPositionsRoomAndVocabulary) {
    const Fixture model(plain_graph());
    Decoder decoder(model.graph, model.source, DType::f32);
    EXPECT_THROW(decoder.start(positions + 1), Error);
    Sequence sequence = decoder.start(4);
    EXPECT_THROW(decoder.append(sequence, some_ids(5)), Error);
    EXPECT_THROW(decoder.append(sequence, Ids{vocabulary}), Error);
    EXPECT_EQ(sequence.length(), 0);
    const Ids ids = some_ids(4);
    expect_agreement(decoder.append(sequence, ids), model.last(ids), "after refusals");
    EXPECT_THROW(decoder.append(sequence, Ids{1}), Error);
}

TEST(Decoder, RefusesAGraphWhoseEpilogueAttends) {
    json document = plain_graph();
    json epilogue = attention_ops("e", 4, 2, json::object(), json::object());
    epilogue.push_back(linear("head", vocabulary, hidden, "h", "logits"));
    document["epilogue"] = epilogue;
    const Fixture model(document);
    EXPECT_THROW(Decoder(model.graph, model.source, DType::f32), Error);
}

TEST(RowOps, ExponentialsAreWithinTwoUnitsOfTheLastPlace) {
    std::vector<float> x;
    for (double v = -86.9; v < 87.9; v += 0.00137) x.push_back(float(v));
    auto y = x;
    row_ops::exponentials(y);
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double exact = std::exp(double(x[i]));
        ASSERT_NEAR(double(y[i]), exact, exact * 2.4e-7) << x[i];
    }
    std::vector<float> edges{-1e30f, 1e30f, 0.0f, std::nanf("")};
    row_ops::exponentials(edges);
    EXPECT_LT(edges[0], 1e-37f);
    EXPECT_TRUE(std::isfinite(edges[1]));
    EXPECT_EQ(edges[2], 1.0f);
    EXPECT_TRUE(std::isnan(edges[3]));
}

}  // namespace
}  // namespace kerf::core
