// SPDX-License-Identifier: Apache-2.0
// Each op against plain loops in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/exec/program.hpp"
#include "core/exec/states.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

constexpr double epsilon = std::numeric_limits<float>::epsilon();

std::vector<float> noise(std::int64_t count, unsigned seed, float scale = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> out(static_cast<std::size_t>(count));
    for (float& value : out) value = normal(random);
    return out;
}

struct Input {
    std::string name;
    std::int64_t features;
    std::vector<float> values;
};

Op make_op(OpKind kind, std::vector<std::string> in, std::vector<std::string> out) {
    Op op;
    op.kind = kind;
    op.in = std::move(in);
    op.out = std::move(out);
    return op;
}

/// Runs ops over one batch and gives the values named.
std::vector<Value> run(const std::vector<Op>& ops, const std::vector<Input>& inputs, Batch batch,
                       const std::vector<std::string>& results,
                       const std::map<std::string, std::vector<float>>& weights = {}, DType dtype = DType::f32) {
    initialise_execution();
    const WeightSource source{.whole = [&](const std::string& name) { return weights.at(name); }, .row = {}};
    const Program program(ops, source, dtype, batch.length);
    Values values;
    for (const auto& [name, features, floats] : inputs)
        values.emplace(name, Value::from_floats(floats, std::int64_t(floats.size()) / features, features, dtype));
    program.run(values, batch, 0, ops.size(), results);
    std::vector<Value> out;
    for (const auto& name : results) out.push_back(values.at(name));
    return out;
}

void expect_near(const std::vector<float>& got, const std::vector<double>& wanted, double tolerance) {
    ASSERT_EQ(got.size(), wanted.size());
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(double(got[i]), wanted[i], tolerance) << "at " << i;
}

TEST(ExecOps, ANormOverHeadsNormalisesEachSliceWithTheOneWeight) {
    constexpr std::int64_t tokens = 5, heads = 3, size = 8;
    const auto x = noise(tokens * heads * size, 1), w = noise(size, 2), b = noise(size, 3);
    for (const OpKind kind : {OpKind::rms_norm, OpKind::layer_norm}) {
        for (const double offset : {0.0, 1.0}) {
            Op op = make_op(kind, {"x"}, {"y"});
            op.weight = "w";
            if (kind == OpKind::layer_norm) op.bias = "b";
            op.rows = heads * size;
            op.heads = heads;
            op.eps = 1e-3;
            op.value = kind == OpKind::rms_norm ? offset : 0;
            const auto got = run({op}, {{"x", heads * size, x}}, {1, tokens}, {"y"}, {{"w", w}, {"b", b}})[0];
            std::vector<double> wanted;
            for (std::int64_t slice = 0; slice < tokens * heads; ++slice) {
                const float* at = x.data() + slice * size;
                double mean = 0, square = 0;
                for (std::int64_t i = 0; i < size; ++i) mean += kind == OpKind::layer_norm ? at[i] / double(size) : 0;
                for (std::int64_t i = 0; i < size; ++i) square += (at[i] - mean) * (at[i] - mean) / double(size);
                for (std::int64_t i = 0; i < size; ++i) {
                    const auto place = static_cast<std::size_t>(i);
                    wanted.push_back((at[i] - mean) / std::sqrt(square + op.eps) * (double(w[place]) + op.value) +
                                     (op.bias.empty() ? 0 : double(b[place])));
                }
            }
            expect_near(got.to_floats(), wanted, 32 * epsilon);
        }
    }
}

TEST(ExecOps, ANormWithAnOffsetKeepsASmallWeightInBfloat16) {
    // 1 + 2^-10 is 1 in bfloat16; taken in float32, a few of many outputs round up.
    constexpr std::int64_t size = 512;
    const auto x = noise(size, 1);
    const auto normed = [&](float weight) {
        Op op = make_op(OpKind::rms_norm, {"x"}, {"y"});
        op.weight = "w";
        op.rows = size;
        op.value = 1;
        const std::vector<float> w(size, weight);
        return run({op}, {{"x", size, x}}, {1, 1}, {"y"}, {{"w", w}}, DType::bf16)[0].to_floats();
    };
    EXPECT_NE(normed(1.0f / 1024), normed(0));
}

TEST(ExecOps, ASplitWithGroupsTakesItsShareOfEveryRun) {
    constexpr std::int64_t tokens = 3, groups = 2;
    // each run: 3 of a, 1 of b
    std::vector<float> x;
    for (int i = 0; i < tokens * groups * 4; ++i) x.push_back(float(i));
    Op op = make_op(OpKind::split, {"x"}, {"a", "b"});
    op.sizes = {6, 2};
    op.groups = groups;
    const auto parts = run({op}, {{"x", 8, x}}, {1, tokens}, {"a", "b"});
    std::vector<float> a, b;
    for (int run = 0; run < tokens * groups; ++run) {
        for (int i = 0; i < 3; ++i) a.push_back(float(run * 4 + i));
        b.push_back(float(run * 4 + 3));
    }
    EXPECT_EQ(parts[0].to_floats(), a);
    EXPECT_EQ(parts[1].to_floats(), b);
}

