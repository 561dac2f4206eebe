// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/curvature/moments.hpp"
#include "kerf/abi.h"
#include "tests/unit/test_files.hpp"

namespace kerf::core {
namespace {

constexpr std::int64_t features = 70;  // more than one thread's share of columns, and no multiple of it

std::vector<float> random_rows(std::int64_t tokens, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.3f, 1);
    std::vector<float> out(std::size_t(tokens * features));
    for (auto& value : out) value = normal(random);
    return out;
}

TEST(Moments, AreTheMeansOverTheTokens) {
    const std::int64_t tokens = 1100;
    const auto x = random_rows(tokens, 1), d = random_rows(tokens, 2);
    MomentAccumulator sums("input", features, KERF_NEEDS_INPUT_GRAM | KERF_NEEDS_INPUT_MEAN | KERF_NEEDS_DENSE_GRAM);
    sums.add(x.data(), d.data(), 700);
    sums.add(x.data() + 700 * features, d.data() + 700 * features, 400);
    const Curvature made("input", features, tokens, sums.finish());
    const auto at = [&](const std::vector<float>& rows, std::int64_t t, std::int64_t j) {
        return double(rows[std::size_t(t * features + j)]);
    };
    for (std::int64_t i = 0; i < features; i += 23) {
        double mean = 0;
        for (std::int64_t t = 0; t < tokens; ++t) mean += at(x, t, i) / double(tokens);
        EXPECT_NEAR(made.mean()[std::size_t(i)], mean, 1e-6);
        EXPECT_EQ(made.diagonal()[std::size_t(i)], made.gram()[std::size_t(i * features + i)]);
        for (std::int64_t j = 0; j < features; j += 7) {
            double gram = 0, dense = 0;
            for (std::int64_t t = 0; t < tokens; ++t) {
                gram += at(x, t, i) * at(x, t, j) / double(tokens);
                dense += at(d, t, i) * at(x, t, j) / double(tokens);
            }
            EXPECT_NEAR(made.gram()[std::size_t(i * features + j)], gram, 1e-5);
            EXPECT_NEAR(made.dense_gram()[std::size_t(i * features + j)], dense, 1e-6);
        }
    }
}

TEST(Moments, TheDiagonalAloneIsThatOfTheGramMatrixWhateverTheBatches) {
    const std::int64_t tokens = 300;
    const auto x = random_rows(tokens, 3);
    MomentAccumulator gram("input", features, KERF_NEEDS_INPUT_GRAM),
        whole("input", features, KERF_NEEDS_INPUT_DIAGONAL), pieces("input", features, KERF_NEEDS_INPUT_DIAGONAL);
    gram.add(x.data(), nullptr, tokens);
    whole.add(x.data(), nullptr, tokens);
    for (std::int64_t t = 0; t < tokens; t += 100) pieces.add(x.data() + t * features, nullptr, 100);
    const auto full = gram.finish(), one = whole.finish(), many = pieces.finish();
    EXPECT_TRUE(one.gram.empty());
    EXPECT_EQ(one.diagonal, many.diagonal);
    for (std::int64_t j = 0; j < features; ++j)
        EXPECT_NEAR(one.diagonal[std::size_t(j)], full.gram[std::size_t(j * features + j)], 1e-5);
    EXPECT_LT(50 * MomentAccumulator::memory(features, KERF_NEEDS_INPUT_DIAGONAL),
              MomentAccumulator::memory(features, KERF_NEEDS_INPUT_GRAM));
}

TEST(Moments, ErrorsUseTheDiagonalWhereItIsAllThereIs) {
    InputMoments moments;
    moments.diagonal = {1, 2, 3};
    const Curvature made("input", 3, 10, std::move(moments));
    const std::vector<float> difference{1, 1, 1, 2, 0, -1};
    EXPECT_DOUBLE_EQ(made.quadratic(difference.data(), 2), 6 + 4 + 3);
}

TEST(Moments, NameTheTokenWhoseActivationIsNotFinite) {
    auto x = random_rows(40, 4);
    x[std::size_t(25 * features + 9)] = std::numeric_limits<float>::quiet_NaN();
    MomentAccumulator sums("the input", features, KERF_NEEDS_INPUT_DIAGONAL);
    sums.add(x.data(), nullptr, 20);
    const auto says = test::message_of([&] { sums.add(x.data() + 20 * features, nullptr, 20); }, Fault::numeric);
    EXPECT_NE(says.find("the input: the activation of calibration token 25, feature 9 is nan"), std::string::npos)
        << says;
}

TEST(Moments, OfNoTokensAreAnError) {
    MomentAccumulator sums("the input", features, KERF_NEEDS_INPUT_DIAGONAL);
    EXPECT_NE(test::message_of([&] { sums.finish(); }).find("no calibration token reached this input"),
              std::string::npos);
}

}  // namespace
}  // namespace kerf::core
