// SPDX-License-Identifier: Apache-2.0
// The plugins gptq, rtn and magnitude as they are built, in the core's own host table.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/support/parallel.hpp"
#include "tests/golden/methods_plugin.hpp"

namespace kerf::test {
namespace {

using nlohmann::json;

std::string refusal(const std::string& method, const json& options, Shape shape = {4, 16}) {
    try {
        const auto gram = chained_gram(shape.columns);
        Plugin(method).make(options).compress(normal_weight(shape, 1), method == "gptq" ? &gram : nullptr);
    } catch (const core::Error& e) {
        return e.what();
    }
    return "";
}

const json gptq_options[] = {
    json::object(),
    {{"group_size", -1}},
    {{"group_size", 16}, {"refine", 2}},
    {{"group_size", 48}, {"act_order", true}, {"bits", 3}},
    {{"group_size", 32}, {"static_groups", true}, {"sym", true}},
    {{"group_size", 32}, {"compatibility", true}, {"bits", 2}},
    {{"trits", true}, {"group_size", 64}},
    {{"per_channel", false}, {"group_size", 32}},
};

TEST(Plugins, CostIsExactInScratchAndBits) {
    for (const Shape shape : {Shape{1, 1}, Shape{33, 130}, Shape{64, 576}}) {
        const auto weight = normal_weight(shape, 2), gram = chained_gram(shape.columns);
        const auto expect_exact = [&](const std::string& method, const json& options) {
            const auto instance = Plugin(method).make(options);
            const auto cost = instance.cost(shape);
            const auto made = instance.compress(weight, method == "gptq" ? &gram : nullptr);
            EXPECT_EQ(made.peak_bytes, cost.scratch_bytes) << method << " " << options << " " << shape.columns;
            EXPECT_EQ(made.replacement.bits, cost.bits) << method << " " << options;
            const bool dense = made.replacement.dense();
            EXPECT_EQ(std::string(cost.layout.data, cost.layout.size), dense ? "dense/1" : "int-group/1");
            if (dense) return;
            const std::int64_t group = cost.group_size > 0 ? cost.group_size : shape.columns;
            EXPECT_EQ(made.replacement.groups, (shape.columns + group - 1) / group) << method << " " << options;
        };
        for (const auto& options : gptq_options) expect_exact("gptq", options);
        for (const json& options : {json::object(), json{{"group_size", -1}, {"mse", true}}, json{{"trits", true}}})
            expect_exact("rtn", options);
        for (const json& options : {json::object(), json{{"scope", "row"}}}) expect_exact("magnitude", options);
    }
}

TEST(Plugins, ThreadsDoNotChangeABit) {
    const Shape shape{200, 300};
    const auto weight = normal_weight(shape, 3), gram = chained_gram(shape.columns);
    for (const auto& options : gptq_options) {
        core::set_threads(1);
        const auto one = Plugin("gptq").make(options).compress(weight, &gram);
        core::set_threads(8);
        const auto eight = Plugin("gptq").make(options).compress(weight, &gram);
        EXPECT_EQ(one.dense, eight.dense) << options;
        EXPECT_EQ(one.replacement.scales, eight.replacement.scales) << options;
        EXPECT_EQ(one.metrics, eight.metrics) << options;
    }
}

TEST(Plugins, ScalesAreFloat16AndZerosPackableByDefault) {
    auto weight = normal_weight({40, 128}, 4);
    for (std::int64_t c = 0; c < 128; ++c) weight(7, c) = std::fabs(weight(7, c));  // no negative entry: zero point 0
    const auto gram = chained_gram(128);
    for (const char* method : {"gptq", "rtn"}) {
        const auto made = Plugin(method).make({{"group_size", 32}}).compress(weight, &gram);
        auto rounded = made.replacement.scales;
        core::round_to(core::DType::f16, rounded);
        EXPECT_EQ(rounded, made.replacement.scales) << method;
        for (const float zero : made.replacement.zeros) EXPECT_TRUE(zero >= 1 && zero <= 15) << method;
        EXPECT_LT(*std::max_element(made.replacement.scales.begin(), made.replacement.scales.end()), 0.02f);
    }
}

TEST(Plugins, OptionsOutOfRangeAreRefusedByName) {
    for (const char* method : {"gptq", "rtn"}) {
        for (const json& options : {json{{"bits", 1}}, json{{"bits", 9}}, json{{"bits", "four"}}})
            EXPECT_NE(refusal(method, options).find("bits"), std::string::npos) << options;
        for (const json& options : {json{{"group_size", 0}}, json{{"group_size", -2}}})
            EXPECT_NE(refusal(method, options).find("group_size"), std::string::npos) << options;
        EXPECT_NE(refusal(method, {{"colour", 3}}).find("colour"), std::string::npos);
        EXPECT_NE(refusal(method, {{"mse", true}, {"grid", 1}, {"maxshrink", 0.5}}).find("maxshrink"),
                  std::string::npos);
        EXPECT_NE(refusal(method, {{"trits", true}, {"mse", true}}).find("trits"), std::string::npos);
    }
    for (const json& options : {json{{"damp", 0}}, json{{"damp", -1.0}}, json{{"damp", 1e300}}})
        EXPECT_NE(refusal("gptq", options).find("damp"), std::string::npos) << options;
    EXPECT_NE(refusal("gptq", {{"order", "random"}}).find("order"), std::string::npos);
    EXPECT_NE(refusal("gptq", {{"act_order", true}, {"order", "none"}}).find("contradict"), std::string::npos);
    EXPECT_NE(refusal("gptq", {{"mse", true}, {"search", "none"}}).find("contradict"), std::string::npos);
    EXPECT_NE(refusal("gptq", {{"compatibility", true}, {"refine", 1}}).find("compatibility"), std::string::npos);
    EXPECT_NE(refusal("gptq", {{"block_size", 0}}).find("block_size"), std::string::npos);
}

TEST(Plugins, WeightsThatAreNotFiniteAreRefused) {
    const auto gram = chained_gram(16);
    for (const char* method : {"gptq", "rtn", "magnitude"})
        for (const float bad : {NAN, INFINITY, -INFINITY}) {
            auto weight = normal_weight({4, 16}, 5);
            weight(2, 3) = bad;
            EXPECT_THROW(Plugin(method).make(json::object()).compress(weight, &gram), core::Error)
                << method << " " << bad;
        }
}

TEST(Rtn, TernaryLayersAreDense) {
    const auto weight = normal_weight({5, 40}, 6);
    const auto made = Plugin("rtn").make({{"trits", true}, {"group_size", 16}}).compress(weight, nullptr);
    ASSERT_TRUE(made.replacement.dense());
    for (std::int64_t r = 0; r < 5; ++r)
        for (std::int64_t first = 0; first < 40; first += 16) {
            const auto* w = &weight(r, first);
            const auto [low, high] = std::minmax_element(w, w + std::min<std::int64_t>(16, 40 - first));
            for (std::int64_t c = first; c < std::min<std::int64_t>(40, first + 16); ++c) {
                const float value = made.dense[static_cast<std::size_t>(r * 40 + c)];
                EXPECT_TRUE(value == 0 || value == *low || value == *high);
            }
        }
}

std::int64_t zeros_in(const float* values, std::int64_t count) {
    return std::count(values, values + count, 0.0f);
}

TEST(Magnitude, LayersLoseExactlyTheirShareAndOnlyTheSmallest) {
    const Shape shape{37, 53};
    const auto weight = normal_weight(shape, 7);
    for (const double sparsity : {0.0, 0.1, 0.5, 0.77, 0.999}) {
        const auto made = Plugin("magnitude").make({{"sparsity", sparsity}}).compress(weight, nullptr);
        const auto expected = static_cast<std::int64_t>(std::floor(sparsity * 37 * 53 + 0.5));
        EXPECT_EQ(zeros_in(made.dense.data(), 37 * 53), expected);
        EXPECT_DOUBLE_EQ(made.metrics.at("sparsity"), static_cast<double>(expected) / (37 * 53));
        float largest_gone = 0, smallest_kept = INFINITY;
        for (std::size_t i = 0; i < weight.data.size(); ++i) {
            if (made.dense[i] == 0)
                largest_gone = std::max(largest_gone, std::fabs(weight.data[i]));
            else {
                EXPECT_EQ(made.dense[i], weight.data[i]);
                smallest_kept = std::min(smallest_kept, std::fabs(weight.data[i]));
            }
        }
        EXPECT_LE(largest_gone, smallest_kept);
    }
}

TEST(Magnitude, RowsLoseExactlyTheirShare) {
    auto weight = normal_weight({9, 50}, 8);
    for (std::int64_t c = 0; c < 50; ++c) weight(4, c) *= 1e-3f;  // would lose everything to a cut of the layer
    const auto made = Plugin("magnitude").make({{"sparsity", 0.3}, {"scope", "row"}}).compress(weight, nullptr);
    for (std::int64_t r = 0; r < 9; ++r) EXPECT_EQ(zeros_in(made.dense.data() + r * 50, 50), 15);
}

TEST(Magnitude, EqualWeightsGoInTheOrderOfStorage) {
    Owned<float> weight({2, 4});
    weight.data = {1, -1, 1, 2, 1, -2, 1, 1};
    const auto layer = Plugin("magnitude").make({{"sparsity", 0.375}}).compress(weight, nullptr).dense;
    EXPECT_EQ(layer, (std::vector<float>{0, 0, 0, 2, 1, -2, 1, 1}));
    const auto row = Plugin("magnitude").make({{"sparsity", 0.5}, {"scope", "row"}}).compress(weight, nullptr).dense;
    EXPECT_EQ(row, (std::vector<float>{0, 0, 1, 2, 0, -2, 0, 1}));
    const auto half = Plugin("magnitude").make({{"pattern", "2:4"}}).compress(weight, nullptr).dense;
    EXPECT_EQ(half, (std::vector<float>{0, 0, 1, 2, 0, -2, 0, 1}));
}

TEST(Magnitude, PatternsKeepTheLargestOfEachRun) {
    const auto weight = normal_weight({11, 64}, 9);
    for (const auto& [pattern, n, m] : {std::tuple{"2:4", 2, 4}, {"4:8", 4, 8}, {"1:32", 1, 32}}) {
        const auto made = Plugin("magnitude").make({{"pattern", pattern}}).compress(weight, nullptr).dense;
        for (std::int64_t first = 0; first < 11 * 64; first += m) {
            std::vector<float> sizes;
            for (std::int64_t i = first; i < first + m; ++i)
                sizes.push_back(std::fabs(weight.data[static_cast<std::size_t>(i)]));
            std::sort(sizes.begin(), sizes.end(), std::greater<>());
            EXPECT_EQ(zeros_in(made.data() + first, m), m - n) << pattern;
            for (std::int64_t i = first; i < first + m; ++i) {
                const auto at = static_cast<std::size_t>(i);
                EXPECT_EQ(made[at] != 0, std::fabs(weight.data[at]) >= sizes[static_cast<std::size_t>(n - 1)])
                    << pattern;
            }
        }
    }
}

TEST(Magnitude, PatternsThatMakeNoSenseAreRefused) {
    for (const char* pattern : {"", "4:2", "4:4", "0:4", "2:4x", "2", "2:65", "a:b", "-1:4",
                                "a text that is much longer than any pattern could ever be"})
        EXPECT_NE(refusal("magnitude", {{"pattern", pattern}}).find("pattern"), std::string::npos) << pattern;
    EXPECT_NE(refusal("magnitude", {{"pattern", "2:4"}}, {3, 18}).find("18"), std::string::npos);
    EXPECT_NE(refusal("magnitude", {{"sparsity", 1.0}}).find("sparsity"), std::string::npos);
}

}  // namespace
}  // namespace kerf::test
