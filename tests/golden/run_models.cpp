// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/eval/evaluate.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

class TinyModel : public testing::TestWithParam<const char*> {
protected:
    void SetUp() override { KERF_SKIP_WITHOUT(GetParam()); }
};

std::string test_name(std::string name) {
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
}

std::vector<float> golden_values(const TensorFile& file, const std::string& name) {
    const StoredTensor& tensor = *file.find(name);
    std::vector<float> out(std::size_t(tensor.elements()));
    to_float32(tensor, out);
    return out;
}

TEST_P(TinyModel, GivesTheLogitsAndHiddenStatesOfTransformers) {
    const std::string name = GetParam();
    const auto path = golden_file(name, "logits-" + name + ".safetensors");
    const auto golden = open_safetensors(path);
    const Windows windows = token_windows(path, "input_ids");
    const Model model = Model::open(trained_model(name), components());
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
    const Model model = Model::open(trained_model(name), components());
    const ScratchFolder scratch;
    const Windows windows = token_windows(golden_file(name, "tokens-" + name + ".safetensors"), "eval");
    const Perplexity figure = evaluate(model, nullptr, windows, DType::f32, scratch.path(), {}).model;
    const double expected = read_json(test_data("golden/dense.json"))[name].get<double>();
    EXPECT_NEAR(figure.value, expected, 0.0005 * expected);
    EXPECT_EQ(figure.tokens, 64 * 255);
    EXPECT_GT(figure.standard_error, 0);
}

TEST_P(TinyModel, AgreesWithItselfWhollyAndWithBfloat16Nearly) {
    const std::string name = GetParam();
    const Model model = Model::open(trained_model(name), components());
    const ScratchFolder scratch;
    const Windows windows = token_windows(golden_file(name, "tokens-" + name + ".safetensors"), "eval", 4);
    const Evaluated same = evaluate(model, &model, windows, DType::f32, scratch.path(), {});
    EXPECT_NEAR(same.agreement.kl, 0, 1e-9);
    EXPECT_EQ(same.agreement.top1, 1);
    EXPECT_EQ(same.model.value, same.reference.value);
    const double narrow = evaluate(model, nullptr, windows, DType::bf16, scratch.path(), {}).model.value;
    EXPECT_NEAR(narrow, same.model.value, 0.01 * same.model.value);
    EXPECT_NE(narrow, same.model.value);
}

INSTANTIATE_TEST_SUITE_P(Golden, TinyModel,
                         testing::Values("llama-tiny", "opt-tiny", "phi2-tiny", "phi3-tiny", "falcon-tiny"),
                         [](const auto& info) { return test_name(info.param); });

/// Layouts of the families that the trained models leave out, with random weights (tests/data/layouts/make.py).
class Layout : public testing::TestWithParam<const char*> {};

TEST_P(Layout, GivesTheLogitsOfTransformers) {
    const auto folder = test_data("layouts") / GetParam();
    const auto golden = open_safetensors(folder / "expected.safetensors");
    const Model model = Model::open(folder, components());
    const ScratchFolder scratch;
    int texts = 0;
    for (const auto& tensor : golden->tensors()) {
        if (!tensor.name.ends_with(".input_ids")) continue;
        const std::string text = tensor.name.substr(0, tensor.name.find('.'));
        const Windows windows = token_windows(folder / "expected.safetensors", tensor.name);
        const auto expected = golden_values(*golden, text + ".logits");
        EXPECT_LE(distance(logits(model, windows, DType::f32, scratch.path()), expected), 2e-5 * largest(expected))
            << text;
        ++texts;
    }
    EXPECT_GT(texts, 0);
}

INSTANTIATE_TEST_SUITE_P(Random, Layout,
                         testing::Values("falcon-two-norms", "falcon-one-norm", "falcon-rw", "falcon-multi-head",
                                         "falcon-alibi-multi-query", "phi3-longrope", "phi2-qk-norm"),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace kerf::core
