// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/curvature/gram.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "core/weights/tensor_file.hpp"

namespace kerf::core {
namespace {

using Order = std::vector<std::int64_t>;
constexpr double roundoff = 5.9604644775390625e-8;  // 2^-24

/// Gram of `tokens` random tokens whose features have sizes 1..3, columns `dead` zero.
std::vector<float> random_gram(std::int64_t n, std::int64_t tokens, unsigned seed, const Order& dead = {}) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(tokens * n));
    for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t j = 0; j < n; ++j)
            x[static_cast<std::size_t>(t * n + j)] =
                std::find(dead.begin(), dead.end(), j) != dead.end()
                    ? 0.0f
                    : normal(engine) * (1 + 2 * static_cast<float>(j) / static_cast<float>(n));
    GramAccumulator gram("x", n);
    gram.add(x.data(), tokens);
    return gram.finish();
}

std::vector<float> diagonal_gram(const std::vector<float>& diagonal) {
    std::vector<float> gram(diagonal.size() * diagonal.size());
    for (std::size_t i = 0; i < diagonal.size(); ++i) gram[i * diagonal.size() + i] = diagonal[i];
    return gram;
}

/// Largest entry of |U H Uᵀ - I|, H being the Gram in the factor's order with dead columns and damping put in, in
/// float64.
double worst_residual(const std::vector<float>& gram, std::int64_t n, const Curvature::Factor& factor) {
    double mean = 0;
    for (std::int64_t j = 0; j < n; ++j) {
        const auto h = static_cast<double>(gram[static_cast<std::size_t>(j * n + j)]);
        mean += (h == 0 ? 1 : h) / static_cast<double>(n);
    }
    std::vector<double> uh(gram.size());
    for (std::int64_t k = 0; k < n; ++k)
        for (std::int64_t j = 0; j < n; ++j) {
            const std::int64_t row = factor.order[static_cast<std::size_t>(k)],
                               column = factor.order[static_cast<std::size_t>(j)];
            auto h = static_cast<double>(gram[static_cast<std::size_t>(row * n + column)]);
            if (k == j) h = (h == 0 ? 1 : h) + factor.damp * mean;
            for (std::int64_t i = 0; i <= k; ++i)
                uh[static_cast<std::size_t>(i * n + j)] +=
                    static_cast<double>(factor.upper[static_cast<std::size_t>(i * n + k)]) * h;
        }
    double worst = 0;
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
            double sum = i == j ? -1 : 0;
            for (std::int64_t k = j; k < n; ++k)
                sum += uh[static_cast<std::size_t>(i * n + k)] *
                       static_cast<double>(factor.upper[static_cast<std::size_t>(j * n + k)]);
            worst = std::max(worst, std::fabs(sum));
        }
    return worst;
}

