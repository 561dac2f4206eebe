// SPDX-License-Identifier: Apache-2.0
// slimgpt on one axis: golden/slimgpt-case (tensors of an oracle whose kernel was checked against a derivative of the
// original), its schedules and group sequences, and what must hold whatever the layer.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <set>
#include <tuple>

#include "core/plugin_api/axis.hpp"
#include "core/support/error.hpp"
#include "kerf/obs.hpp"
#include "methods_plugin.hpp"
#include "plugins/slimgpt/schedule.hpp"

namespace kerf::test {
namespace {

using nlohmann::json;

const json& figures() {
    static const json read = [] {
        std::ifstream in(KERF_TEST_DATA "/golden/slimgpt.json");
        return json::parse(in);
    }();
    return read;
}

const core::StoredTensor& golden_tensor(const std::string& name) {
    static const auto file = core::open_safetensors(KERF_TEST_DATA "/golden/slimgpt-case.safetensors");
    const auto* tensor = file->find(name);
    if (!tensor) throw std::runtime_error("no tensor " + name + " in the golden case");
    return *tensor;
}

std::vector<float> golden_values(const std::string& name) {
    const auto& tensor = golden_tensor(name);
    std::vector<float> out(static_cast<std::size_t>(tensor.elements()));
    core::to_float32(tensor, out);
    return out;
}

Owned<float> golden_matrix(const std::string& name) {
    const auto& shape = golden_tensor(name).shape;
    Owned<float> out({shape.at(0), shape.at(1)});
    out.data = golden_values(name);
    return out;
}

std::vector<std::int64_t> golden_indices(const std::string& name) {
    const auto& tensor = golden_tensor(name);
    std::vector<std::int64_t> out(static_cast<std::size_t>(tensor.elements()));
    std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
    return out;
}

/// An axis of equal runs of columns of one linear, in the plugin's hands.
struct Problem {
    Owned<float> weight;
    core::InputMoments moments;
    std::int64_t unit = 1, remove = 0, balanced = 1;
    bool biased = false;
};

struct Result {
    std::vector<std::int64_t> removed;
    std::vector<float> weight, bias_shift;
    std::map<std::string, double> metrics;
    std::vector<std::string> warnings;
};

/// The problem as an axis in the host's hands.
struct Hand {
    core::Curvature curvature;
    kerf_layer layer;
    core::Axis axis;
    std::vector<std::int32_t> unit_of;  ///< of each column
    std::unique_ptr<kerf_axis> handle;

    explicit Hand(const Problem& problem)
        : curvature("the input", problem.weight.shape.columns, 4096, problem.moments) {
        const std::int64_t columns = problem.weight.shape.columns, units = columns / problem.unit;
        layer.name = "layer";
        layer.out = problem.weight.shape.rows;
        layer.in = columns;
        layer.weight = problem.weight.data.data();
        layer.curvature = &curvature;
        layer.takes_bias_shift = problem.biased;
        axis.name = "axis";
        axis.kind = problem.unit > 1 ? core::AxisKind::heads : core::AxisKind::mlp;
        axis.size = units;
        axis.unit = problem.unit;
        axis.balanced = problem.balanced;
        axis.block = 0;
        unit_of.resize(static_cast<std::size_t>(columns));
        for (std::size_t c = 0; c < unit_of.size(); ++c)
            unit_of[c] = static_cast<std::int32_t>(static_cast<std::int64_t>(c) / problem.unit);
        axis.places.push_back(
            {"layer.weight", 1, core::Place::Role::input, "layer", columns, 0, core::Layout(unit_of, units)});
        core::AxisFacts facts;
        facts.in_features = columns;
        facts.out_features = problem.weight.shape.rows;
        facts.blocks = 1;
        facts.biased = problem.biased ? 1 : 0;
        handle = std::make_unique<kerf_axis>(
            axis, facts, problem.remove, [](const core::Place&) { return core::PlaceValues{}; },
            std::make_shared<core::PlaceValues>());
        handle->layers[0] = &layer;
    }
};

const Plugin& plugin() {
    static const Plugin loaded("slimgpt");
    return loaded;
}

Result prune(const Problem& problem, const json& options) {
    Hand hand(problem);
    const Instance method = plugin().make(options);
    kerf_job job;
    Result out;
    job.log = [&](int level, const std::string& message) {
        if (level >= KERF_LOG_WARN) out.warnings.push_back(message);
    };
    method.prune(&job, hand.handle.get());
    out.removed = hand.handle->removed.value();
    out.weight = hand.layer.replacement.value().weight;
    for (const auto unit : out.removed)  // as the host does
        for (std::size_t i = 0; i < out.weight.size(); ++i)
            if (hand.unit_of[i % hand.unit_of.size()] == unit) out.weight[i] = 0;
    out.bias_shift = hand.layer.replacement->bias_shift;
    out.metrics = job.metrics;
    return out;
}

Problem golden_problem(const std::string& name) {
    const json& figure = figures()["case"][name];
    Problem out;
    out.weight = golden_matrix(name + ".W");
    out.moments.gram = golden_matrix(name + ".H").data;
    out.unit = figure["unit"];
    out.remove = figure["removed_units"];
    return out;
}

std::vector<std::int64_t> units_without(const std::vector<std::int64_t>& kept, std::int64_t units) {
    std::vector<std::int64_t> out;
    for (std::int64_t u = 0; u < units; ++u)
        if (std::find(kept.begin(), kept.end(), u) == kept.end()) out.push_back(u);
    return out;
}

double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < b.size(); ++i) {
        difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
        size += std::pow(static_cast<double>(b[i]), 2);
    }
    return std::sqrt(difference / size);
}

