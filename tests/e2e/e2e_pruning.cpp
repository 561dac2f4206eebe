// SPDX-License-Identifier: Apache-2.0
// Pruning and what comes after it, through the command on the trained tiny models.
#include "core/support/text.hpp"
#include "core/weights/tensor_file.hpp"
#include "tests/e2e/command.hpp"

namespace kerf::e2e {
namespace {

std::string recipe_for(const std::string& model, const std::string& stages, const std::string& format = "hf") {
    return core::text("[model]\npath = \"", KERF_TEST_DATA, "/models/", model,
                      "\"\n[calibration]\nsource = \"tokens\"\npath = \"", KERF_TEST_DATA, "/golden/tokens-", model,
                      ".safetensors\"\ntensor = \"calib\"\nsamples = 8\nlength = 0\n", stages,
                      "[output]\npath = \"out\"\nformat = \"", format, "\"\n");
}

const std::string gptq = "[[stage]]\nmethod = \"gptq\"\nbits = 4\ngroup_size = 64\n";
std::string pruner(const std::string& method) {
    return "[[stage]]\nmethod = \"" + method + "\"\npattern = \"2:4\"\n";
}

/// Every linear of the first block: at most two of four neighbours are not 0, and at least a third of all is.
void expect_two_of_four(const fs::path& checkpoint, const std::string& block) {
    const auto file = core::open_safetensors(checkpoint);
    int seen = 0;
    for (const auto& tensor : file->tensors()) {
        if (!tensor.name.starts_with(block) || tensor.shape.size() != 2) continue;
        std::vector<float> values(std::size_t(tensor.elements()));
        core::to_float32(tensor, values);
        for (auto at = values.begin(); at != values.end(); at += 4)
            ASSERT_LE(std::count_if(at, at + 4, [](float v) { return v != 0; }), 2) << tensor.name;
        EXPECT_LT(3 * std::count(values.begin(), values.end(), 0.0f), 2 * std::ptrdiff_t(values.size()))
            << tensor.name << " has lost more than the pattern takes";
        ++seen;
    }
    EXPECT_GE(seen, 6);
}

class PruneThenQuantise : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(PruneThenQuantise, KeepsThePatternExactly) {
    const auto& [model, block] = GetParam();
    for (const char* method : {"sparsegpt", "wanda"}) {
        const Folder folder;
        spill(folder / "recipe.toml", recipe_for(model, pruner(method) + gptq));
        const Outcome run = kerf({"run", (folder / "recipe.toml").string()});
        ASSERT_EQ(run.code, 0) << run.err;
        expect_two_of_four(folder / "out/model.safetensors", block);
    }
}

INSTANTIATE_TEST_SUITE_P(TinyModels, PruneThenQuantise,
                         testing::Values(std::pair{"llama-tiny", "model.layers.0."},
                                         std::pair{"opt-tiny", "model.decoder.layers.0."}),
                         [](const auto& info) { return std::string(info.param.first, 3); });

TEST(PruneThenQuantise, InOnePackedResultKeepsThePattern) {
    const Folder folder;
    spill(folder / "recipe.toml", recipe_for("llama-tiny", pruner("sparsegpt") + gptq, "gptq"));
    const Outcome run = kerf({"run", (folder / "recipe.toml").string()});
    ASSERT_EQ(run.code, 0) << run.err;
    const Outcome dense = kerf({"convert", (folder / "out").string(), (folder / "dense").string()});
    ASSERT_EQ(dense.code, 0) << dense.err;
    expect_two_of_four(folder / "dense/model.safetensors", "model.layers.0.");
}

TEST(Pruning, OfCodesIsRefusedWithAReason) {
    const std::string llm_pruner =
        "[[stage]]\nmethod = \"llm_pruner\"\nblock_attention_layer_start = 0\nblock_mlp_layer_start = 0\n";
    for (const auto& [method, stage] : {std::pair<std::string, std::string>{"magnitude", pruner("magnitude")},
                                        {"wanda", pruner("wanda")},
                                        {"sparsegpt", pruner("sparsegpt")},
                                        {"slimgpt", "[[stage]]\nmethod = \"slimgpt\"\n"},
                                        {"magnitude_structured", "[[stage]]\nmethod = \"magnitude_structured\"\n"},
                                        {"llm_pruner", llm_pruner}}) {
        const Folder folder;
        spill(folder / "recipe.toml", recipe_for("llama-tiny", gptq + stage));
        const Outcome refused = kerf({"plan", (folder / "recipe.toml").string()});
        EXPECT_EQ(refused.code, 2) << method;
        EXPECT_NE(refused.err.find(core::text("put ", method, " first")), std::string::npos) << refused.err;
    }
    const Folder folder;
    spill(folder / "recipe.toml",
          recipe_for("llama-tiny", "[[stage]]\nmethod = \"rtn\"\nbits = 4\ngroup_size = 64\n", "gptq"));
    ASSERT_EQ(kerf({"run", (folder / "recipe.toml").string()}).code, 0);
    for (const auto& stage : {pruner("magnitude"), llm_pruner}) {
        std::string again = recipe_for("llama-tiny", stage);
        const std::string model = core::text(KERF_TEST_DATA, "/models/llama-tiny");
        again.replace(again.find(model), model.size(), (folder / "out").string());
        spill(folder / "again.toml", again);
        const Outcome refused =
            kerf({"run", (folder / "again.toml").string(), "--output", (folder / "twice").string()});
        EXPECT_EQ(refused.code, 2);
        EXPECT_NE(refused.err.find("GPTQ 4-bit"), std::string::npos) << refused.err;
        EXPECT_FALSE(fs::exists(folder / "twice"));
    }
}

}  // namespace
}  // namespace kerf::e2e
