// SPDX-License-Identifier: Apache-2.0
// Every case of golden/gptq.json: what IST-DASLab's gptq makes of one layer, with `compatibility = true`.
#include <gtest/gtest.h>

#include <cmath>

#include "kerf/quantization.hpp"
#include "methods_case.hpp"
#include "methods_plugin.hpp"

namespace kerf::test {
namespace {

gptq::Options options_of(const nlohmann::json& settings) {
    gptq::Options o;
    o.compatibility = true;
    o.bits = settings.at("wbits");
    o.group_size = settings.value("groupsize", -1);
    o.sym = settings.value("sym", false);
    o.act_order = settings.value("actorder", false);
    o.static_groups = settings.value("static_groups", false);
    o.mse = settings.value("mse", false);
    o.trits = settings.value("trits", false);
    o.block_size = settings.value("blocksize", 128);
    o.damp = settings.value("percdamp", 0.01);
    return o;
}

/// Names of the cases for which `wanted` holds.
std::vector<std::string> cases(
    bool rtn, bool (*wanted)(const gptq::Options&) = [](const gptq::Options&) { return true; }) {
    const GoldenCase golden;
    std::vector<std::string> names;
    for (const auto& [name, figure] : golden.figures().items())
        if (name.starts_with("rtn") == rtn && wanted(options_of(figure.at("settings")))) names.push_back(name);
    return names;
}

/// The same as the text of a recipe's stage.
nlohmann::json recipe_of(const gptq::Options& o) {
    return {{"compatibility", true},      {"bits", o.bits},
            {"group_size", o.group_size}, {"sym", o.sym},
            {"act_order", o.act_order},   {"mse", o.mse},
            {"trits", o.trits},           {"static_groups", o.static_groups},
            {"block_size", o.block_size}, {"damp", o.damp}};
}

/// Codes may flip on near ties, and a flip moves what follows it in its row (specification §9).
double share_equal(const std::vector<float>& values, const std::vector<float>& golden) {
    std::size_t equal = 0;
    for (std::size_t i = 0; i < golden.size(); ++i) equal += std::fabs(values[i] - golden[i]) <= 1e-5f;
    return static_cast<double>(equal) / static_cast<double>(golden.size());
}

class GptqGolden : public testing::TestWithParam<std::string> {
protected:
    const GoldenCase golden;
    const nlohmann::json figure = golden.figures().at(GetParam());
    const Owned<float> weight = golden.matrix("W"), gram = golden.matrix("H"),
                       expected = golden.matrix(GetParam() + ".Q");
    const gptq::Options options = options_of(figure.at("settings"));
};

/// The file's U is in storage order and damped by 0.01.
class GptqGoldenFactor : public GptqGolden {};

TEST_P(GptqGoldenFactor, LoopWithTheReferencesFactorGivesTheReferencesWeights) {
    TestFactor factor = factor_of(gram, Order::none, 0, 0.01);
    factor.upper = golden.matrix("U");
    const auto settings = gptq::settings_of(options, weight.shape.columns);
    for (const auto* kernel : gptq::kernels()) {
        const auto made = run_loop(*kernel, settings, weight, gram, factor);
        EXPECT_GE(share_equal(made.values.data, expected.data), 0.98) << kernel->name;
        const double loss = figure.at("sum_losses");
        EXPECT_NEAR(made.figures.loss, loss, 0.005 * loss) << kernel->name;
    }
}

TEST_P(GptqGolden, PluginWithTheHostsFactorGivesTheReferencesWeightsAndError) {
    Plugin plugin("gptq");
    const auto instance = plugin.make(recipe_of(options));
    const auto made = instance.compress(weight, &gram);
    EXPECT_GE(share_equal(made.dense, expected.data), 0.98);
    const double loss = figure.at("sum_losses"), error = figure.at("rel_output_err");
    EXPECT_NEAR(made.metrics.at("loss"), loss, 0.005 * loss);
    EXPECT_NEAR(made.metrics.at("error"), error, 0.005 * error);
    EXPECT_EQ(made.metrics.at("attempts"), 1);
}

/// A ternary grid has no better default.
class GptqGoldenDefaults : public GptqGolden {};

TEST_P(GptqGoldenDefaults, OurDefaultsAreNeverWorseAtEqualBits) {
    auto ours = options;
    ours.compatibility = false;
    ours.mse = false;
    const auto made = run_options(ours, weight, gram);
    EXPECT_LE(made.figures.error, figure.at("rel_output_err").get<double>());
}

const auto case_name = [](const testing::TestParamInfo<std::string>& info) { return info.param; };
INSTANTIATE_TEST_SUITE_P(Cases, GptqGolden, testing::ValuesIn(cases(false)), case_name);
INSTANTIATE_TEST_SUITE_P(
    Cases, GptqGoldenFactor,
    testing::ValuesIn(cases(false, [](const gptq::Options& o) { return !o.act_order && o.damp == 0.01; })), case_name);
INSTANTIATE_TEST_SUITE_P(Cases, GptqGoldenDefaults,
                         testing::ValuesIn(cases(false, [](const gptq::Options& o) { return !o.trits; })), case_name);

class RtnGolden : public testing::TestWithParam<std::string> {};

TEST_P(RtnGolden, PluginGivesTheReferencesWeights) {
    const GoldenCase golden;
    const auto weight = golden.matrix("W"), expected = golden.matrix(GetParam() + ".Q");
    const auto o = options_of(golden.figures().at(GetParam()).at("settings"));
    Plugin plugin("rtn");
    const auto made =
        plugin.make({{"compatibility", true}, {"bits", o.bits}, {"group_size", -1}, {"sym", o.sym}, {"mse", o.mse}})
            .compress(weight, nullptr);
    EXPECT_GE(share_equal(made.dense, expected.data), 0.98);
}

INSTANTIATE_TEST_SUITE_P(Cases, RtnGolden, testing::ValuesIn(cases(true)), case_name);

}  // namespace
}  // namespace kerf::test