/// tr(ΔW H ΔWᵀ) with the damped H and the weight after its dead columns are zeroed.
double damped_error(const Problem& problem, const std::vector<float>& made, double damp) {
    const std::int64_t n = problem.weight.shape.columns;
    Owned<float> h({n, n}), difference(problem.weight.shape);
    h.data = problem.moments.gram;
    double mean = 0;
    std::vector<bool> dead(static_cast<std::size_t>(n));
    for (std::int64_t j = 0; j < n; ++j) {
        dead[static_cast<std::size_t>(j)] = h(j, j) == 0;
        if (h(j, j) == 0) h(j, j) = 1;
        mean += static_cast<double>(h(j, j)) / static_cast<double>(n);
    }
    for (std::int64_t j = 0; j < n; ++j) h(j, j) += static_cast<float>(damp * mean);
    for (std::size_t i = 0; i < made.size(); ++i)
        difference.data[i] = made[i] - (dead[i % static_cast<std::size_t>(n)] ? 0 : problem.weight.data[i]);
    return quadratic(difference, h);
}

class SlimGptCase : public testing::TestWithParam<std::string> {};

TEST_P(SlimGptCase, RemovesTheOraclesUnitsAndLeavesItsWeights) {
    const std::string name = GetParam();
    const json& figure = figures()["case"][name];
    const Problem problem = golden_problem(name);
    const std::int64_t units = problem.weight.shape.columns / problem.unit;
    const double damp = figure["percdamp"];
    for (const char* kernel : {"exact", "reference"}) {
        const Result ours = prune(problem, {{"kernel", kernel}, {"damp", damp}});
        EXPECT_EQ(ours.removed, units_without(golden_indices(name + "." + kernel + ".kept"), units)) << kernel;
        EXPECT_LE(relative_distance(ours.weight, golden_values(name + "." + kernel + ".W")), 1e-4) << kernel;
        const double expected = figure[std::string("error_") + kernel];
        EXPECT_NEAR(damped_error(problem, ours.weight, damp), expected, 1e-4 * expected) << kernel;
    }
    const Result plain = prune(problem, {{"kernel", "reference"}, {"damp", damp}, {"compensate", false}});
    EXPECT_LE(relative_distance(plain.weight, golden_values(name + ".no_compensate.W")), 1e-4);
    const double expected = figure["error_no_compensate"];
    EXPECT_NEAR(damped_error(problem, plain.weight, damp), expected, 1e-4 * expected);
}

INSTANTIATE_TEST_SUITE_P(All, SlimGptCase, testing::Values("heads2", "ffn", "ffn_small", "dead"),
                         [](const auto& info) { return info.param; });