float bfloat16(double value) {
    std::vector<float> one{float(value)};
    round_to(DType::bf16, one);
    return one[0];
}

/// Attention as docs/graph.md defines it. `slopes`: alibi's, empty for none.
std::vector<double> plain_attention(const Op& op, Batch batch, const std::vector<float>& q, const std::vector<float>& k,
                                    const std::vector<float>& v, const std::vector<double>& slopes) {
    std::vector<double> out(q.size());
    const std::int64_t d = op.head_dim;
    for (std::int64_t s = 0; s < batch.samples; ++s)
        for (std::int64_t h = 0; h < op.heads; ++h)
            for (std::int64_t i = 0; i < batch.length; ++i) {
                const std::int64_t g = h / (op.heads / op.kv_heads);
                const std::int64_t row = ((s * batch.length + i) * op.heads + h) * d;
                double sum = 0;
                for (std::int64_t j = 0; j <= i; ++j) {
                    if (op.window > 0 && i - j >= op.window) continue;
                    const std::int64_t key = ((s * batch.length + j) * op.kv_heads + g) * d;
                    double score = 0;
                    for (std::int64_t c = 0; c < d; ++c)
                        score += double(q[std::size_t(row + c)]) * double(k[std::size_t(key + c)]);
                    if (!slopes.empty())
                        score += double(bfloat16(double(bfloat16(slopes[std::size_t(h)])) * double(j)));
                    score *= op.value;
                    if (op.softcap > 0) score = op.softcap * std::tanh(score / op.softcap);
                    sum += std::exp(score);
                    for (std::int64_t c = 0; c < d; ++c)
                        out[std::size_t(row + c)] += std::exp(score) * double(v[std::size_t(key + c)]);
                }
                for (std::int64_t c = 0; c < d; ++c) out[std::size_t(row + c)] /= sum;
            }
    return out;
}

struct AttentionCase {
    Op op = make_op(OpKind::attention, {"q", "k", "v"}, {"y"});
    Batch batch{2, 150};  // more than one tile of queries
    std::vector<float> q, k, v;

    AttentionCase(std::int64_t heads, std::int64_t kv_heads) {
        op.heads = heads;
        op.kv_heads = kv_heads;
        op.head_dim = 8;
        op.value = 0.4;
        q = noise(batch.tokens() * heads * op.head_dim, 1);
        k = noise(batch.tokens() * kv_heads * op.head_dim, 2);
        v = noise(batch.tokens() * kv_heads * op.head_dim, 3);
    }
    std::vector<float> result(DType dtype = DType::f32) const {
        return run({op}, {{"q", op.heads * 8, q}, {"k", op.kv_heads * 8, k}, {"v", op.kv_heads * 8, v}}, batch, {"y"},
                   {}, dtype)[0]
            .to_floats();
    }
};

TEST(ExecOps, AttentionCapsItsScores) {
    for (const std::int64_t window : {0, 20}) {
        AttentionCase c(4, 2);
        c.op.softcap = 2;
        c.op.window = window;
        // exp amplifies a score's rounding of a few eps by the sum over the keys; values are of size 3
        const auto wanted = plain_attention(c.op, c.batch, c.q, c.k, c.v, {});
        expect_near(c.result(), wanted, 3e-6);
        expect_near(c.result(DType::bf16), wanted, 0.05);
        AttentionCase uncapped(4, 2);
        uncapped.op.window = window;
        EXPECT_NE(c.result(), uncapped.result());
    }
}

TEST(ExecOps, ACapFarAboveTheScoresChangesNothing) {
    for (const std::int64_t window : {0, 20}) {
        AttentionCase c(4, 2);
        c.op.window = window;
        const auto plain = c.result();
        c.op.softcap = 1e4;
        const auto capped = c.result();
        expect_near(capped, {plain.begin(), plain.end()}, 3e-6);
    }
}

TEST(ExecOps, AlibiAddsSlopesTimesKeyPositions) {
    struct Case {
        std::int64_t heads;
        std::vector<double> slopes;
    };
    // a power of two; and 6 heads: those of 4, then every second one of 8
    for (const auto& [heads, slopes] :
         {Case{4, {0.25, 0.0625, 0.015625, 0.00390625}}, Case{6, {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125}}}) {
        AttentionCase c(heads, heads);
        c.op.alibi = true;
        expect_near(c.result(), plain_attention(c.op, c.batch, c.q, c.k, c.v, slopes), 6e-6);
    }
}

