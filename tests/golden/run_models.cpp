// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/eval/evaluate.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

class TinyModel : public testing::TestWithParam<const char*> {};

std::vector<float> golden_values(const TensorFile& file, const std::string& name) {
    const StoredTensor& tensor = *file.find(name);
    std::vector<float> out(std::size_t(tensor.elements()));
    to_float32(tensor, out);
    return out;
}

double largest(const std::vector<float>& values) {
    double out = 0;
    for (const float value : values) out = std::max(out, std::abs(double(value)));
    return out;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
    EXPECT_EQ(a.size(), b.size());
    double out = 0;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
        out = std::max(out, std::abs(double(a[i]) - double(b[i])));
    return out;
}

TEST_P(TinyModel, GivesTheLogitsAndHiddenStatesOfTransformers) {
    const std::string name = GetParam();
    const auto path = test_data("golden/logits-" + name + ".safetensors");
    const auto golden = open_safetensors(path);
    const Windows windows = token_windows(path, "input_ids");
    const Model model = Model::open(test_data("models/" + name), components());
    const ScratchFolder scratch;
    for (std::size_t block = 0; block <= model.graph().blocks.size(); ++block) {
        const auto expected = golden_values(*golden, "hidden." + std::to_string(block));
        EXPECT_LE(distance(hidden_states(model, windows, block, DType::f32, scratch.path()), expected),
                  1e-4 * largest(expected))
            << "block " << block;
    }
    const auto expected = golden_values(*golden, "logits");
    EXPECT_LE(distance(logits(model, windows, DType::f32, scratch.path()), expected), 1e-4 * largest(expected));
}

TEST_P(TinyModel, HasTheDensePerplexityOfTheReference) {
    const std::string name = GetParam();
    const Model model = Model::open(test_data("models/" + name), components());
    const ScratchFolder scratch;
    const Windows windows = token_windows(test_data("golden/tokens-" + name + ".safetensors"), "eval");
    const Perplexity figure = evaluate(model, nullptr, windows, DType::f32, scratch.path(), {}).model;
    const double expected = read_json(test_data("golden/dense.json"))[name].get<double>();
    EXPECT_NEAR(figure.value, expected, 0.0005 * expected);
    EXPECT_EQ(figure.tokens, 64 * 255);
    EXPECT_GT(figure.standard_error, 0);
}

TEST_P(TinyModel, AgreesWithItselfWhollyAndWithBfloat16Nearly) {
    const Model model = Model::open(test_data("models/" + std::string(GetParam())), components());
    const ScratchFolder scratch;
    const Windows windows =
        token_windows(test_data("golden/tokens-" + std::string(GetParam()) + ".safetensors"), "eval", 4);
    const Evaluated same = evaluate(model, &model, windows, DType::f32, scratch.path(), {});
    EXPECT_NEAR(same.agreement.kl, 0, 1e-9);
    EXPECT_EQ(same.agreement.top1, 1);
    EXPECT_EQ(same.model.value, same.reference.value);
    const double narrow = evaluate(model, nullptr, windows, DType::bf16, scratch.path(), {}).model.value;
    EXPECT_NEAR(narrow, same.model.value, 0.01 * same.model.value);
    EXPECT_NE(narrow, same.model.value);
}

INSTANTIATE_TEST_SUITE_P(Golden, TinyModel, testing::Values("llama-tiny", "opt-tiny"), [](const auto& info) {
    std::string name = info.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
});

}  // namespace
}  // namespace kerf::core