TEST(SlimGpt, GramOfTheGoldenInputsIsTheGoldenOne) {
    for (const std::string name : {"ffn_small", "dead"}) {
        const auto& shape = golden_tensor(name + ".X").shape;  // [windows, tokens, features]
        core::GramAccumulator sums(name, shape[2]);
        sums.add(golden_values(name + ".X").data(), shape[0] * shape[1]);
        auto ours = sums.finish();
        for (auto& value : ours) value *= 2 * static_cast<float>(shape[1]);  // the oracle's is (2 / windows) Σ x xᵀ
        EXPECT_LE(relative_distance(ours, golden_values(name + ".H")), 1e-6) << name;
    }
}

TEST(SlimGpt, GroupsAndSharesAreTheOraclesOnes) {
    for (const auto& [target, groups] : figures()["ffn_group_sequences"].items())
        EXPECT_EQ(slimgpt::dynamic_groups(std::stoll(target)), groups.get<std::vector<std::int64_t>>()) << target;
    for (const auto& schedule : figures()["schedules"]) {
        const slimgpt::Schedule ours{schedule["strategy"],     0,   schedule["min"], schedule["max"],
                                     schedule["base"] == "32", true};
        const auto values = schedule["values"].get<std::vector<double>>();
        const auto shares =
            slimgpt::ratios(ours, schedule["minlayer"], schedule["maxlayer"], static_cast<std::int64_t>(values.size()));
        for (std::size_t i = 0; i < values.size(); ++i)
            EXPECT_NEAR(shares[i], values[i], 1e-8) << schedule["strategy"] << " " << i;
    }
}

TEST(SlimGpt, CountsAreRoundedAsTheOraclesOnes) {
    for (const auto& entry : figures()["round_half_even_targets"]) {
        const std::int64_t unit = entry["unit"], units = entry["columns"].get<std::int64_t>() / unit;
        kerf_axis_shape shape{};
        shape.struct_size = sizeof(shape);
        shape.kind = unit > 1 ? KERF_AXIS_HEADS : KERF_AXIS_MLP;
        shape.size = units;
        shape.unit = unit;
        shape.balanced = shape.keep = shape.blocks = 1;
        shape.in_features = entry["columns"];
        shape.out_features = shape.unit_parameters = shape.linear_parameters = 1;
        shape.planned = -1;
        EXPECT_EQ(Plugin("slimgpt").make({{"sparsity", entry["sparsity"]}}).plan({shape}).at(0).remove * unit,
                  entry["target"].get<std::int64_t>())
            << entry;
    }
}

/// A square matrix of the SDK in counted memory.
Matrix<double> matrix_of(const std::vector<float>& values, Shape shape, const Job& job) {
    auto out = job.matrix<double>(shape);
    for (std::int64_t i = 0; i < shape.rows; ++i)
        for (std::int64_t j = 0; j < shape.columns; ++j)
            out(i, j) = values[static_cast<std::size_t>(i * shape.columns + j)];
    return out;
}

/// H + λI of Σ x xᵀ / count; nothing is dead.
obs::System system_of(const std::vector<float>& gram, std::int64_t n, const Job& job) {
    return {matrix_of(gram, {n, n}, job), std::vector<std::uint8_t>(static_cast<std::size_t>(n)), 0, 0, 1};
}

TEST(SlimGpt, BiasRefitOfAGivenSetIsTheOracles) {
    kerf_job raw;
    const Job job(core::host_table(), &raw);
    const auto weight = golden_matrix("bias.W");
    const std::int64_t rows = weight.shape.rows, n = weight.shape.columns;
    // The oracle's moments are (2 / N) Σ with N = 2 windows; the mean wants the number of tokens.
    const float count = figures()["case"]["bias"]["count"];
    auto h = golden_values("bias.H"), mean = golden_values("bias.mean");
    for (auto& value : h) value /= count;
    for (auto& value : mean) value /= count;
    auto system = system_of(h, n, job);
    obs::centre(system, mean);
    auto w = matrix_of(weight.data, weight.shape, job);
    const auto kept = units_without(golden_indices("bias.removed"), n);
    obs::refit(system, kept, w.view(), job);

    std::vector<float> made;
    for (std::int64_t r = 0; r < rows; ++r)
        for (const double value : w.row(r)) made.push_back(static_cast<float>(value));
    EXPECT_LE(relative_distance(made, golden_values("bias.W_out")), 1e-4);
    auto bias = golden_values("bias.b");
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < n; ++c)
            bias[static_cast<std::size_t>(r)] +=
                static_cast<float>((weight(r, c) - w(r, c)) * mean[static_cast<std::size_t>(c)]);
    EXPECT_LE(relative_distance(bias, golden_values("bias.b_out")), 1e-4);
}

