// SPDX-License-Identifier: Apache-2.0
// What must hold for GPTQ's column loop whatever the layer.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "reference.hpp"
#include "tests/golden/methods_case.hpp"

namespace kerf::test {
namespace {

using gptq::Options;
using gptq::Settings;

/// A layer whose inputs are correlated, of any size.
struct Layer {
    Owned<float> weight, gram;
    Layer(std::int64_t rows, std::int64_t columns, unsigned seed) : weight({rows, columns}), gram({columns, columns}) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        for (auto& w : weight.data) w = 0.05f * normal(random);
        const std::int64_t tokens = 2 * columns + 8;
        Owned<float> x({tokens, columns});
        for (std::int64_t t = 0; t < tokens; ++t) {
            const float shared = normal(random);
            for (std::int64_t c = 0; c < columns; ++c)
                x(t, c) = (0.3f + static_cast<float>(c % 7)) * (normal(random) + shared);
        }
        for (std::int64_t i = 0; i < columns; ++i)
            for (std::int64_t j = 0; j < columns; ++j) {
                double sum = 0;
                for (std::int64_t t = 0; t < tokens; ++t) sum += static_cast<double>(x(t, i)) * x(t, j);
                gram(i, j) = static_cast<float>(sum / static_cast<double>(tokens));
            }
    }
};

double share_equal(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
    std::size_t equal = 0;
    for (std::size_t i = 0; i < a.size(); ++i) equal += a[i] == b[i];
    return static_cast<double>(equal) / static_cast<double>(a.size());
}

Rounded loop(const Options& options, const Owned<float>& weight, const Owned<float>& gram) {
    return run_options(options, weight, gram);
}

Options whole_rows() {
    Options o;
    o.group_size = -1;
    return o;
}

Options grouped(std::int64_t size) {
    Options o;
    o.group_size = size;
    return o;
}

TEST(GptqSchedule, AppliesEveryUpdateOnceAndBeforeItIsNeeded) {
    for (const std::int64_t columns : {1, 5, 128, 129, 300})
        for (const std::int64_t group : {0, 1, 16, 48, 128, 200, 256})
            for (const std::int64_t block : {0, 1, 32, 48, 128}) {
                std::vector<std::int64_t> applied(static_cast<std::size_t>(columns), 0);
                std::int64_t rounded = 0, fitted = 0;
                const gptq::Schedule schedule(columns, group, block);
                for (const auto& phase : schedule.phases()) {
                    ASSERT_LE(phase.last - phase.first, gptq::piece_width);
                    for (std::int64_t c = phase.first; c < phase.last; ++c) {
                        ASSERT_EQ(applied[static_cast<std::size_t>(c)], phase.from);
                        ASSERT_LE(phase.to, rounded) << "an error is used before it is there";
                        applied[static_cast<std::size_t>(c)] = phase.to;
                    }
                    if (phase.fit_first < phase.fit_last) {
                        ASSERT_EQ(phase.fit_first, fitted);
                        fitted = (phase.fit_last + group - 1) / group * group;
                    }
                    if (!phase.round) continue;
                    ASSERT_EQ(phase.first, rounded);
                    ASSERT_EQ(phase.to, phase.first) << "a column is rounded without the updates of all before it";
                    ASSERT_TRUE(group == 0 || phase.last <= fitted) << "a column is rounded before its grid is there";
                    rounded = phase.last;
                }
                ASSERT_EQ(rounded, columns);
            }
}

TEST(GptqLoop, AgreesWithThePlainLoopForOddShapes) {
    for (const auto& [rows, columns, group] :
         {std::tuple{1, 1, 1}, {3, 17, 5}, {33, 130, 48}, {40, 200, 200}, {31, 64, 16}}) {
        const Layer layer(rows, columns, 7);
        for (const bool search : {false, true}) {
            Options o = grouped(group);
            o.order = "none";
            o.search = search ? "weighted" : "none";
            const auto settings = gptq::settings_of(o, columns);
            const auto factor = factor_of(layer.gram, Order::none, 0, 0.01);
            const gptq::Problem problem{layer.weight.view(), factor.upper.view(), {},
                                        factor.order,        factor.dead,         factor.lambda};
            double plain_loss = 0;
            const auto plain = gptq::plain_column_loop(settings, problem, plain_loss);
            for (const auto* kernel : gptq::kernels()) {
                const auto made = run_loop(*kernel, settings, layer.weight, layer.gram, factor);
                // Sums are fused or not: near ties may go to the other side, and what follows them in a row with them.
                EXPECT_GE(share_equal(made.codes.data, plain), 0.98) << kernel->name << " " << rows << "x" << columns;
                EXPECT_NEAR(made.figures.loss, plain_loss, 0.005 * plain_loss) << kernel->name;
            }
        }
    }
}

TEST(GptqLoop, InstructionSetsWithFusedOperationsGiveTheSameBytes) {
    const auto kernels = gptq::kernels();
    if (kernels.size() < 3) GTEST_SKIP() << "this processor has only one of AVX2 and AVX-512";
    const Layer layer(70, 300, 3);
    for (Options o : {whole_rows(), grouped(64), grouped(100)}) {
        o.refine = 1;
        const auto settings = gptq::settings_of(o, 300);
        const auto factor = factor_of(layer.gram, gptq::order_of(o, 300), settings.group_size, 0.01);
        const auto a = run_loop(*kernels[1], settings, layer.weight, layer.gram, factor);
        const auto b = run_loop(*kernels[2], settings, layer.weight, layer.gram, factor);
        EXPECT_EQ(a.codes.data, b.codes.data);
        EXPECT_EQ(a.scales.data, b.scales.data);
        EXPECT_EQ(a.zeros.data, b.zeros.data);
    }
}

TEST(GptqLoop, LossIsHalfTheTraceOfTheResidualInTheDampedGram) {
    const GoldenCase golden;
    const auto weight = golden.matrix("W"), gram = golden.matrix("H");
    for (Options o : {whole_rows(), grouped(32), grouped(48), grouped(100)})
        for (const char* order : {"none", "act", "group_aware"})
            for (const int refine : {0, 2}) {
                o.order = order;
                o.refine = refine;
                o.bits = 3;
                const auto made = loop(o, weight, gram);
                const auto factor = factor_of(gram, Order::none, 0, o.damp);
                Owned<float> residual(weight.shape);
                double squares = 0;
                for (std::size_t i = 0; i < residual.data.size(); ++i) {
                    const bool dead = factor.dead[i % static_cast<std::size_t>(weight.shape.columns)] != 0;
                    residual.data[i] = (dead ? 0.0f : weight.data[i]) - made.values.data[i];
                    squares += static_cast<double>(residual.data[i]) * residual.data[i];
                }
                const double output = quadratic(residual, gram), loss = 0.5 * (output + factor.lambda * squares);
                // Errors are sums over n columns, amplified at most by the root of the condition number, which is
                // below n (1 + damp) / damp.
                const double n = static_cast<double>(weight.shape.columns);
                const double tolerance =
                    std::numeric_limits<float>::epsilon() * std::sqrt(n) * std::sqrt(n * (1 + 1 / o.damp));
                EXPECT_NEAR(made.figures.loss, loss, tolerance * loss) << order << " refine " << refine;
                EXPECT_NEAR(made.figures.error, output / quadratic(weight, gram), 2 * tolerance * loss) << order;
            }
}

TEST(GptqLoop, UncorrelatedInputsGivePlainRounding) {
    Layer layer(20, 96, 5);
    for (std::int64_t i = 0; i < 96; ++i)
        for (std::int64_t j = 0; j < 96; ++j)
            if (i != j) layer.gram(i, j) = 0;
    for (const std::int64_t group : {32, 96}) {
        Options o = grouped(group);
        o.search = "none";
        const auto made = loop(o, layer.weight, layer.gram);
        const auto settings = gptq::settings_of(o, 96);
        for (std::int64_t r = 0; r < 20; ++r)
            for (std::int64_t first = 0; first < 96; first += group) {
                const float* w = &layer.weight(r, first);
                std::vector<std::uint8_t> codes(static_cast<std::size_t>(group));
                quantise_run(settings.grid, fit_run(settings.grid, w, group), w, group, codes.data());
                ASSERT_EQ(0, std::memcmp(codes.data(), &made.codes(r, first), codes.size())) << "row " << r;
            }
    }
}

TEST(GptqLoop, EndlessDampingGivesPlainRounding) {
    const Layer layer(32, 128, 9);
    Options o = whole_rows();
    o.search = "none";
    o.damp = 1e6;
    const auto made = loop(o, layer.weight, layer.gram);
    std::vector<std::uint8_t> plain(layer.weight.data.size());
    const auto settings = gptq::settings_of(o, 128);
    for (std::int64_t r = 0; r < 32; ++r) {
        const float* w = &layer.weight(r, 0);
        quantise_run(settings.grid, fit_run(settings.grid, w, 128), w, 128, plain.data() + r * 128);
    }
    EXPECT_GE(share_equal(made.codes.data, plain), 0.999);
}

TEST(GptqLoop, EightBitsLoseNextToNothing) {
    const GoldenCase golden;
    Options o = whole_rows();
    o.bits = 8;
    EXPECT_LT(loop(o, golden.matrix("W"), golden.matrix("H")).figures.error, 1e-5);
}

TEST(GptqLoop, BlockSizeChangesNothingButStaleGrids) {
    const Layer layer(24, 200, 11);
    for (const bool groups : {false, true}) {
        Options o = grouped(groups ? 32 : -1);
        o.compatibility = true;
        o.static_groups = groups;
        const auto expected = loop(o, layer.weight, layer.gram);
        for (const std::int64_t block : {1, 32, 48, 1000}) {
            o.block_size = block;
            EXPECT_EQ(loop(o, layer.weight, layer.gram).codes.data, expected.codes.data) << "block_size " << block;
        }
    }
    Options stale = grouped(32);
    stale.compatibility = true;
    const double loss = loop(stale, layer.weight, layer.gram).figures.loss;
    stale.block_size = 32;
    EXPECT_LT(loop(stale, layer.weight, layer.gram).figures.loss, loss);
}

TEST(GptqLoop, RowsDoNotDependOnTheirNeighboursOrOnTheOrderOfPanels) {
    const Layer layer(75, 160, 13);
    for (Options o : {whole_rows(), grouped(64)}) {
        o.refine = 1;
        const auto settings = gptq::settings_of(o, 160);
        const auto factor = factor_of(layer.gram, gptq::order_of(o, 160), settings.group_size, 0.01);
        const auto& kernel = *gptq::kernels().back();
        const auto whole = run_loop(kernel, settings, layer.weight, layer.gram, factor);
        const auto reversed = run_loop(kernel, settings, layer.weight, layer.gram, factor, true);
        EXPECT_EQ(whole.codes.data, reversed.codes.data);
        EXPECT_EQ(whole.scales.data, reversed.scales.data);
        EXPECT_EQ(whole.figures.loss, reversed.figures.loss);
        Owned<float> part({30, 160});
        std::copy_n(layer.weight.data.begin() + 41 * 160, part.data.size(), part.data.begin());
        const auto alone = run_loop(kernel, settings, part, layer.gram, factor);
        EXPECT_TRUE(std::equal(alone.codes.data.begin(), alone.codes.data.end(), whole.codes.data.begin() + 41 * 160));
    }
}

TEST(GptqLoop, DefaultsBeatTheReferenceAtEveryWidthAndGroup) {
    const GoldenCase golden;
    const auto weight = golden.matrix("W"), gram = golden.matrix("H");
    for (const int bits : {2, 3, 4, 5, 8})
        for (const std::int64_t group : {-1, 16, 32, 48, 64})
            for (const bool sym : {false, true}) {
                Options o = grouped(group);
                o.bits = bits;
                o.sym = sym;
                const double ours = loop(o, weight, gram).figures.error;
                o.compatibility = true;
                EXPECT_LE(ours, loop(o, weight, gram).figures.error)
                    << bits << " bits, groups of " << group << ", sym " << sym;
            }
}

TEST(GptqLoop, RefiningNeverRaisesTheLoss) {
    const GoldenCase golden;
    const auto weight = golden.matrix("W"), gram = golden.matrix("H");
    for (Options o : {whole_rows(), grouped(32), grouped(48), grouped(100)})
        for (const bool sym : {false, true}) {
            o.bits = 3;
            o.sym = sym;
            double loss = loop(o, weight, gram).figures.loss;
            for (const int sweeps : {1, 2, 4}) {
                o.refine = sweeps;
                const double refined = loop(o, weight, gram).figures.loss;
                // What a step gains may be lost to rounding once nothing is left to gain.
                EXPECT_LE(refined, loss * (1 + 128 * std::numeric_limits<float>::epsilon())) << sweeps << " sweeps";
                loss = refined;
            }
            o.refine = 0;
        }
}

TEST(GptqLoop, OrdersKeepStorageGroupsWhereTheySaySo) {
    const Layer layer(8, 100, 17);
    for (const char* order : {"none", "group_aware"}) {
        Options o = grouped(32);
        o.order = order;
        const auto index = loop(o, layer.weight, layer.gram).group_index;
        for (std::size_t c = 0; c < index.size(); ++c) EXPECT_EQ(index[c], static_cast<int>(c / 32)) << order;
    }
    Options act = grouped(32);
    act.act_order = true;
    std::vector<float> diagonal(100);
    for (std::int64_t c = 0; c < 100; ++c) diagonal[static_cast<std::size_t>(c)] = layer.gram(c, c);
    const auto order = argsort_descending(diagonal);
    const auto index = loop(act, layer.weight, layer.gram).group_index;
    for (std::size_t k = 0; k < order.size(); ++k)
        EXPECT_EQ(index[static_cast<std::size_t>(order[k])], static_cast<int>(k / 32));
    act.static_groups = true;
    const auto fixed = loop(act, layer.weight, layer.gram).group_index;
    for (std::size_t c = 0; c < fixed.size(); ++c) EXPECT_EQ(fixed[c], static_cast<int>(c / 32));
}

TEST(GptqLoop, OneGridForAllRowsCoversThemAll) {
    const Layer layer(40, 64, 19);
    for (const std::int64_t group : {-1, 16}) {
        Options o = grouped(group);
        o.per_channel = false;
        o.search = "none";
        o.scale_dtype = "float32";
        const auto made = loop(o, layer.weight, layer.gram);
        for (std::int64_t r = 1; r < 40; ++r)
            for (std::int64_t g = 0; g < made.scales.shape.columns; ++g) {
                ASSERT_EQ(made.scales(r, g), made.scales(0, g));
                ASSERT_EQ(made.zeros(r, g), made.zeros(0, g));
            }
        if (group == -1) {
            const auto [low, high] = std::minmax_element(layer.weight.data.begin(), layer.weight.data.end());
            EXPECT_FLOAT_EQ(made.scales(0, 0), (*high - *low) / 15);
        }
        o.search = "weighted";
        EXPECT_LE(loop(o, layer.weight, layer.gram).figures.error, made.figures.error);
    }
}

TEST(GptqLoop, ColumnsWithoutInfluenceBecomeZero) {
    Layer layer(10, 48, 23);
    for (std::int64_t i = 0; i < 48; ++i) layer.gram(i, 20) = layer.gram(20, i) = 0;
    for (std::int64_t r = 0; r < 10; ++r) layer.weight(r, 20) = 1e3f;
    for (const Options& o : {whole_rows(), grouped(16)}) {
        const auto made = loop(o, layer.weight, layer.gram);
        for (std::int64_t r = 0; r < 10; ++r) EXPECT_EQ(made.values(r, 20), 0.0f);
        EXPECT_LT(made.figures.error, 0.1) << "its size must not widen the grid of the others";
    }
}

TEST(GptqLoop, WeightsThatAreNotFiniteAreRefused) {
    Layer layer(40, 32, 29);
    layer.weight(33, 5) = std::numeric_limits<float>::quiet_NaN();
    try {
        loop(grouped(16), layer.weight, layer.gram);
        FAIL() << "a NaN went through";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), Code::numeric);
        EXPECT_NE(std::string(e.what()).find("column 5"), std::string::npos) << e.what();
    }
}

}  // namespace
}  // namespace kerf::test
