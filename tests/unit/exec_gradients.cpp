// SPDX-License-Identifier: Apache-2.0
// Backward sweeps over small models of every shape, against differences of losses and against each other.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>

#include "core/exec/gradient_sweep.hpp"
#include "core/graph/cost.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "tests/unit/small_graphs.hpp"

namespace kerf::core {
namespace {

using Weights = std::map<std::string, std::vector<float>>;
using Gradients = std::map<std::string, TensorGradient>;

/// Random weights for a graph, norms' around 1.
Weights weights_for(const Graph& graph) {
    Weights out;
    std::mt19937 random(11);
    std::normal_distribution<float> normal(0, 0.3f);
    for (const auto& tensor : expected_tensors(graph)) {
        std::int64_t count = 1;
        for (const auto size : tensor.shape) count *= size;
        auto& values = out[tensor.name];
        for (std::int64_t i = 0; i < count; ++i) values.push_back(normal(random) + (tensor.shape.size() == 1 ? 1 : 0));
    }
    return out;
}

WeightSource source_of(const Weights& weights, const Graph& graph) {
    return {.whole = [&](const std::string& name) { return weights.at(name); },
            .row =
                [&](const std::string& name, std::int64_t row, std::span<float> out) {
                    std::copy_n(weights.at(name).begin() + row * std::int64_t(out.size()), out.size(), out.begin());
                    static_cast<void>(graph);
                }};
}

Windows windows_for(const Graph& graph, std::int64_t samples = 3, std::int64_t length = 9) {
    Windows out;
    out.samples = samples;
    out.length = length;
    std::mt19937 random(5);
    std::uniform_int_distribution<std::int64_t> id(0, graph.vocabulary - 1);
    for (std::int64_t i = 0; i < samples * length; ++i) out.ids.push_back(id(random));
    return out;
}

struct Swept {
    double loss = 0;
    Gradients gradients;
    std::vector<std::string> order;
};

Swept sweep(
    const Graph& graph, const Weights& weights, const Windows& windows, bool squares = false,
    const std::function<bool(const std::string&)>& wanted = [](const std::string&) { return true; }) {
    Swept out;
    SweepRequest request;
    request.wanted = wanted;
    request.squares = squares;
    request.made = [&](TensorGradient&& made) {
        out.order.push_back(made.tensor);
        const std::string name = made.tensor;
        EXPECT_TRUE(out.gradients.emplace(name, std::move(made)).second) << name << " comes twice";
    };
    out.loss =
        sweep_gradients(graph, source_of(weights, graph), windows, std::filesystem::temp_directory_path(), request);
    return out;
}

double loss(const Graph& graph, const Weights& weights, const Windows& windows) {
    return sweep(graph, weights, windows, false, [](const std::string&) { return false; }).loss;
}

const Op* linear_of(const Graph& graph, const std::string& tensor) {
    const auto find = [&](const std::vector<Op>& ops) -> const Op* {
        for (const auto& op : ops)
            if (op.kind == OpKind::linear && op.weight == tensor) return &op;
        return nullptr;
    };
    for (const auto& block : graph.blocks)
        if (const Op* op = find(block.ops)) return op;
    return find(graph.prologue) ? find(graph.prologue) : find(graph.epilogue);
}

/// Where the file holds element i of a gradient.
std::size_t place_in_file(const Graph& graph, const TensorGradient& gradient, std::size_t i) {
    const Op* op = linear_of(graph, gradient.tensor);
    if (op == nullptr || !op->transposed) return i;
    const std::int64_t row = std::int64_t(i) / gradient.columns, column = std::int64_t(i) % gradient.columns;
    return std::size_t(column * gradient.rows + row);
}

class Gradient : public testing::TestWithParam<std::string> {};

TEST_P(Gradient, IsTheSlopeOfTheLossForEveryTensor) {
    const Graph graph = small::all().at(GetParam())();
    const Weights weights = weights_for(graph);
    const Windows windows = windows_for(graph);
    const Swept swept = sweep(graph, weights, windows);
    ASSERT_EQ(swept.gradients.size(), weights.size());
    EXPECT_NEAR(swept.loss, loss(graph, weights, windows), 1e-6 * swept.loss);
    std::mt19937 random(1);
    for (const auto& [name, gradient] : swept.gradients) {
        // Along the gradient itself on half of the elements, so that one in a wrong place shows.
        std::vector<double> direction(gradient.mean.size());
        double slope = 0;
        for (std::size_t i = 0; i < direction.size(); ++i) {
            direction[i] = random() % 2 == 0 ? double(gradient.mean[i]) : 0;
            slope += direction[i] * direction[i];
        }
        slope = std::sqrt(slope);
        if (slope < 1e-5) continue;
        // A central difference errs by the third derivative times step², and by the loss's rounding (2e-7) over step.
        constexpr double step = 4e-3;
        const auto moved = [&](double by) {
            Weights changed = weights;
            auto& values = changed.at(name);
            for (std::size_t i = 0; i < direction.size(); ++i) {
                float& value = values[place_in_file(graph, gradient, i)];
                value = float(double(value) + by * direction[i] / slope);
            }
            return loss(graph, changed, windows);
        };
        const double measured = (moved(step) - moved(-step)) / (2 * step);
        EXPECT_NEAR(measured, slope, 0.01 * slope + 5e-4) << name;
    }
}

TEST_P(Gradient, SquaresAreTheMeanOfSquaredGradientsOfSingleWindows) {
    const Graph graph = small::all().at(GetParam())();
    const Weights weights = weights_for(graph);
    const Windows windows = windows_for(graph);
    const Swept together = sweep(graph, weights, windows, true), plain = sweep(graph, weights, windows);
    std::map<std::string, std::vector<double>> squares;
    for (std::int64_t w = 0; w < windows.samples; ++w) {
        Windows one;
        one.samples = 1;
        one.length = windows.length;
        one.ids.assign(windows.window(w).begin(), windows.window(w).end());
        for (const auto& [name, gradient] : sweep(graph, weights, one).gradients) {
            auto& sum = squares[name];
            sum.resize(gradient.mean.size());
            for (std::size_t i = 0; i < sum.size(); ++i)
                sum[i] += double(gradient.mean[i]) * double(gradient.mean[i]) / double(windows.samples);
        }
    }
    ASSERT_EQ(together.gradients.size(), squares.size());
    for (const auto& [name, gradient] : together.gradients) {
        const auto& expected = squares.at(name);
        ASSERT_EQ(gradient.squares.size(), expected.size()) << name;
        const double largest = *std::max_element(expected.begin(), expected.end());
        for (std::size_t i = 0; i < expected.size(); ++i)
            ASSERT_NEAR(double(gradient.squares[i]), expected[i], 1e-5 * largest + 1e-15) << name << " at " << i;
        // 1e-8: gradients that cancel (a key's bias moves no softmax) are sums of roundings of larger terms.
        const auto& mean = plain.gradients.at(name).mean;
        double most = 0;
        for (const float value : mean) most = std::max(most, std::abs(double(value)));
        for (std::size_t i = 0; i < mean.size(); ++i)
            ASSERT_NEAR(double(gradient.mean[i]), double(mean[i]), 1e-5 * most + 1e-8) << name << " at " << i;
    }
}

INSTANTIATE_TEST_SUITE_P(OfEveryShape, Gradient, testing::ValuesIn([] {
                             std::vector<std::string> names;
                             for (const auto& [name, graph] : small::all()) names.push_back(name);
                             return names;
                         }()),
                         [](const auto& info) { return info.param; });

TEST(GradientSweep, HandsTensorsOutFromTheHeadToTheEmbedding) {
    const Graph graph = small::gqa();
    const auto order = sweep(graph, weights_for(graph), windows_for(graph)).order;
    const auto place = [&](const std::string& name) {
        return std::find(order.begin(), order.end(), name) - order.begin();
    };
    EXPECT_EQ(order.back(), "embed.weight");  // tied: the head is its first half
    EXPECT_LT(place("norm.weight"), place("layers.1.q.weight"));
    EXPECT_LT(place("layers.1.q.weight"), place("layers.0.q.weight"));
}

TEST(GradientSweep, GivesTheSameBytesAtAnyNumberOfThreads) {
    const Graph graph = small::experts();
    const Weights weights = weights_for(graph);
    const Windows windows = windows_for(graph, 7);
    set_threads(1);
    const auto one = sweep(graph, weights, windows, true).gradients;
    for (const int threads : {2, 5}) {
        set_threads(threads);
        for (const auto& [name, gradient] : sweep(graph, weights, windows, true).gradients) {
            EXPECT_EQ(gradient.mean, one.at(name).mean) << name;
            EXPECT_EQ(gradient.squares, one.at(name).squares) << name;
        }
    }
    set_threads(0);
}

TEST(GradientSweep, GivesWhatIsWantedAloneAndTheSameForIt) {
    const Graph graph = small::gqa();
    const Weights weights = weights_for(graph);
    const Windows windows = windows_for(graph);
    const auto all = sweep(graph, weights, windows);
    const auto some =
        sweep(graph, weights, windows, false, [](const std::string& name) { return name == "layers.1.k.weight"; });
    ASSERT_EQ(some.order, std::vector<std::string>{"layers.1.k.weight"});
    EXPECT_EQ(some.gradients.at("layers.1.k.weight").mean, all.gradients.at("layers.1.k.weight").mean);
}

TEST(GradientCost, CountsWhatASweepHolds) {
    const Graph graph = small::gqa();
    const auto cost = [&](const std::string& start, bool squares, std::int64_t threads) {
        SweepRequest request;
        request.wanted = [&](const std::string& name) { return name.starts_with(start); };
        request.squares = squares;
        return sweep_cost(graph, 8, 32, request, threads);
    };
    const SweepCost all = cost("", false, 1), top = cost("layers.1", false, 1);
    EXPECT_GT(cost("", false, 4).memory_bytes, all.memory_bytes);
    // Three states that enter pieces, the gradient on its way, and a tied table's rows.
    EXPECT_EQ(all.disk_bytes, std::uint64_t(8 * 32 * small::hidden * 4 * 5));
    EXPECT_LT(top.disk_bytes, all.disk_bytes);
    EXPECT_LT(top.flops, all.flops);  // the first block is not gone back through
    const double forward = cost_of(graph, 32).total.prefill_flops * 8 * 32;
    EXPECT_GT(all.flops, 3 * forward);
    EXPECT_LE(all.flops, 4 * forward);
}

TEST(GradientSweep, RefusesWhatHasNoGradient) {
    const Graph graph = small::gqa();
    Weights weights = weights_for(graph);
    EXPECT_THROW(sweep(graph, weights, windows_for(graph, 3, 1)), Error);
    EXPECT_THROW(sweep(graph, weights, windows_for(graph, 0, 9)), Error);
    weights.at("layers.0.mlp.up.weight")[3] = std::numeric_limits<float>::infinity();
    try {
        sweep(graph, weights, windows_for(graph));
        FAIL() << "an infinite weight has a finite loss";
    } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::numeric);
        EXPECT_NE(std::string(error.what()).find("layers.0"), std::string::npos) << error.what();
    }
}

}  // namespace
}  // namespace kerf::core