/// Inputs with a large common part, few tokens more than features: columns depend on each other.
Problem correlated(std::int64_t rows, std::int64_t columns, std::int64_t unit, std::int64_t remove, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const std::int64_t tokens = 2 * columns;
    Owned<float> mixing({columns, columns}), x({tokens, columns});
    for (auto& value : mixing.data) value = normal(random);
    Problem out;
    out.unit = unit;
    out.remove = remove;
    out.weight = Owned<float>({rows, columns});
    for (auto& value : out.weight.data) value = normal(random);
    out.moments.gram.resize(static_cast<std::size_t>(columns * columns));
    out.moments.mean.resize(static_cast<std::size_t>(columns));
    for (std::int64_t t = 0; t < tokens; ++t) {
        std::vector<float> source(static_cast<std::size_t>(columns));
        for (auto& value : source) value = normal(random);
        for (std::int64_t j = 0; j < columns; ++j) {
            float value = 1 + source[static_cast<std::size_t>(j)];
            for (std::int64_t k = 0; k < columns; ++k)
                value += 0.5f * mixing(j, k) * source[static_cast<std::size_t>(k)];
            x(t, j) = value;
        }
    }
    const auto share = 1 / static_cast<float>(tokens);
    for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t i = 0; i < columns; ++i) {
            out.moments.mean[static_cast<std::size_t>(i)] += share * x(t, i);
            for (std::int64_t j = 0; j < columns; ++j)
                out.moments.gram[static_cast<std::size_t>(i * columns + j)] += share * x(t, i) * x(t, j);
        }
    return out;
}

double error_of(const Problem& problem, const json& options) {
    return damped_error(problem, prune(problem, options).weight, 0.01);
}

/// The error when these units go and the others are refitted.
double error_of_set(const Problem& problem, const std::vector<bool>& gone) {
    kerf_job raw;
    const Job job(core::host_table(), &raw);
    const std::int64_t n = problem.weight.shape.columns;
    auto h = problem.moments.gram;
    double mean = 0;
    for (std::int64_t j = 0; j < n; ++j) mean += h[static_cast<std::size_t>(j * n + j)] / static_cast<double>(n);
    for (std::int64_t j = 0; j < n; ++j) h[static_cast<std::size_t>(j * n + j)] += static_cast<float>(0.01 * mean);
    std::vector<std::int64_t> kept;
    for (std::int64_t c = 0; c < n; ++c)
        if (!gone[static_cast<std::size_t>(c / problem.unit)]) kept.push_back(c);
    auto w = matrix_of(problem.weight.data, problem.weight.shape, job);
    obs::refit(system_of(h, n, job), kept, w.view(), job);
    std::vector<float> made;
    for (std::int64_t r = 0; r < w.rows(); ++r)
        for (const double value : w.row(r)) made.push_back(static_cast<float>(value));
    return damped_error(problem, made, 0.01);
}

/// The least error of all sets of so many units.
double least_error(const Problem& problem) {
    std::vector<bool> gone(static_cast<std::size_t>(problem.weight.shape.columns / problem.unit), false);
    std::fill(gone.begin(), gone.begin() + problem.remove, true);
    double least = std::numeric_limits<double>::infinity();
    do least = std::min(least, error_of_set(problem, gone));
    while (std::prev_permutation(gone.begin(), gone.end()));
    return least;
}

