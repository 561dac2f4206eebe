// SPDX-License-Identifier: Apache-2.0
// SliceGPT in recipes, through the kerf command on trained models.
#include "core/support/text.hpp"
#include "tests/e2e/small_run.hpp"

namespace kerf::e2e {
namespace {

using nlohmann::json;

const std::string slicegpt = "[[stage]]\nmethod = \"slicegpt\"\nsparsity = 0.25\n";
const std::string slimgpt = "[[stage]]\nmethod = \"slimgpt\"\nsparsity = 0.1\n";
const std::string gptq = "[[stage]]\nmethod = \"gptq\"\nbits = 8\ngroup_size = 32\n";

/// A recipe over a tiny model of tests/data with a few of its golden windows.
struct Tiny {
    std::string model;
    Folder folder;
    int windows = 8;

    fs::path recipe(const std::string& stages, const std::string& output = "out", const std::string& from = "",
                    const std::string& more = "") const {
        const std::string data = KERF_TEST_DATA, tokens = data + "/golden/tokens-" + model + ".safetensors";
        const std::string source =
            core::text("source = \"tokens\"\npath = \"", tokens, "\"\nsamples = ", windows, "\n");
        const fs::path file = folder / (output + ".toml");
        spill(file, core::text("[model]\npath = \"", from.empty() ? data + "/models/" + model : from, "\"\n",
                               "[calibration]\n", source, "tensor = \"calib\"\n", stages,
                               "[[evaluation.perplexity]]\nname = \"eval\"\n", source, "tensor = \"eval\"\n",
                               "[output]\npath = \"", output, "\"\ndtype = \"float32\"\n", more));
        return file;
    }
    json run(const fs::path& file, const std::string& output = "out") const {
        const Outcome run = kerf({"run", file.string()});
        EXPECT_EQ(run.code, 0) << run.err;
        return run.code == 0 ? json::parse(slurp(folder / output / "report.json")) : json();
    }
};

double perplexity(const json& report, const char* when) {
    return report[when]["perplexity"]["eval"]["value"].get<double>();
}

class SlicedPipeline : public testing::TestWithParam<std::string> {};

/// What a stage may cost is what the golden figures of its method allow, with room for 8 windows instead of 64.
TEST_P(SlicedPipeline, StagesComposeAndTheResultIsAModelAgain) {
    const Tiny tiny{GetParam(), {}};
    for (const auto& [stages, output, most] :
         {std::tuple{slicegpt + gptq, "two", 1.03}, {slimgpt + slicegpt + gptq, "three", 1.1}}) {
        const json report = tiny.run(tiny.recipe(stages, output), output);
        ASSERT_FALSE(report.is_null()) << output;
        EXPECT_GT(perplexity(report, "after"), perplexity(report, "before")) << output;
        EXPECT_LT(perplexity(report, "after"), most * perplexity(report, "before")) << output;
        // Loaded again, by a recipe without stages, it is the same function of as many parameters.
        const json again = tiny.run(tiny.recipe("", "copy", output), "copy");
        ASSERT_FALSE(again.is_null()) << output;
        EXPECT_NEAR(perplexity(again, "after"), perplexity(report, "after"), 1e-6 * perplexity(report, "after"));
        EXPECT_EQ(again["parameters"]["before"], report["parameters"]["after"]);
        fs::remove_all(tiny.folder / "copy");
    }
}

TEST_P(SlicedPipeline, ResumedAnywhereGivesTheSameBytes) {
    const Tiny tiny{GetParam(), {}, 2};
    const fs::path recipe = tiny.recipe(slimgpt + slicegpt + "refit = true\n" + gptq);
    survives_kills(recipe, tiny.folder / "out", [](long calls) { return every(calls / 8, calls / 4)(calls); });
}

TEST_P(SlicedPipeline, MemoryStaysWithinThePlan) {
    const Tiny tiny{GetParam(), {}, 32};
    const fs::path recipe = tiny.recipe(slicegpt + "refit = true\n");
    const Outcome planned = kerf({"plan", recipe.string(), "--json"});
    ASSERT_EQ(planned.code, 0) << planned.err;
    const Outcome run = kerf({"run", recipe.string()});
    ASSERT_EQ(run.code, 0) << run.err;
    const json plan = json::parse(planned.out);
    EXPECT_LE(run.peak_bytes, plan["peak_bytes"].get<std::uint64_t>());
    EXPECT_EQ(plan["output_bytes"].get<std::uint64_t>(), fs::file_size(tiny.folder / "out/model.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Families, SlicedPipeline, testing::Values("llama-tiny", "opt-tiny"), [](const auto& info) {
    std::string name = info.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
});

TEST(Sliced, TooFewTokensForTheRankAreAWarningWithNumbers) {
    const Folder folder;
    make_tiny_model(folder / "model");
    make_tokens(folder / "tokens.safetensors", 1, 32, 128);
    spill(folder / "few.toml",
          "[model]\npath = \"model\"\n[calibration]\nsource = \"tokens\"\npath = \"tokens.safetensors\"\n"
          "tensor = \"calib\"\n" +
              slicegpt + "[output]\npath = \"out\"\n");
    const Outcome run = kerf({"run", (folder / "few.toml").string()});
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_NE(run.err.find("32 calibration tokens span at most as many of the 64 directions"), std::string::npos)
        << run.err;
}

TEST(Sliced, ShortcutsHaveTheInputsDtypeWhateverTheStageBeforeKeeps) {
    const Tiny tiny{"llama-tiny", {}, 1};
    const fs::path recipe = tiny.recipe("[[stage]]\nmethod = \"wanda\"\n" + slicegpt);
    const Outcome planned = kerf({"plan", recipe.string(), "--json"}), run = kerf({"run", recipe.string()});
    ASSERT_EQ(planned.code, 0) << planned.err;
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(json::parse(planned.out)["output_bytes"].get<std::uint64_t>(),
              fs::file_size(tiny.folder / "out/model.safetensors"));
}

TEST(Sliced, BadInputIsOneSentenceAndNothingLeft) {
    const Tiny tiny{"llama-tiny", {}, 1};
    const auto refused = [&](const std::string& stage, const std::string& says, const std::string& more = "") {
        const Outcome run = kerf({"run", tiny.recipe(stage, "out", "", more).string()});
        EXPECT_EQ(run.code, 2) << stage << run.err;
        EXPECT_NE(run.err.find(says), std::string::npos) << stage << run.err;
        EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
        EXPECT_FALSE(fs::exists(tiny.folder / "out")) << stage;
        EXPECT_FALSE(fs::exists(tiny.folder / "out.partial")) << stage;
    };
    const std::string stage = "[[stage]]\nmethod = \"slicegpt\"\n";
    refused(stage + "sparsity = 1.0\n", "sparsity = 1");
    refused(stage + "sparsity = -0.1\n", "sparsity = -0.1");
    refused(stage + "sparsity = nan\n", "sparsity");
    refused(stage + "round_interval = 0\n", "round_interval");
    refused(stage + "round_interval = 512\n", "round_interval = 512");
    refused(stage + "round_interval = 9223372036854775807\n", "round_interval = 9223372036854775807");
    refused(stage + "sparsity = 0.99\n", "nothing would be left of the 256 features");
    refused(stage + "scheduler = \"budget\"\nsparsity = 0.99\n", "cannot be reached by slicing");
    refused(stage + "scheduler = \"energy\"\nenergy = 0.0\n", "energy");
    refused(stage + "basis = \"shared\"\nscheduler = \"linear\"\n", "linear");
    refused(stage + "result = \"zeroed\"\n", "result = \"zeroed\" goes with methods that remove structures");
    refused(stage + "include = [\"*\"]\n", "include");
    refused(gptq + slicegpt, "put slicegpt first");
    refused(slicegpt + slicegpt, "is sliced already");
    refused(stage, "integer codes", "format = \"gptq\"\n");
}

}  // namespace
}  // namespace kerf::e2e