std::string message_of(const auto& action) {
    try {
        action();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

TEST(CurvatureFactor, InvertsTheDampedGramInEveryOrder) {
    const std::int64_t n = 150;
    const auto gram = random_gram(n, 1000, 1, {3, 77});
    Curvature curvature("x", n, 1000, gram);
    for (const std::int32_t order : {KERF_ORDER_NONE, KERF_ORDER_DESCENDING, KERF_ORDER_GROUP_AWARE}) {
        const auto& factor = curvature.factor(order, 32, 0.01);
        EXPECT_EQ(factor.attempts, 1);
        EXPECT_EQ(factor.damp, 0.01);
        auto sorted = factor.order;
        std::sort(sorted.begin(), sorted.end());
        for (std::int64_t j = 0; j < n; ++j) ASSERT_EQ(sorted[static_cast<std::size_t>(j)], j);
        // Condition number below 60 (sizes 1..9, Marchenko-Pastur factor 5): n · u · condition.
        EXPECT_LE(worst_residual(gram, n, factor), static_cast<double>(n) * roundoff * 60);
    }
}

TEST(CurvatureFactor, NumbersDeadColumnsInTheirOriginalOrder) {
    const std::int64_t n = 40;
    Curvature curvature("x", n, 500, random_gram(n, 500, 2, {0, 13, 39}));
    const auto& factor = curvature.factor(KERF_ORDER_DESCENDING, 0, 0.01);
    for (std::int64_t j = 0; j < n; ++j)
        EXPECT_EQ(factor.dead[static_cast<std::size_t>(j)], j == 0 || j == 13 || j == 39);
}

TEST(CurvatureFactor, SortsByDescendingDiagonalWithTheLowerIndexFirst) {
    // Column 2 is dead and counts as 1.
    Curvature curvature("x", 6, 1, diagonal_gram({0.5f, 4, 0, 4, 0.5f, 2}));
    EXPECT_EQ(curvature.factor(KERF_ORDER_NONE, 0, 0.01).order, (Order{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(curvature.factor(KERF_ORDER_DESCENDING, 0, 0.01).order, (Order{1, 3, 5, 2, 0, 4}));
}

TEST(CurvatureFactor, KeepsGroupsTogetherAndTheShortOneLast) {
    Curvature curvature("x", 8, 1, diagonal_gram({1, 2, 3, 7, 6, 5, 9, 10}));
    EXPECT_EQ(curvature.factor(KERF_ORDER_GROUP_AWARE, 3, 0.01).order, (Order{3, 4, 5, 2, 1, 0, 7, 6}));
    EXPECT_EQ(curvature.factor(KERF_ORDER_GROUP_AWARE, 4, 0.01).order, (Order{7, 6, 4, 5, 3, 2, 1, 0}));
    for (const std::int64_t whole : {-1, 0, 8, 100})
        EXPECT_EQ(curvature.factor(KERF_ORDER_GROUP_AWARE, whole, 0.01).order, (Order{7, 6, 3, 4, 5, 2, 1, 0}));
}

TEST(CurvatureFactor, GroupTiesKeepTheLowerIndexFirst) {
    Curvature curvature("x", 6, 1, diagonal_gram({2, 2, 2, 2, 2, 2}));
    EXPECT_EQ(curvature.factor(KERF_ORDER_GROUP_AWARE, 2, 0.01).order, (Order{0, 1, 2, 3, 4, 5}));
}

TEST(CurvatureFactor, IsMadeOncePerRequest) {
    Curvature curvature("x", 16, 100, random_gram(16, 100, 3));
    const auto* first = &curvature.factor(KERF_ORDER_NONE, 32, 0.01);
    EXPECT_EQ(&curvature.factor(KERF_ORDER_NONE, 64, 0.01), first) << "the group size has no meaning without groups";
    EXPECT_NE(&curvature.factor(KERF_ORDER_NONE, 32, 0.02), first);
    EXPECT_NE(&curvature.factor(KERF_ORDER_DESCENDING, 32, 0.01), first);
    const auto* grouped = &curvature.factor(KERF_ORDER_GROUP_AWARE, 8, 0.01);
    EXPECT_EQ(&curvature.factor(KERF_ORDER_NONE, 32, 0.01), first) << "four are kept";
    EXPECT_EQ(&curvature.factor(KERF_ORDER_GROUP_AWARE, 8, 0.01), grouped);
}

TEST(CurvatureFactor, DropsTheOneNotAskedForLongest) {
    Curvature curvature("x", 16, 100, random_gram(16, 100, 3));
    const auto* kept = &curvature.factor(KERF_ORDER_NONE, 0, 0.01);
    for (const double damp : {0.02, 0.03, 0.04}) curvature.factor(KERF_ORDER_NONE, 0, damp);
    EXPECT_EQ(&curvature.factor(KERF_ORDER_NONE, 0, 0.01), kept);
    const auto* second = &curvature.factor(KERF_ORDER_NONE, 0, 0.05);  // 0.02 goes
    EXPECT_EQ(&curvature.factor(KERF_ORDER_NONE, 0, 0.01), kept);
    EXPECT_EQ(&curvature.factor(KERF_ORDER_NONE, 0, 0.05), second);
    const auto again = curvature.factor(KERF_ORDER_NONE, 0, 0.02);
    EXPECT_EQ(again.damp, 0.02);
    curvature.forget_factors();
    EXPECT_EQ(curvature.factor(KERF_ORDER_NONE, 0, 0.02).upper, again.upper);
}

TEST(CurvatureFactor, RaisesDampingUntilTheMatrixIsPositive) {
    // Eigenvalues 2.3 and -0.3, mean diagonal 1: needs λ > 0.3.
    Curvature curvature("x", 2, 10, {1, 1.3f, 1.3f, 1});
    const auto& factor = curvature.factor(KERF_ORDER_NONE, 0, 0.01);
    EXPECT_EQ(factor.attempts, 4);  // 0.01, 0.0316, 0.1, 0.316
    EXPECT_NEAR(factor.damp, 0.01 * std::pow(10.0, 1.5), 1e-12);
    EXPECT_LE(worst_residual(curvature.gram(), 2, factor), 2 * roundoff * 2.6 / 0.016);
}

TEST(CurvatureFactor, RaisesFromNothingWhenNoDampingWasAskedFor) {
    Curvature curvature("x", 2, 10, {1, 1.0002f, 1.0002f, 1});  // needs λ > 2e-4
    const auto& factor = curvature.factor(KERF_ORDER_NONE, 0, 0.0);
    EXPECT_EQ(factor.attempts, 3);  // 0, 1e-4, 3.2e-4
    EXPECT_NEAR(factor.damp, 1e-4 * std::sqrt(10.0), 1e-12);
}

TEST(CurvatureFactor, TakesARankDeficientGramWithTheDampingAskedFor) {
    const std::int64_t n = 200;
    const auto gram = random_gram(n, 20, 4);
    Curvature curvature("x", n, 20, gram);
    const auto& factor = curvature.factor(KERF_ORDER_DESCENDING, 0, 0.01);
    EXPECT_EQ(factor.attempts, 1);
    // Condition number: trace over the smallest eigenvalue, 0.01 of the mean diagonal.
    EXPECT_LE(worst_residual(gram, n, factor), static_cast<double>(n) * roundoff * 200 / 0.01);
}

TEST(CurvatureFactor, OfAnIndefiniteMatrixNamesInputPivotDampingAndCure) {
    auto gram = diagonal_gram({1, 1, -2000, 1});
    Curvature curvature("layers.7.mlp.down", 4, 10, gram);
    const std::string message = message_of([&] { curvature.factor(KERF_ORDER_NONE, 0, 0.01); });
    EXPECT_NE(message.find("layers.7.mlp.down: Gram matrix not positive definite at pivot"), std::string::npos)
        << message;
    EXPECT_NE(message.find("of 4 (column 3, 10 calibration tokens)"), std::string::npos) << message;
    EXPECT_NE(message.find("8 times from 0.01"), std::string::npos) << message;
    EXPECT_NE(message.find("more calibration tokens or a larger damp"), std::string::npos) << message;
}

TEST(CurvatureFactor, OfNanIsAnErrorNotNan) {
    Curvature curvature("x", 2, 10, {1, 0, 0, std::numeric_limits<float>::quiet_NaN()});
    EXPECT_THROW(curvature.factor(KERF_ORDER_NONE, 0, 0.01), Error);
}

TEST(CurvatureFactor, RefusesRequestsThatMeanNothing) {
    Curvature curvature("x", 2, 10, {1, 0, 0, 1});
    EXPECT_THROW(curvature.factor(7, 0, 0.01), Error);
    EXPECT_THROW(curvature.factor(KERF_ORDER_NONE, 0, -0.01), Error);
    EXPECT_THROW(curvature.factor(KERF_ORDER_NONE, 0, std::numeric_limits<double>::quiet_NaN()), Error);
}

TEST(CurvatureFactor, IsTheSameOnAnyNumberOfThreads) {
    const std::int64_t n = 400;
    const auto gram = random_gram(n, 600, 5);
    std::vector<float> upper[3];
    double quadratic[3];
    const int counts[] = {1, 2, 8};
    for (int run = 0; run < 3; ++run) {
        set_threads(counts[run]);
        Curvature curvature("x", n, 600, gram);
        upper[run] = curvature.factor(KERF_ORDER_GROUP_AWARE, 64, 0.01).upper;
        quadratic[run] = curvature.quadratic(gram.data(), n);
    }
    set_threads(0);
    EXPECT_TRUE(upper[0] == upper[1] && upper[0] == upper[2]);
    EXPECT_TRUE(quadratic[0] == quadratic[1] && quadratic[0] == quadratic[2]);
}

TEST(CurvatureQuadratic, IsTheTraceOfDHDt) {
    std::mt19937 engine(6);
    std::normal_distribution<float> normal;
    for (const std::int64_t n : {1, 3, 255, 256, 257, 520})
        for (const std::int64_t rows : {1, 2, 129}) {
            const auto gram = random_gram(n, 50, 6);
            std::vector<float> d(static_cast<std::size_t>(rows * n));
            for (auto& value : d) value = normal(engine);
            double expected = 0, size = 0;
            for (std::int64_t r = 0; r < rows; ++r)
                for (std::int64_t i = 0; i < n; ++i)
                    for (std::int64_t j = 0; j < n; ++j) {
                        const double term = static_cast<double>(d[static_cast<std::size_t>(r * n + i)]) *
                                            static_cast<double>(gram[static_cast<std::size_t>(i * n + j)]) *
                                            static_cast<double>(d[static_cast<std::size_t>(r * n + j)]);
                        expected += term;
                        size += std::fabs(term);
                    }
            const Curvature curvature("x", n, 50, gram);
            EXPECT_NEAR(curvature.quadratic(d.data(), rows), expected,
                        static_cast<double>(rows * n) * std::numeric_limits<double>::epsilon() * size);
        }
}

TEST(CurvatureQuadratic, OfNoRowsIsZero) {
    const Curvature curvature("x", 2, 10, {1, 0, 0, 1});
    EXPECT_EQ(curvature.quadratic(nullptr, 0), 0);
}

TEST(CurvatureGolden, UIsTheReferencesFactor) {
    const auto file = open_safetensors(std::string(KERF_TEST_DATA) + "/golden/gptq-case.safetensors");
    const auto read = [&](const char* name) {
        const StoredTensor* tensor = file->find(name);
        std::vector<float> values(static_cast<std::size_t>(tensor->elements()));
        to_float32(*tensor, values);
        return values;
    };
    const std::int64_t n = 128;
    const auto h = read("H"), u = read("U");
    Curvature curvature("x", n, 512, h);
    const auto& factor = curvature.factor(KERF_ORDER_NONE, 0, 0.01);
    EXPECT_EQ(factor.attempts, 1);
    EXPECT_EQ(factor.dead[41], 1);

    double largest = 0, trace = 0;
    for (std::int64_t j = 0; j < n; ++j) trace += static_cast<double>(h[static_cast<std::size_t>(j * n + j)]);
    for (const float value : u) largest = std::max(largest, static_cast<double>(std::fabs(value)));
    // Condition number at most trace / λ = 128 / 0.01; both factors err by about n^(1/2) · u · condition.
    const double condition = static_cast<double>(n) / 0.01;
    ASSERT_GT(trace, 0);
    for (std::size_t i = 0; i < u.size(); ++i)
        ASSERT_NEAR(static_cast<double>(factor.upper[i]), static_cast<double>(u[i]),
                    std::sqrt(static_cast<double>(n)) * roundoff * condition * largest)
            << i;
    EXPECT_LE(worst_residual(h, n, factor), std::sqrt(static_cast<double>(n)) * roundoff * condition);
}

}  // namespace
}  // namespace kerf::core
