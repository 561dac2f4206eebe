// SPDX-License-Identifier: Apache-2.0
// Methods that see the whole model, through the kerf command.
#include "core/support/text.hpp"
#include "tests/e2e/small_run.hpp"

namespace kerf::e2e {
namespace {

using nlohmann::json;

const std::string all_layers =
    "block_attention_layer_start = 0\nblock_attention_layer_end = 4\nblock_mlp_layer_start = 0\n"
    "block_mlp_layer_end = 4\n";
std::string llm_pruner(const std::string& settings) {
    return "[[stage]]\nmethod = \"llm_pruner\"\npruning_ratio = 0.5\n" + all_layers + settings;
}
const std::string gptq = "[[stage]]\nmethod = \"gptq\"\nbits = 4\ngroup_size = 32\n";

/// A recipe over a trained tiny model, with few windows.
fs::path trained(const Folder& folder, const std::string& model, const std::string& stages,
                 const std::string& format = "hf") {
    const fs::path file = folder / "recipe.toml";
    spill(file, core::text("[model]\npath = \"", KERF_TEST_DATA, "/models/", model,
                           "\"\n[calibration]\nsource = \"tokens\"\npath = \"", KERF_TEST_DATA, "/golden/tokens-",
                           model, ".safetensors\"\ntensor = \"calib\"\nsamples = 10\nlength = 0\n", stages,
                           "[output]\npath = \"out\"\nformat = \"", format, "\"\n"));
    return file;
}

class PruneWholeThenQuantise : public testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(PruneWholeThenQuantise, HasThePlannedSizeAndGoesOnAfterAnInterruption) {
    const auto& [model, settings] = GetParam();
    const Folder folder;
    const fs::path recipe = trained(folder, model, llm_pruner(settings) + gptq, "gptq");
    const Outcome planned = kerf({"plan", recipe.string(), "--json"});
    ASSERT_EQ(planned.code, 0) << planned.err;
    const json plan = json::parse(planned.out);
    EXPECT_EQ(plan["exact"], true);
    const Outcome run = kerf({"run", recipe.string()});
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(plan["output_bytes"].get<std::uint64_t>(), fs::file_size(folder / "out/model.safetensors"));
    const json report = json::parse(slurp(folder / "out/report.json"));
    EXPECT_EQ(plan["parameters"]["after"], report["parameters"]["after"]);
    EXPECT_LT(run.peak_bytes, plan["peak_bytes"].get<std::uint64_t>() * 11 / 10);
    for (const auto& axis : report["stages"][0]["axes"])
        EXPECT_EQ(2 * axis["removed"].size(), axis["units"].get<std::size_t>()) << axis["name"];
    for (const auto& linear : report["stages"][0]["linears"]) EXPECT_GT(linear["error"].get<double>(), 0) << linear;

    const auto expected = lasting_files(folder / "out");
    for (const long k : {5, 40}) resumes_to(expected, recipe, folder / "out", k);
}

INSTANTIATE_TEST_SUITE_P(TinyModels, PruneWholeThenQuantise,
                         testing::Values(std::tuple{"llama-tiny", ""}, std::tuple{"llama-tiny", "refit = true\n"},
                                         std::tuple{"opt-tiny", "pruner_type = \"taylor\"\nrefit = true\n"}),
                         [](const auto& info) { return core::text("Case", info.index); });

TEST(WholeModel, ResumeGivesTheSameBytesWhereverItWasKilled) {
    // Widths that differ, hidden channels, layers: results of the stream of blocks, and views that are written.
    const std::vector<std::string> recipes{
        llm_pruner("pruner_type = \"taylor\"\nnum_examples = 2\nseq_len = 32\nglobal_pruning = true\nnormalizer = "
                   "\"mean\"\nrefit = true\n") +
            gptq,
        "[[stage]]\nmethod = \"llm_pruner\"\nmode = \"channel_wise\"\npruning_ratio = 0.25\n" + gptq +
            "exclude = [\"*.k_proj\"]\n",
        "[[stage]]\nmethod = \"llm_pruner\"\nmode = \"layer_wise\"\nlayer = 1\n"};
    for (const auto& stages : recipes) {
        const Small small;
        const fs::path recipe = small.recipe(stages);
        SCOPED_TRACE(stages);
        survives_kills(recipe, small.folder / "out", every(2, 13));
    }
}

TEST(WholeModel, BadInputIsOneSentenceAndNothingLeft) {
    const Small small;
    const auto refused = [&](const std::string& stages, const std::string& says) {
        const Outcome run = kerf({"run", small.recipe(stages).string()});
        EXPECT_EQ(run.code, 2) << stages << run.err;
        EXPECT_NE(run.err.find(says), std::string::npos) << stages << run.err;
        EXPECT_FALSE(fs::exists(small.folder / "out")) << stages;
        EXPECT_FALSE(fs::exists(small.folder / "out.partial")) << stages;
    };
    const std::string stage = "[[stage]]\nmethod = \"llm_pruner\"\n";
    refused(stage + "pruning_ratio = 1.0\n", "pruning_ratio");
    refused(stage, "the model has 2 layers");  // the default window begins at the fourth
    refused(llm_pruner("") + "include = [\"*.mlp\"]\n", "weighs the whole model");
    refused(stage + "mode = \"layer_wise\"\nlayer = 0\n", "layer");
    refused(stage + "mode = \"layer_wise\"\nlayer = 1\nrefit = true\n", "is for heads and channels inside blocks");
    refused(stage + "mode = \"channel_wise\"\nresult = \"zeroed\"\n", "is for heads and channels inside blocks");
    refused(gptq + llm_pruner(""), "put llm_pruner first");
    refused(llm_pruner("pruner_type = \"taylor\"\nnum_examples = 5\n"), "calibration has 4 windows");
    refused(llm_pruner("pruner_type = \"taylor\"\nnum_examples = 1\nfirst_example = 4\n"), "calibration has 4 windows");
    refused(llm_pruner("pruner_type = \"taylor\"\nnum_examples = 1\nseq_len = 999\n"), "gradients over 999 tokens");
    refused(llm_pruner("target_param_ratio = 0.99\n"), "what the layer windows hold is less than that");
    refused(llm_pruner("round_to = 5000\n"), "the largest group has 96 channels, so that none could go");
}

}  // namespace
}  // namespace kerf::e2e
