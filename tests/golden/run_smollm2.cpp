// SPDX-License-Identifier: Apache-2.0
// A real model: SmolLM2-135M, as tools/get_smollm2.sh of the shared folder makes it. Skipped where it is not.
#include <cstdlib>

#include "core/eval/evaluate.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

std::filesystem::path checkpoint_folder() {
    const char* named = std::getenv("KERF_SMOLLM2");
    return named ? named : std::string(KERF_BUILD "/smollm2-135m");
}

class SmolLm2 : public testing::Test {
protected:
    void SetUp() override {
        if (!std::filesystem::exists(checkpoint_folder() / "model.safetensors"))
            GTEST_SKIP() << "needs the SmolLM2-135M checkpoint: shared/tools/get_smollm2.sh "
                         << checkpoint_folder().string() << ", or KERF_SMOLLM2=/its/folder";
    }
    static std::filesystem::path tokens() { return test_data("golden/tokens-smollm2-135m.safetensors"); }
};

TEST_F(SmolLm2, HasTheLogitsAndThePerplexityOfTheReference) {
    const Model model = Model::open(checkpoint_folder(), components());
    const ScratchFolder scratch;
    const auto path = test_data("golden/logits-smollm2-135m.safetensors");
    const Windows windows = token_windows(path, "input_ids");
    const auto ours = logits(model, windows, DType::f32, scratch.path());
    const auto golden = open_safetensors(path);
    std::vector<float> expected(std::size_t(golden->find("logits_last")->elements()));
    to_float32(*golden->find("logits_last"), expected);
    const std::size_t vocabulary = expected.size() / 2;
    double largest = 0, distance = 0;
    for (std::size_t sample = 0; sample < 2; ++sample)
        for (std::size_t i = 0; i < vocabulary; ++i) {
            const float golden_logit = expected[sample * vocabulary + i];
            const float our_logit = ours[((sample + 1) * std::size_t(windows.length) - 1) * vocabulary + i];
            largest = std::max(largest, std::abs(double(golden_logit)));
            distance = std::max(distance, std::abs(double(golden_logit) - double(our_logit)));
        }
    EXPECT_LE(distance, 1e-4 * largest);

    const double dense = read_json(test_data("golden/dense.json"))["smollm2-135m"].get<double>();
    EXPECT_NEAR(evaluate(model, nullptr, token_windows(tokens(), "eval"), DType::f32, scratch.path(), {}).model.value,
                dense, 0.0005 * dense);
}

TEST_F(SmolLm2, IsQuantisedToFourBitsAndStaysNearTheDenseModel) {
    const ScratchFolder scratch;
    Recipe recipe = golden_recipe("smollm2-135m", scratch.path() / "out", "gptq", {{"bits", 4}, {"group_size", 128}});
    recipe.model.path = checkpoint_folder();
    recipe.output.format = "gptq";
    recipe.output.dtype.reset();
    const auto report = run_recipe(recipe, components(), false, {});
    const double dense = read_json(test_data("golden/dense.json"))["smollm2-135m"].get<double>();
    EXPECT_GT(perplexity_after(report), dense);
    // IST-DASLab's gptq gives 25.494 at these settings on these tokens (docs/benchmarks.md).
    EXPECT_LT(perplexity_after(report), 25.494);
}

}  // namespace
}  // namespace kerf::core