/// The least error of all sets that differ from this one in one unit.
double least_error_beside(const Problem& problem, const std::vector<std::int64_t>& removed) {
    std::vector<bool> gone(static_cast<std::size_t>(problem.weight.shape.columns / problem.unit), false);
    for (const auto u : removed) gone[static_cast<std::size_t>(u)] = true;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t back = 0; back < gone.size(); ++back)
        for (std::size_t out = 0; out < gone.size(); ++out) {
            if (!gone[back] || gone[out]) continue;
            auto other = gone;
            other[back] = false;
            other[out] = true;
            least = std::min(least, error_of_set(problem, other));
        }
    return least;
}

TEST(SlimGpt, NoSingleExchangeImprovesWhatSwapsLeave) {
    for (const auto& [columns, unit, remove] : {std::tuple{12, 1, 5}, std::tuple{32, 4, 3}}) {
        double greedy_excess = 0, swapped_excess = 0;
        for (unsigned seed = 0; seed < 12; ++seed) {
            const Problem problem = correlated(6, columns, unit, remove, seed);
            const Result made = prune(problem, {{"kernel", "exact"}, {"swaps", 50}});
            const double best = least_error(problem), greedy = error_of(problem, {{"kernel", "exact"}}),
                         swapped = damped_error(problem, made.weight, 0.01);
            EXPECT_LE(swapped, greedy * (1 + 1e-6)) << seed;
            EXPECT_GE(swapped, best * (1 - 1e-4)) << seed;
            EXPECT_LE(swapped, least_error_beside(problem, made.removed) * (1 + 1e-4)) << seed;
            greedy_excess += greedy / best - 1;
            swapped_excess += swapped / best - 1;
        }
        EXPECT_LT(swapped_excess, greedy_excess) << columns << " columns: no swap was made";
    }
}

TEST(SlimGpt, SwapsStayInsideBalancedRuns) {
    Problem problem = correlated(6, 32, 4, 4, 3);
    problem.balanced = 2;
    const Result ours = prune(problem, {{"swaps", 20}});
    EXPECT_EQ(std::count_if(ours.removed.begin(), ours.removed.end(), [](auto u) { return u < 4; }), 2);
}

TEST(SlimGpt, SwapsImproveTheReferencesChoiceToo) {
    const Problem problem = golden_problem("heads2");
    EXPECT_LT(error_of(problem, {{"kernel", "reference"}, {"swaps", 20}}),
              0.99 * error_of(problem, {{"kernel", "reference"}}));
}

/// E‖(W⁰ − W) x − δ‖², the undamped error with the bias.
double error_with_bias(const Problem& problem, const Result& made) {
    const std::int64_t n = problem.weight.shape.columns;
    Owned<float> h({n, n}), difference(problem.weight.shape);
    h.data = problem.moments.gram;
    for (std::size_t i = 0; i < made.weight.size(); ++i) difference.data[i] = problem.weight.data[i] - made.weight[i];
    double sum = quadratic(difference, h);
    for (std::size_t r = 0; r < made.bias_shift.size(); ++r) {
        double mean = 0;
        for (std::int64_t c = 0; c < n; ++c)
            mean += static_cast<double>(difference(static_cast<std::int64_t>(r), c)) *
                    problem.moments.mean[static_cast<std::size_t>(c)];
        sum += made.bias_shift[r] * (static_cast<double>(made.bias_shift[r]) - 2 * mean);
    }
    return sum;
}

TEST(SlimGpt, BiasTakesUpWhatTheMeansOfRemovedChannelsLeave) {
    Problem problem = correlated(6, 24, 1, 10, 5);
    problem.biased = true;
    const Result with = prune(problem, {{"bias_refit", true}, {"damp", 0.0}}),
                 without = prune(problem, {{"damp", 0.0}});
    EXPECT_EQ(with.removed, without.removed);
    EXPECT_EQ(with.bias_shift.size(), 6u);
    EXPECT_TRUE(without.bias_shift.empty());
    EXPECT_LT(error_with_bias(problem, with), 0.99 * error_with_bias(problem, without));
}

