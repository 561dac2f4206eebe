// SPDX-License-Identifier: Apache-2.0
// kerf/quantization.hpp: grids, their search, rounding.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/weights/tensor.hpp"
#include "kerf/quantization.hpp"

namespace kerf::test {
namespace {

std::vector<float> normal_run(std::size_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> out(count);
    for (auto& x : out) x = normal(random);
    return out;
}

float value_on(const GridOptions& options, const Grid<1>& grid, float w) {
    float code, value;
    quantise<1>(options, grid, &w, &code, &value);
    return value;
}

TEST(Grid, RoundsHalvesToEvenLikeTheProcessor) {
    for (float x = -300; x <= 300; x += 0.125f) EXPECT_EQ(detail::round_even<void>(x), std::nearbyint(x)) << x;
    EXPECT_GT(detail::round_even<void>(1e30f), 255.0f);
    EXPECT_LT(detail::round_even<void>(-1e30f), 0.0f);
}

TEST(Grid, HalfScalesAreTheNearestFloat16) {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> exponent(-24, 15.9f);
    for (int i = 0; i < 20000; ++i) {
        const float x = std::exp2(exponent(random));
        float expected = x;
        core::round_to(core::DType::f16, {&expected, 1});
        ASSERT_EQ(detail::rounded_to_half<void>(x), expected) << x;
    }
    EXPECT_EQ(detail::rounded_to_half<void>(1e-30f), 0x1p-24f) << "a scale is never 0";
    EXPECT_EQ(detail::rounded_to_half<void>(1e30f), 65504.0f) << "a scale is never infinite";
}

TEST(Grid, PowersAreAccurateToSingleRounding) {
    for (const float p : {0.5f, 1.0f, 2.4f, 3.7f})
        for (const float x : {-7.5f, -1.0f, 1e-6f, 0.03f, 0.71f, 0.999f, 1.001f, 4.0f, 900.0f}) {
            const double exact = std::pow(std::fabs(static_cast<double>(x)), static_cast<double>(p));
            // The exponent p·log2|x| is a float: its rounding error times ln 2 is relative error here.
            const double tolerance = 4e-7 * (1 + std::fabs(p * std::log2(std::fabs(x))));
            EXPECT_NEAR(detail::power<void>(x, p), exact, tolerance * exact) << x << "^" << p;
        }
    EXPECT_EQ(detail::power<void>(0.0f, 2.4f), 0.0f);
}

TEST(Grid, CoversTheWeightsAndHoldsZeroExactly) {
    const auto w = normal_run(1000, 2);
    for (const int bits : {2, 3, 4, 8})
        for (const bool symmetric : {false, true})
            for (const std::int64_t count : {1, 15, 16, 17, 1000}) {
                GridOptions options;
                options.bits = bits;
                options.symmetric = symmetric;
                const auto grid = fit_run(options, w.data(), count);
                EXPECT_EQ(value_on(options, grid, 0.0f), 0.0f);
                for (std::int64_t i = 0; i < count; ++i) {
                    // A symmetric grid has one code less above zero than below, an asymmetric one a rounded zero point.
                    const float most = symmetric && w[i] > 0 ? grid.scale[0] : 0.5f * grid.scale[0];
                    const float slack = symmetric ? 0.0f : 0.5f * grid.scale[0];
                    ASSERT_LE(std::fabs(value_on(options, grid, w[i]) - w[i]), (most + slack) * 1.00001f);
                }
            }
}

TEST(Grid, PanelsAndRunsAgreeWithoutSearch) {
    constexpr int lanes = 8;
    const std::int64_t columns = 50;
    const auto panel = normal_run(static_cast<std::size_t>(lanes * columns), 3);
    Grid<lanes> grid;
    const GridOptions options;
    fit_grid<lanes>(options, panel.data(), columns, nullptr, grid);
    for (int l = 0; l < lanes; ++l) {
        std::vector<float> row;
        for (std::int64_t c = 0; c < columns; ++c) row.push_back(panel[static_cast<std::size_t>(c * lanes + l)]);
        const auto alone = fit_run(options, row.data(), columns);
        EXPECT_EQ(grid.scale[l], alone.scale[0]);
        EXPECT_EQ(grid.zero[l], alone.zero[0]);
        std::vector<std::uint8_t> codes(row.size());
        quantise_run(options, alone, row.data(), columns, codes.data());
        for (std::int64_t c = 0; c < columns; ++c) {
            float code, value;
            quantise<1>(options, alone, &row[static_cast<std::size_t>(c)], &code, &value);
            ASSERT_EQ(static_cast<float>(codes[static_cast<std::size_t>(c)]), code);
        }
    }
}

TEST(Grid, SearchAndPolishingNeverRaiseTheError) {
    const auto w = normal_run(128, 5);
    std::vector<float> importance(w.size());
    for (std::size_t i = 0; i < w.size(); ++i) importance[i] = 0.1f + static_cast<float>(i % 9);
    for (const int bits : {2, 3, 4})
        for (const bool symmetric : {false, true})
            for (const float norm : {2.0f, 2.4f}) {
                GridOptions options;
                options.bits = bits;
                options.symmetric = symmetric;
                options.norm = norm;
                float last = std::numeric_limits<float>::infinity();
                for (const auto& [steps, rounds] : {std::pair{0, 0}, {80, 0}, {80, 1}, {80, 3}}) {
                    options.search_steps = steps;
                    options.polish_rounds = rounds;
                    Grid<1> grid;
                    fit_grid<1>(options, w.data(), 128, importance.data(), grid);
                    float error;
                    rounding_error<1>(options, grid, w.data(), 128, importance.data(), &error);
                    EXPECT_LE(error, last);
                    last = error;
                }
            }
}

TEST(Grid, OneSidedRowsKeepTheirRangeUnlessTheReferenceIsWanted) {
    const std::vector<float> w{0.1f, 0.7f, 1.5f};
    GridOptions options;
    options.symmetric = true;
    auto grid = fit_run(options, w.data(), 3);
    EXPECT_NEAR(value_on(options, grid, 1.5f), 1.5f, grid.scale[0]);
    options.one_sided = true;
    grid = fit_run(options, w.data(), 3);
    EXPECT_FLOAT_EQ(grid.scale[0], 1.5f / 15);
    EXPECT_FLOAT_EQ(value_on(options, grid, 1.5f), 0.7f) << "the reference clips such rows";
}

TEST(Grid, ZeroPointsOfOneStillReachTheLargestWeight) {
    const std::vector<float> w{0.0f, 0.7f, 1.5f};
    GridOptions options;
    options.least_zero = 1;
    const auto grid = fit_run(options, w.data(), 3);
    EXPECT_EQ(grid.zero[0], 1.0f);
    EXPECT_FLOAT_EQ(value_on(options, grid, 1.5f), 1.5f);
}

TEST(Grid, DegenerateWeightsGiveFiniteGrids) {
    for (const float w : {0.0f, 1e-45f, -1e-40f, 1e-20f, 3e38f, -3e38f})
        for (const bool symmetric : {false, true})
            for (const auto type : {ScaleType::float32, ScaleType::float16}) {
                GridOptions options;
                options.symmetric = symmetric;
                options.scale_type = type;
                options.least_zero = 1;
                options.search_steps = 8;
                options.search_grid = 10;
                const auto grid = fit_run(options, &w, 1);
                EXPECT_TRUE(std::isfinite(grid.scale[0]) && grid.scale[0] > 0) << w;
                EXPECT_TRUE(grid.zero[0] >= 0 && grid.zero[0] <= 15) << w;
            }
}

TEST(Grid, TernaryValuesAreTheExtremesAndZero) {
    const std::vector<float> w{-0.4f, -0.19f, 0.0f, 0.5f, 0.51f, 1.0f};
    GridOptions options;
    options.ternary = true;
    const auto grid = fit_run(options, w.data(), 6);
    std::vector<float> values;
    for (const float x : w) values.push_back(value_on(options, grid, x));
    EXPECT_EQ(values, (std::vector<float>{-0.4f, 0.0f, 0.0f, 0.0f, 1.0f, 1.0f}));
}

}  // namespace
}  // namespace kerf::test
