// SPDX-License-Identifier: Apache-2.0
// The residual stream in other coordinates: norm fusion and rotation, held against what the dense model computes.
#include <algorithm>
#include <cmath>
#include <random>

#include "core/eval/evaluate.hpp"
#include "core/graph/residual_edit.hpp"
#include "core/pipeline/save.hpp"
#include "core/support/error.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

Windows windows_for(const Model& model) {
    Windows windows;
    windows.samples = 2;
    windows.length = 24;
    std::mt19937 random(11);
    std::uniform_int_distribution<std::int64_t> id(0, model.graph().vocabulary - 1);
    for (std::int64_t i = 0; i < windows.samples * windows.length; ++i) windows.ids.push_back(id(random));
    return windows;
}

/// A product of reflections, cut to `size` columns: orthonormal to the rounding of float64.
std::shared_ptr<Basis> random_basis(std::int64_t n, std::int64_t size, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::vector<double> q(std::size_t(n * size));
    for (std::int64_t i = 0; i < size; ++i) q[std::size_t(i * size + i)] = 1;
    for (int reflection = 0; reflection < 8; ++reflection) {
        std::vector<double> v(std::size_t(n), 0.0);
        double square = 0;
        for (double& value : v) {
            value = normal(random);
            square += value * value;
        }
        for (std::int64_t c = 0; c < size; ++c) {
            double dot = 0;
            for (std::int64_t r = 0; r < n; ++r) dot += v[std::size_t(r)] * q[std::size_t(r * size + c)];
            for (std::int64_t r = 0; r < n; ++r) q[std::size_t(r * size + c)] -= 2 * dot / square * v[std::size_t(r)];
        }
    }
    auto basis = std::make_shared<Basis>(n, size);
    basis->set(std::move(q));
    return basis;
}

class ResidualStream : public testing::TestWithParam<std::string> {
protected:
    Model open() const { return Model::open(trained_model(GetParam()), components()); }
};

/// Rounding of a chain of float32 products: what separates two orders of the same sums.
constexpr double rounding = 2e-5;

TEST_P(ResidualStream, KeepsItsFunctionWhenNormsAreFused) {
    KERF_SKIP_WITHOUT(GetParam());
    const ScratchFolder scratch;
    const Model dense = open(), fused = dense.edited(fuse_norms(dense.graph()));
    const Windows windows = windows_for(dense);
    const auto expected = logits(dense, windows, DType::f32, scratch.path());
    EXPECT_LE(distance(logits(fused, windows, DType::f32, scratch.path()), expected), rounding * largest(expected));
    for (const auto& block : fused.graph().blocks)
        for (const auto& op : block.ops) EXPECT_NE(op.kind, OpKind::layer_norm) << op.name;
}

TEST_P(ResidualStream, KeepsItsFunctionInAnyCoordinates) {
    KERF_SKIP_WITHOUT(GetParam());
    const ScratchFolder scratch;
    const Model dense = open(), fused = dense.edited(fuse_norms(dense.graph()));
    const Stream stream = find_stream(fused.graph(), "test");
    std::vector<std::shared_ptr<const Basis>> bases;
    for (const auto& position : stream.positions)
        bases.push_back(random_basis(position.features, position.features, unsigned(bases.size())));
    const Windows windows = windows_for(dense);
    const auto expected = logits(dense, windows, DType::f32, scratch.path());
    const Model turned = fused.edited(rotate(fused.graph(), stream, bases));
    EXPECT_LE(distance(logits(turned, windows, DType::f32, scratch.path()), expected), rounding * largest(expected));
    // One basis everywhere needs no shortcut, and no more parameters than the fused model.
    const std::vector<std::shared_ptr<const Basis>> same(bases.size(), bases[0]);
    const Model alike = fused.edited(rotate(fused.graph(), stream, same));
    EXPECT_LE(distance(logits(alike, windows, DType::f32, scratch.path()), expected), rounding * largest(expected));
    EXPECT_EQ(alike.parameters(), fused.parameters());
    EXPECT_GT(turned.parameters(), fused.parameters());
}

TEST_P(ResidualStream, IsTheSameSlicedAndLoadedAgain) {
    KERF_SKIP_WITHOUT(GetParam());
    const ScratchFolder scratch;
    const Model dense = open(), fused = dense.edited(fuse_norms(dense.graph()));
    const Stream stream = find_stream(fused.graph(), "test");
    std::vector<std::shared_ptr<const Basis>> bases;
    for (const auto& position : stream.positions)
        bases.push_back(
            random_basis(position.features, position.features - 8 * (1 + std::int64_t(bases.size()) % 3), 5));
    const Model sliced = fused.edited(rotate(fused.graph(), stream, bases));
    const Windows windows = windows_for(dense);
    const auto expected = logits(sliced, windows, DType::f32, scratch.path());
    save_model(sliced, components(), scratch.path() / "saved", {.dtype = DType::f32});
    const Model loaded = Model::open(scratch.path() / "saved", components());
    EXPECT_EQ(graph_json(loaded.graph()), graph_json(sliced.graph()));
    EXPECT_EQ(distance(logits(loaded, windows, DType::f32, scratch.path()), expected), 0);
    EXPECT_GT(distance(logits(dense, windows, DType::f32, scratch.path()), expected), rounding * largest(expected));
}

INSTANTIATE_TEST_SUITE_P(Families, ResidualStream,
                         testing::Values("llama-tiny", "opt-tiny", "phi2-tiny", "phi3-tiny", "falcon-tiny", "gpt2-tiny",
                                         "gptneox-tiny", "mixtral-tiny", "qwen3-tiny"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

TEST(ResidualStreamOf, ATiedHeadStaysTiedWhereNothingButOneBasisSeparatesItFromTheEmbedding) {
    for (const bool bare : {false, true}) {
        const ScratchFolder scratch;
        Model dense = Model::open(test_data("models/opt-tiny"), components());
        if (bare) {
            Edit edit;
            edit.graph = dense.graph();
            edit.graph.epilogue[0].weight.clear();  // of the last norm, which would go into the head
            edit.graph.epilogue[0].bias.clear();
            dense = dense.edited(edit);
        }
        const Model fused = dense.edited(fuse_norms(dense.graph()));
        const Stream stream = find_stream(fused.graph(), "test");
        const std::int64_t features = fused.graph().hidden;
        const auto expected = logits(dense, windows_for(dense), DType::f32, scratch.path());
        for (const bool one : {true, false}) {
            std::vector<std::shared_ptr<const Basis>> bases(stream.positions.size(),
                                                            random_basis(features, features, 3));
            if (!one) bases.back() = random_basis(features, features, 4);
            const Model turned = fused.edited(rotate(fused.graph(), stream, bases));
            const auto found = logits(turned, windows_for(dense), DType::f32, scratch.path());
            EXPECT_LE(distance(found, expected), rounding * largest(expected));
            const bool tied = turned.graph().epilogue.back().weight == turned.graph().prologue.front().weight;
            EXPECT_EQ(tied, bare && one);
        }
    }
}

TEST(ResidualStreamOf, GemmaIsRefusedForItsNormsBehindTheSublayers) {
    const Model gemma = Model::open(test_data("models/gemma2-tiny"), components());
    try {
        fuse_norms(gemma.graph());
        FAIL() << "was fused";
    } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::input);
        EXPECT_NE(std::string(error.what()).find("post_attention_layernorm"), std::string::npos) << error.what();
    }
}

}  // namespace
}  // namespace kerf::core