TEST(SlimGpt, DenseTargetOfTheSameInputsIsTheCurrentOne) {
    Problem problem = golden_problem("ffn_small");
    problem.moments.dense_gram = problem.moments.gram;
    const json dense{{"target", "dense"}, {"damp", 0.01}};
    EXPECT_LE(relative_distance(prune(problem, dense).weight, prune(problem, {{"damp", 0.01}}).weight), 1e-6);
}

TEST(SlimGpt, DenseTargetMakesUpForInputsThatWereScaled) {
    // Inputs twice as large as the dense model's: C = H / 2, so that half the weight gives the dense outputs.
    Problem problem = golden_problem("ffn_small");
    problem.moments.dense_gram = problem.moments.gram;
    for (auto& value : problem.moments.dense_gram) value /= 2;
    auto half = prune(problem, {{"damp", 0.0}}).weight;
    for (auto& value : half) value /= 2;
    EXPECT_LE(relative_distance(prune(problem, {{"target", "dense"}, {"damp", 0.0}}).weight, half), 1e-5);
}

TEST(SlimGpt, RefusesASingularGramMatrixWhenStrictAndMendsItElse) {
    Problem problem = correlated(4, 16, 1, 4, 2);
    for (std::int64_t j = 0; j < 16; ++j) {  // column 1 is column 0 again
        problem.moments.gram[static_cast<std::size_t>(16 + j)] = problem.moments.gram[static_cast<std::size_t>(j)];
        problem.moments.gram[static_cast<std::size_t>(16 * j + 1)] =
            problem.moments.gram[static_cast<std::size_t>(16 * j)];
    }
    problem.moments.gram[17] = problem.moments.gram[0] * (1 - 1e-6f);  // and shorter: an eigenvalue is negative
    const Result mended = prune(problem, {{"damp", 0.0}});
    ASSERT_EQ(mended.warnings.size(), 1u);
    EXPECT_NE(mended.warnings[0].find("not positive definite with damp = 0"), std::string::npos) << mended.warnings[0];
    for (const float value : mended.weight) EXPECT_TRUE(std::isfinite(value));
    try {
        prune(problem, {{"damp", 0.0}, {"strict", true}});
        ADD_FAILURE() << "threw nothing";
    } catch (const core::Error& error) {
        EXPECT_NE(std::string(error.what()).find("Gram matrix not positive definite at pivot"), std::string::npos);
        EXPECT_NE(std::string(error.what()).find("of 16 (4096 calibration tokens) with damp = 0"), std::string::npos)
            << error.what();
    }
}

TEST(SlimGpt, BudgetIsMetAsCloselyAsWholeUnitsAllow) {
    std::vector<kerf_axis_shape> axes;
    for (std::int64_t block = 0; block < 8; ++block)
        for (const bool mlp : {false, true}) {
            kerf_axis_shape shape{};
            shape.struct_size = sizeof(shape);
            shape.kind = mlp ? KERF_AXIS_MLP : KERF_AXIS_HEADS;
            shape.size = mlp ? 300 : 8;
            shape.unit = mlp ? 1 : 16;
            shape.balanced = shape.keep = 1;
            shape.block = block;
            shape.blocks = 8;
            shape.in_features = shape.size * shape.unit;
            shape.out_features = 128;
            shape.unit_parameters = mlp ? 3 * 128 : 4 * 16 * 128;
            shape.linear_parameters = 8 * (300 * 3 * 128 + 8 * 4 * 16 * 128);
            shape.planned = -1;
            axes.push_back(shape);
        }
    for (const std::string schedule : {"uniform", "log_increase", "linear_decrease"})
        for (const double budget : {0.05, 0.2, 0.5}) {
            const auto plans = Plugin("slimgpt").make({{"schedule", schedule}, {"budget", budget}}).plan(axes);
            double removed = 0;
            for (std::size_t i = 0; i < axes.size(); ++i)
                removed += static_cast<double>(plans[i].remove * axes[i].unit_parameters);
            removed /= static_cast<double>(axes[0].linear_parameters);
            // Half of what one step can jump: all attentions may lose a head at once under a uniform share.
            const double step = (schedule == "uniform" ? 8.0 : 2.0) * (4 * 16 * 128 + 3 * 128) /
                                static_cast<double>(axes[0].linear_parameters);
            EXPECT_NEAR(removed, budget, step / 2) << schedule;
        }
    EXPECT_THROW(Plugin("slimgpt").make({{"budget", 0.999}, {"modules", "attn"}}).plan(axes), core::Error);
}

