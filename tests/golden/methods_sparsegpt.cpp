// SPDX-License-Identifier: Apache-2.0
// golden/sparsegpt-case: what the reference code of SparseGPT makes of one layer; and what must hold for sparsegpt and
// wanda whatever the layer.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/support/parallel.hpp"
#include "kerf/sparsity.hpp"
#include "methods_plugin.hpp"

namespace kerf::test {
namespace {

using nlohmann::json;

Owned<float> golden_matrix(const std::string& name) {
    static const auto file = core::open_safetensors(KERF_TEST_DATA "/golden/sparsegpt-case.safetensors");
    const auto* tensor = file->find(name);
    if (!tensor || tensor->shape.size() != 2) throw std::runtime_error("no matrix " + name + " in the golden case");
    Owned<float> out({tensor->shape[0], tensor->shape[1]});
    core::to_float32(*tensor, out.data);
    return out;
}

std::int64_t zeros_in(const std::vector<float>& values) {
    return std::count(values.begin(), values.end(), 0.0f);
}

/// At most `keep` of each `of` neighbours are not 0.
bool has_pattern(const std::vector<float>& values, std::ptrdiff_t keep, std::ptrdiff_t of) {
    for (auto at = values.begin(); at != values.end(); at += of)
        if (std::count_if(at, at + of, [](float v) { return v != 0; }) > keep) return false;
    return true;
}

class SparseGptGolden : public testing::TestWithParam<std::pair<const char*, json>> {};

TEST_P(SparseGptGolden, PluginRemovesTheReferencesWeightsAndGivesTheOthersItsValues) {
    const auto& [name, given] = GetParam();
    json options = given;
    options.update({{"block_size", 32}, {"damp", 0.01}, {"compatibility", true}});
    const auto weight = golden_matrix("W"), gram = golden_matrix("H"),
               expected = golden_matrix(std::string(name) + ".W");
    const auto made = Plugin("sparsegpt").make(options).compress(weight, &gram);
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < expected.data.size(); ++i) {
        ASSERT_EQ(made.dense[i] == 0, expected.data[i] == 0) << "weight " << i;
        difference += std::pow(static_cast<double>(made.dense[i]) - expected.data[i], 2);
        size += std::pow(static_cast<double>(expected.data[i]), 2);
    }
    EXPECT_LE(std::sqrt(difference / size), 1e-4);