TEST(ExecOps, LongropeTakesTheLongFactorsBeyondTheOriginalLength) {
    Op op = make_op(OpKind::rope, {"x"}, {"y"});
    op.heads = 2;
    op.head_dim = 8;
    op.rotary_dim = 4;
    op.theta = 100;
    op.scaling.kind = RopeScaling::Kind::longrope;
    op.scaling.short_factors = {1, 1.5};
    op.scaling.long_factors = {2, 8};
    op.scaling.original_positions = 6;
    op.scaling.attention_factor = 1.2;
    for (const std::int64_t length : {6, 7}) {
        const auto x = noise(2 * length * 16, 1);
        const auto got = run({op}, {{"x", 16, x}}, {2, length}, {"y"})[0];
        std::vector<double> wanted(x.begin(), x.end());
        const auto& factors = length > 6 ? op.scaling.long_factors : op.scaling.short_factors;
        for (std::int64_t slice = 0; slice < 4 * length; ++slice)
            for (std::int64_t i = 0; i < 2; ++i) {
                const double angle =
                    double(slice / 2 % length) * std::pow(100.0, -double(i) / 2) / factors[std::size_t(i)];
                const auto a = std::size_t(slice * 8 + i), b = a + 2;
                wanted[a] = 1.2 * (double(x[a]) * std::cos(angle) - double(x[b]) * std::sin(angle));
                wanted[b] = 1.2 * (double(x[b]) * std::cos(angle) + double(x[a]) * std::sin(angle));
            }
        expect_near(got.to_floats(), wanted, 16 * epsilon);
    }
}

TEST(ExecOps, ASoftcapIsValueTimesTanh) {
    const auto x = noise(64, 1, 40);
    Op op = make_op(OpKind::softcap, {"x"}, {"y"});
    op.value = 30;
    std::vector<double> wanted;
    for (const float value : x) wanted.push_back(30 * std::tanh(double(value) / 30));
    expect_near(run({op}, {{"x", 8, x}}, {1, 8}, {"y"})[0].to_floats(), wanted, 30 * 4 * epsilon);
    auto in_place = x;
    apply_elementwise(op, in_place);
    expect_near(in_place, wanted, 30 * epsilon);
}

TEST(ExecOps, ARoundedScaleIsRoundedToTheComputeDtype) {
    Op op = make_op(OpKind::scale, {"x"}, {"y"});
    op.value = std::sqrt(3072.0);  // 55.4256…, in bfloat16 55.5
    op.rounded = true;
    const std::vector<float> x{1, 2, 4, 128};
    EXPECT_EQ(run({op}, {{"x", 4, x}}, {1, 1}, {"y"}, {}, DType::bf16)[0].to_floats(),
              (std::vector<float>{55.5, 111, 222, 7104}));
    expect_near(run({op}, {{"x", 4, x}}, {1, 1}, {"y"})[0].to_floats(),
                {op.value, 2 * op.value, 4 * op.value, 128 * op.value}, 7104 * epsilon);
}

/// Four experts, two for each token; expert 3 is never chosen.
struct Routed {
    static constexpr std::int64_t tokens = 40, features = 8, experts = 4;
    std::vector<Op> ops;
    std::map<std::string, std::vector<float>> weights;
    std::vector<float> x = noise(tokens * features, 1), logits = noise(tokens * experts, 2);
    bool normalize;

    explicit Routed(bool normal = true) : normalize(normal) {
        for (std::size_t t = 0; t < std::size_t(tokens); ++t) logits[t * experts + 3] = -50;
        Op route = make_op(OpKind::route, {"logits"}, {"routing"});
        route.experts = experts;
        route.top_k = 2;
        route.normalize = normalize;
        ops.push_back(route);
        Op combine = make_op(OpKind::combine, {"routing"}, {"y"});
        for (std::int64_t e = 0; e < experts; ++e) {
            const std::string number = std::to_string(e);
            Op dispatch = make_op(OpKind::dispatch, {"x", "routing"}, {"d" + number});
            dispatch.expert = e;
            Op linear = make_op(OpKind::linear, {"d" + number}, {"y" + number});
            linear.name = "e" + number;
            linear.weight = linear.name + ".weight";
            linear.rows = linear.columns = features;
            weights[linear.weight] = noise(features * features, unsigned(10 + e));
            combine.in.push_back("y" + number);
            ops.insert(ops.end(), {dispatch, linear});
        }
        ops.push_back(combine);
    }
    std::vector<Input> inputs() const { return {{"x", features, x}, {"logits", experts, logits}}; }