/// What the plugin's survey says; with the scratch that it took.
struct Surveyed {
    std::vector<std::int64_t> units;
    std::vector<double> costs;
    std::uint64_t peak_bytes = 0;
};
Surveyed survey(const Problem& problem, json options) {
    Hand hand(problem);
    options["schedule"] = "error";
    options["budget"] = 0.5;
    kerf_job job;
    auto [units, costs] = plugin().make(options).survey(&job, hand.handle.get());
    EXPECT_FALSE(hand.handle->removed.has_value());
    EXPECT_FALSE(hand.layer.replacement.has_value());
    EXPECT_EQ(job.memory.live(), 0u);
    return {std::move(units), std::move(costs), job.memory.peak()};
}

TEST(SlimGpt, SurveySaysWhatPruningSoManyUnitsWillCost) {
    for (const auto& [columns, unit, balanced] : {std::tuple{24, 1, 1}, std::tuple{32, 4, 1}, std::tuple{32, 4, 2}}) {
        Problem problem = correlated(6, columns, unit, 0, 7);
        problem.balanced = balanced;
        const Surveyed curve = survey(problem, json::object());
        const double whole =
            damped_error(problem, std::vector<float>(problem.weight.data.size()), 0.01);  // of an output that is gone
        ASSERT_EQ(curve.units.size(), static_cast<std::size_t>(columns / unit / balanced));
        for (std::size_t i = 0; i < curve.units.size(); ++i) {
            EXPECT_EQ(curve.units[i], static_cast<std::int64_t>(i) * balanced);
            problem.remove = curve.units[i];
            EXPECT_NEAR(curve.costs[i] * whole, error_of(problem, json::object()), 1e-5 * whole) << problem.remove;
        }
    }
}

TEST(SlimGpt, SurveyOffersTheCountsThatOptionsAllowAndCountsByWeight) {
    const Problem problem = correlated(6, 24, 1, 0, 7);
    EXPECT_EQ(survey(problem, {{"align", 10}}).units, (std::vector<std::int64_t>{0, 4, 14}));
    const auto plain = survey(problem, json::object()).costs, heavy = survey(problem, {{"weight", 4}}).costs;
    for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_DOUBLE_EQ(heavy[i], 4 * plain[i]);
    EXPECT_EQ(survey(problem, {{"kernel", "reference"}, {"swaps", 5}, {"ffn_group", 4}}).costs, plain)
        << "the exact kernel's, whichever prunes";
}

TEST(SlimGpt, SurveyTakesNoMoreScratchThanItsPlanSays) {
    for (const auto& [columns, unit] : {std::pair{96, 1}, std::pair{96, 12}}) {
        const Problem problem = correlated(64, columns, unit, 0, 3);
        Hand hand(problem);
        core::AxisFacts facts = hand.handle->facts;
        facts.unit_parameters = 64;
        facts.linear_parameters = 64 * columns / unit;
        const auto plan = plugin()
                              .make({{"schedule", "error"}, {"budget", 0.5}})
                              .plan({core::axis_shape(hand.axis, facts, -1)})
                              .at(0);
        EXPECT_EQ(plan.survey, 1);
        EXPECT_EQ(plan.exact, 0);
        EXPECT_LE(survey(problem, json::object()).peak_bytes, plan.survey_bytes);
    }
}

TEST(SlimGpt, RefusesASurveyThatHasNothingToSpendOrMeansNothing) {
    const auto refused = [](const json& options, const std::string& words) {
        try {
            plugin().make(options);
            ADD_FAILURE() << options;
        } catch (const core::Error& error) {
            EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
        }
    };
    refused({{"schedule", "error"}}, "as in budget = 0.2");
    refused({{"schedule", "error"}, {"budget", 0.2}, {"compensate", false}}, "compensate = false");
}

}  // namespace
}  // namespace kerf::test