    // The figures, from their definition.
    Owned<float> residual(weight.shape);
    for (std::size_t i = 0; i < residual.data.size(); ++i) residual.data[i] = weight.data[i] - made.dense[i];
    const double error = quadratic(residual, gram) / quadratic(weight, gram);
    EXPECT_NEAR(made.metrics.at("error"), error, 1e-3 * error);
}

INSTANTIATE_TEST_SUITE_P(Case, SparseGptGolden,
                         testing::Values(std::pair<const char*, json>{"unstructured50", {{"sparsity", 0.5}}},
                                         std::pair<const char*, json>{"2of4", {{"pattern", "2:4"}}}),
                         [](const auto& info) { return "Of" + std::to_string(info.index); });

const json sparsegpt_options[] = {
    json::object(),
    {{"sparsity", 0.7}, {"block_size", 48}},
    {{"sparsity", 0.3}, {"block_size", 1000}},
    {{"pattern", "2:4"}},
    {{"pattern", "3:5"}},
    {{"pattern", "20:60"}},
    {{"pattern", "2:4"}, {"bits", 4}},
    {{"bits", 3}, {"group_size", 48}, {"sym", true}},
};
const json wanda_options[] = {json::object(), {{"scope", "layer"}}, {{"pattern", "2:4"}}};

TEST(Pruners, ThreadsDoNotChangeABitAndCostsAreExact) {
    const Shape shape{70, 300};
    const auto weight = normal_weight(shape, 1), gram = chained_gram(shape.columns);
    const auto check = [&](const std::string& method, const json& options) {
        const auto instance = Plugin(method).make(options);
        core::set_threads(1);
        const auto one = instance.compress(weight, &gram);
        core::set_threads(8);
        const auto eight = instance.compress(weight, &gram);
        EXPECT_EQ(one.dense, eight.dense) << method << options;
        EXPECT_EQ(one.metrics, eight.metrics) << method << options;
        EXPECT_EQ(one.peak_bytes, instance.cost(shape).scratch_bytes) << method << options;
        EXPECT_EQ(one.replacement.bits, instance.cost(shape).bits) << method << options;
    };
    for (const auto& options : sparsegpt_options) check("sparsegpt", options);
    for (const auto& options : wanda_options) check("wanda", options);
}

TEST(Pruners, RemoveExactlyTheirShare) {
    const Shape shape{33, 130};
    const auto weight = normal_weight(shape, 2), gram = chained_gram(shape.columns);
    for (const double sparsity : {0.0, 0.25, 0.5, 0.9}) {
        std::int64_t by_block = 0;  // blocks of 48, 48 and 34 columns
        for (const std::int64_t width : {48, 48, 34}) by_block += removed_of(sparsity, 33 * width);
        const auto zeros = [&](const char* method, json options) {
            options["sparsity"] = sparsity;
            return zeros_in(Plugin(method).make(options).compress(weight, &gram).dense);
        };
        EXPECT_EQ(zeros("sparsegpt", {{"block_size", 48}}), by_block) << sparsity;
        EXPECT_EQ(zeros("wanda", {{"scope", "row"}}), 33 * removed_of(sparsity, 130)) << sparsity;
        EXPECT_EQ(zeros("wanda", {{"scope", "layer"}}), removed_of(sparsity, 33 * 130)) << sparsity;
    }
}

TEST(Pruners, KeepAnyPattern) {
    const auto weight = normal_weight({37, 840}, 3), gram = chained_gram(840);
    for (const auto& [pattern, keep, of] :
         {std::tuple{"2:4", 2, 4}, {"4:8", 4, 8}, {"1:3", 1, 3}, {"5:7", 5, 7}, {"9:35", 9, 35}, {"30:60", 30, 60}})
        for (const char* method : {"sparsegpt", "wanda"}) {
            const auto made = Plugin(method).make({{"pattern", pattern}}).compress(weight, &gram).dense;
            EXPECT_TRUE(has_pattern(made, keep, of)) << method << " " << pattern;
            EXPECT_EQ(zeros_in(made), 37 * 840 / of * (of - keep)) << method << " " << pattern;
        }
}

TEST(SparseGpt, LosesLessThanWandaAndWandaLessThanMagnitudeWhereInputsDiffer) {
    const auto weight = normal_weight({64, 256}, 4), gram = chained_gram(256);
    for (const json& options : {json{{"sparsity", 0.5}}, json{{"pattern", "2:4"}}}) {
        const auto error = [&](const char* method) {
            const auto made = Plugin(method).make(options).compress(weight, &gram).dense;
            Owned<float> residual(weight.shape);
            for (std::size_t i = 0; i < made.size(); ++i) residual.data[i] = weight.data[i] - made[i];
            return quadratic(residual, gram);
        };
        EXPECT_LT(error("sparsegpt"), error("wanda")) << options;
        EXPECT_LT(error("wanda"), error("magnitude")) << options;
    }
}

TEST(SparseGpt, RoundsWhatRemainsAndLeavesZerosExact) {
    const auto weight = normal_weight({40, 128}, 5), gram = chained_gram(128);
    for (const int bits : {2, 3, 4, 8}) {
        const auto made =
            Plugin("sparsegpt").make({{"pattern", "2:4"}, {"bits", bits}, {"group_size", 32}}).compress(weight, &gram);
        EXPECT_EQ(made.replacement.bits, bits);
        EXPECT_TRUE(has_pattern(made.dense, 2, 4)) << bits;
    }
}

TEST(SparseGpt, WeightsThatAreZeroAlreadyStayZeroAndCount) {
    auto weight = normal_weight({32, 64}, 6);
    const auto gram = chained_gram(64);
    for (std::size_t i = 0; i < weight.data.size(); i += 3) weight.data[i] = 0;
    for (const json& options : {json{{"sparsity", 0.5}, {"block_size", 64}}, json{{"pattern", "2:4"}}}) {
        const auto made = Plugin("sparsegpt").make(options).compress(weight, &gram).dense;
        for (std::size_t i = 0; i < made.size(); i += 3) ASSERT_EQ(made[i], 0.0f) << options;
        EXPECT_EQ(zeros_in(made), 32 * 64 / 2) << options;
    }
}

TEST(Quantisers, KeepZerosWhateverTheGrid) {
    auto weight = normal_weight({40, 192}, 7);
    const auto gram = chained_gram(192);
    for (std::size_t i = 0; i < weight.data.size(); ++i)
        if (i * 7 % 4 < 2) weight.data[i] = 0;
    const auto zeros_kept = [&](const char* method, const json& options) {
        const auto made = Plugin(method).make(options).compress(weight, &gram).dense;
        for (std::size_t i = 0; i < made.size(); ++i)
            if (weight.data[i] == 0 && made[i] != 0) return false;
        return true;
    };
    for (const json& options :
         {json::object(), json{{"bits", 2}, {"group_size", 32}}, json{{"group_size", 48}, {"refine", 2}},
          json{{"group_size", -1}, {"sym", true}}, json{{"act_order", true}, {"static_groups", true}},
          json{{"trits", true}, {"group_size", 64}}, json{{"per_channel", false}}, json{{"least_zero", 0}}})
        EXPECT_TRUE(zeros_kept("gptq", options)) << options;
    for (const json& options : {json::object(), json{{"sym", true}}, json{{"trits", true}}})
        EXPECT_TRUE(zeros_kept("rtn", options)) << options;
    EXPECT_FALSE(zeros_kept("gptq", {{"keep_zeros", false}}));
}

std::string refusal(const std::string& method, const json& options, Shape shape = {4, 16}) {
    try {
        Plugin(method).make(options).cost(shape);
    } catch (const core::Error& e) {
        return e.what();
    }
    return "";
}

TEST(Pruners, RefuseWhatMakesNoSenseBeforeAnyWork) {
    for (const char* method : {"sparsegpt", "wanda"}) {
        for (const char* pattern : {"", "4:2", "4:4", "0:4", "2:4x", "2", "2:65", "a:b", "-1:4", ":", "2:", ":4"})
            EXPECT_NE(refusal(method, {{"pattern", pattern}}).find("pattern"), std::string::npos) << pattern;
        for (const double sparsity : {-0.1, 1.0, 2.0})
            EXPECT_NE(refusal(method, {{"sparsity", sparsity}}).find("sparsity"), std::string::npos) << sparsity;
    }
    for (const char* method : {"sparsegpt", "wanda", "magnitude"})
        EXPECT_NE(refusal(method, {{"pattern", "2:4"}}, {3, 18}).find("18"), std::string::npos) << method;
    EXPECT_NE(refusal("sparsegpt", {{"bits", 1}}).find("bits"), std::string::npos);
    EXPECT_NE(refusal("sparsegpt", {{"damp", 0}}).find("damp"), std::string::npos);
    EXPECT_NE(refusal("sparsegpt", {{"group_size", 0}}).find("group_size"), std::string::npos);
}

TEST(Pruners, RefuseWeightsThatAreNotFinite) {
    const auto gram = chained_gram(16);
    for (const char* method : {"sparsegpt", "wanda"})
        for (const float bad : {NAN, INFINITY}) {
            auto weight = normal_weight({4, 16}, 8);
            weight(2, 3) = bad;
            EXPECT_THROW(Plugin(method).make(json::object()).compress(weight, &gram), core::Error) << method << bad;
        }
}

TEST(Cut, IsWhereASortPutsItAndTiesGoInOrder) {
    std::mt19937 random(9);
    std::vector<std::vector<float>> shards(7);
    std::vector<float> all;
    for (auto& shard : shards)
        for (int i = 0; i < 50; ++i) shard.push_back(static_cast<float>(random() % 40) * 0.37f);
    for (const auto& shard : shards) all.insert(all.end(), shard.begin(), shard.end());
    std::stable_sort(all.begin(), all.end());
    const auto serial = [](std::int64_t n, const auto& body) {
        for (std::int64_t i = 0; i < n; ++i) body(i);
    };
    for (const std::int64_t k : {0, 1, 49, 175, 349, 350}) {
        const auto cut = cut_smallest(
            k, 7, [&](std::int64_t i) { return std::span<const float>(shards[static_cast<std::size_t>(i)]); }, serial);
        if (k > 0) {
            EXPECT_EQ(cut.rank, rank_of(all[static_cast<std::size_t>(k - 1)])) << k;
        }
        std::int64_t gone = 0;
        bool short_of_all = false;
        for (std::size_t i = 0; i < shards.size(); ++i) {
            const auto equal =
                std::count_if(shards[i].begin(), shards[i].end(), [&](float s) { return rank_of(s) == cut.rank; });
            gone += std::count_if(shards[i].begin(), shards[i].end(), [&](float s) { return rank_of(s) < cut.rank; });
            gone += cut.ties[i];
            EXPECT_TRUE(cut.ties[i] == 0 || !short_of_all) << "a later shard gives before an earlier one is used up";
            short_of_all = short_of_all || cut.ties[i] < equal;
        }
        EXPECT_EQ(gone, k);
    }
}

TEST(Wanda, NeedsTheDiagonalOfTheGramMatrixAlone) {
    const Plugin wanda("wanda");
    EXPECT_EQ(wanda.table()->needs, std::uint64_t{KERF_NEEDS_INPUT_DIAGONAL});
    const auto weight = golden_matrix("W"), gram = golden_matrix("H");
    core::InputMoments moments;
    for (std::int64_t j = 0; j < gram.shape.rows; ++j) moments.diagonal.push_back(gram(j, j));
    core::Curvature diagonal("the input", gram.shape.rows, 512, std::move(moments));
    for (const char* scope : {"row", "layer"}) {
        const auto method = wanda.make({{"sparsity", 0.5}, {"scope", scope}});
        EXPECT_EQ(method.compress_with(weight, &diagonal).dense, method.compress(weight, &gram).dense) << scope;
    }
    EXPECT_THROW(Plugin("sparsegpt").make(json::object()).compress_with(weight, &diagonal), core::Error)
        << "a method that did not declare the diagonal gets no factor of it";
}

}  // namespace
}  // namespace kerf::test