    std::vector<double> routing() const {
        std::vector<double> out(std::size_t(tokens * experts));
        for (std::size_t t = 0; t < std::size_t(tokens); ++t) {
            double sum = 0, top = 0;
            std::vector<std::pair<double, std::size_t>> order;
            for (std::size_t e = 0; e < experts; ++e) {
                sum += std::exp(double(logits[t * experts + e]));
                order.emplace_back(double(logits[t * experts + e]), e);
            }
            std::sort(order.rbegin(), order.rend());
            for (int i = 0; i < 2; ++i) top += std::exp(order[std::size_t(i)].first) / sum;
            for (int i = 0; i < 2; ++i)
                out[t * experts + order[std::size_t(i)].second] =
                    std::exp(order[std::size_t(i)].first) / sum / (normalize ? top : 1);
        }
        return out;
    }
    std::vector<double> mixture() const {
        const auto share = routing();
        std::vector<double> out(std::size_t(tokens * features));
        for (std::size_t t = 0; t < std::size_t(tokens); ++t)
            for (std::size_t e = 0; e < experts; ++e)
                for (std::size_t o = 0; o < features; ++o)
                    for (std::size_t i = 0; i < features; ++i)
                        out[t * features + o] +=
                            share[t * experts + e] * double(x[t * features + i]) *
                            double(weights.at("e" + std::to_string(e) + ".weight")[o * features + i]);
        return out;
    }
};

TEST(ExecOps, ARouterKeepsTheLargestWeights) {
    for (const bool normalize : {true, false}) {
        const Routed routed(normalize);
        expect_near(run({routed.ops[0]}, routed.inputs(), {1, Routed::tokens}, {"routing"})[0].to_floats(),
                    routed.routing(), 8 * epsilon);
    }
}

TEST(ExecOps, ExpertsOnTheirOwnTokensGiveTheMixtureOfAll) {
    const Routed routed;
    const auto got = run(routed.ops, routed.inputs(), {1, Routed::tokens}, {"y"}, routed.weights)[0];
    // sums of 16 products of size 10
    expect_near(got.to_floats(), routed.mixture(), 16 * 10 * epsilon);
    expect_near(
        run(routed.ops, routed.inputs(), {1, Routed::tokens}, {"y"}, routed.weights, DType::bf16)[0].to_floats(),
        routed.mixture(), 0.25);
}

TEST(ExecOps, AnExpertSeesTheTokensThatChoseIt) {
    const Routed routed;
    const auto values =
        run(routed.ops, routed.inputs(), {1, Routed::tokens}, {"d0", "d1", "d2", "d3", "y3"}, routed.weights);
    const auto routing = routed.routing();
    std::int64_t all = 0;
    for (std::size_t e = 0; e < Routed::experts; ++e) {
        std::vector<float> rows;
        for (std::size_t t = 0; t < std::size_t(Routed::tokens); ++t)
            if (routing[t * Routed::experts + e] > 0)
                rows.insert(rows.end(), routed.x.begin() + std::int64_t(t) * Routed::features,
                            routed.x.begin() + std::int64_t(t + 1) * Routed::features);
        EXPECT_EQ(values[e].to_floats(), rows) << "expert " << e;
        all += values[e].tokens();
    }
    EXPECT_EQ(all, 2 * Routed::tokens);
    EXPECT_EQ(values[4].tokens(), 0);
    EXPECT_EQ(values[4].features(), Routed::features);
}

TEST(ExecStates, GiveBackAsManyRowsAsWerePut) {
    Windows windows;
    windows.samples = 3;
    windows.length = 512;
    windows.ids.resize(3 * 512);
    const Units units(windows);
    ASSERT_EQ(units.count(), 3);
    for (const DType dtype : {DType::f32, DType::bf16}) {
        States states(units, std::filesystem::temp_directory_path(), dtype);
        states.declare("few", 4, States::Room::when_written);
        states.declare("all", 4);
        const std::vector<std::int64_t> rows{7, 0, 512};
        for (std::int64_t unit = 2; unit >= 0; --unit) {
            const auto n = rows[std::size_t(unit)];
            states.put("few", unit, Value::from_floats(noise(n * 4, unsigned(unit)), n, 4, dtype));
            states.put("all", unit, Value::from_floats(noise(512 * 4, unsigned(unit)), 512, 4, dtype));
        }
        for (std::int64_t unit = 0; unit < 3; ++unit) {
            auto wanted = noise(rows[std::size_t(unit)] * 4, unsigned(unit));
            round_to(dtype, wanted);
            EXPECT_EQ(states.get("few", unit).to_floats(), wanted);
            EXPECT_EQ(states.get("all", unit).tokens(), 512);
        }
        EXPECT_THROW(states.put("few", 0, Value::from_floats(noise(513 * 4, 1), 513, 4, dtype)), Error);
    }
}

}  // namespace
}  // namespace kerf::core
