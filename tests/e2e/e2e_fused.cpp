// SPDX-License-Identifier: Apache-2.0
// Stages that go through the blocks together, through the kerf command.
#include "core/support/text.hpp"
#include "tests/e2e/small_run.hpp"

namespace kerf::e2e {
namespace {

using nlohmann::json;

const std::string gptq = "[[stage]]\nmethod = \"gptq\"\nbits = 4\ngroup_size = 32\n",
                  rtn = "[[stage]]\nmethod = \"rtn\"\nbits = 4\ngroup_size = 32\n",
                  slimgpt = "[[stage]]\nmethod = \"slimgpt\"\nsparsity = 0.25\n",
                  sparsegpt = "[[stage]]\nmethod = \"sparsegpt\"\npattern = \"2:4\"\n",
                  magnitude = "[[stage]]\nmethod = \"magnitude_structured\"\nsparsity = 0.25\n";

/// A recipe over `model`, a path, with four calibration windows of llama-tiny.
Outcome run(const Folder& folder, const std::string& stages, const std::string& output, const fs::path& model,
            const std::vector<std::string>& more = {}) {
    const fs::path file = folder / (output + ".toml");
    spill(file, core::text("[model]\npath = \"", model.string(), "\"\n[calibration]\nsource = \"tokens\"\npath = \"",
                           KERF_TEST_DATA,
                           "/golden/tokens-llama-tiny.safetensors\"\ntensor = \"calib\"\nsamples = 4\nlength = 0\n",
                           stages, "[output]\npath = \"", output, "\"\ndtype = \"float32\"\n"));
    std::vector<std::string> arguments{"run", file.string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return kerf(arguments);
}

const fs::path llama_tiny = KERF_TEST_DATA "/models/llama-tiny";

std::string weights(const fs::path& folder) {
    return slurp(folder / "model.safetensors");
}
json report_of(const fs::path& folder) {
    return json::parse(slurp(folder / "report.json"));
}

struct Pair {
    std::string first, second;
    std::vector<int> block_runs;  ///< of the two stages, of 4 blocks
};

class FusedStages : public testing::TestWithParam<Pair> {};

TEST_P(FusedStages, AreTwoRecipesByteForByte) {
    const auto& [first, second, block_runs] = GetParam();
    const Folder folder;
    for (const auto& [stages, output, model] : {std::tuple{first + second, "both", llama_tiny},
                                                {first, "first", llama_tiny},
                                                {second, "second", folder / "first"}}) {
        const Outcome made = run(folder, stages, output, model);
        ASSERT_EQ(made.code, 0) << made.err;
    }
    EXPECT_TRUE(weights(folder / "both") == weights(folder / "second"));
    const json report = report_of(folder / "both");
    for (std::size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(report["stages"][i]["forward"]["block_runs"], block_runs[i]) << i;
        EXPECT_EQ(report["stages"][i]["pass"], 0) << i;
    }
    EXPECT_EQ(report["forward"]["block_runs"], block_runs[0] + block_runs[1]);
    EXPECT_DOUBLE_EQ(report["forward"]["passes"], double(block_runs[0] + block_runs[1]) / 4);
    EXPECT_NE(slurp(folder / "both/report.html").find("runs of a block)") != std::string::npos,
              block_runs[0] + block_runs[1] == 0);
}

INSTANTIATE_TEST_SUITE_P(LlamaTiny, FusedStages,
                         testing::Values(Pair{slimgpt, gptq, {4, 4}}, Pair{slimgpt, rtn, {4, 0}},
                                         Pair{magnitude, rtn, {0, 0}}, Pair{magnitude, gptq, {0, 4}},
                                         Pair{sparsegpt, gptq, {4, 4}}),
                         [](const auto& info) { return core::text("Pair", info.index); });

/// Two windows of llama-tiny to evaluate on.
const std::string evaluation =
    core::text("[evaluation]\nbefore = false\nperplexity = [{ name = \"w\", source = \"tokens\", path = \"",
               KERF_TEST_DATA, "/golden/tokens-llama-tiny.safetensors\", tensor = \"eval\", samples = 2 }]\n");

/// Lines of metrics.jsonl that are of this event.
std::vector<json> events(const fs::path& folder, const std::string& event) {
    std::vector<json> out;
    std::istringstream lines(slurp(folder / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);)
        if (json read = json::parse(line); read["event"] == event) out.push_back(std::move(read));
    return out;
}

TEST(BetweenStages, ThePerplexityIsThatOfTheFirstRecipeAlone) {
    const Folder folder;
    for (const auto& [stages, output] : {std::pair{slimgpt + gptq, "both"}, {slimgpt, "first"}}) {
        const Outcome made = run(folder, stages + evaluation, output, llama_tiny);
        ASSERT_EQ(made.code, 0) << made.err;
    }
    const json both = report_of(folder / "both"), first = report_of(folder / "first");
    const json& between = both["stages"][0];
    EXPECT_EQ(between["perplexity"], first["after"]["perplexity"]);
    EXPECT_EQ(between["bytes"], first["bytes"]["after"]);
    EXPECT_EQ(both["stages"][1]["bytes"], both["bytes"]["after"]);
    EXPECT_FALSE(both["stages"][1].contains("perplexity")) << "that is the run's";
    EXPECT_NE(slurp(folder / "both/report.html").find("after slimgpt"), std::string::npos);

    const auto evaluated = events(folder / "both", "evaluated");
    ASSERT_EQ(evaluated.size(), 2u);
    EXPECT_EQ(evaluated[0]["value"], between["perplexity"]["w"]["value"]);
    EXPECT_EQ(evaluated[1]["value"], both["after"]["perplexity"]["w"]["value"]);
    EXPECT_EQ(events(folder / "both", "linear").size(), 8u + 28u) << "o and down of 4 blocks, then all linears";
    EXPECT_EQ(events(folder / "both", "stage").size(), 2u);
    EXPECT_EQ(events(folder / "both", "finished").size(), 1u);
}

TEST(BetweenStages, NothingIsMeasuredWhereTheRecipeSaysSo) {
    const Folder folder;
    const Outcome made = run(folder, magnitude + rtn + evaluation + "between = false\n", "out", llama_tiny);
    ASSERT_EQ(made.code, 0) << made.err;
    EXPECT_FALSE(report_of(folder / "out")["stages"][0].contains("perplexity"));
    EXPECT_EQ(events(folder / "out", "evaluated").size(), 1u);
}

TEST(SharedGrams, OfAStageThatKeepsShapesAreThoseOfAPassOfTheirOwn) {
    const Folder folder;
    for (const auto& [stages, output, model] :
         {std::tuple{sparsegpt + gptq + "sequential = \"shared\"\n", "shared", llama_tiny},
          {sparsegpt, "first", llama_tiny},
          {gptq + "sequential = \"none\"\n", "second", folder / "first"}}) {
        const Outcome made = run(folder, stages, output, model);
        ASSERT_EQ(made.code, 0) << made.err;
    }
    EXPECT_TRUE(weights(folder / "shared") == weights(folder / "second"));
    const json report = report_of(folder / "shared");
    EXPECT_EQ(report["forward"]["block_runs"], 4);
    EXPECT_EQ(report["stages"][1]["shares_grams"], true);
}

TEST(SharedGrams, OfAPrunerAreThoseOfThePrunedModel) {
    const Folder folder;
    for (const auto& [output, mode] : {std::pair{"shared", "shared"}, {"alone", "none"}}) {
        const Outcome made =
            run(folder, slimgpt + gptq + core::text("sequential = \"", mode, "\"\n"), output, llama_tiny);
        ASSERT_EQ(made.code, 0) << made.err;
    }
    const json shared = report_of(folder / "shared"), alone = report_of(folder / "alone");
    EXPECT_EQ(shared["forward"]["block_runs"], 4);
    EXPECT_EQ(alone["forward"]["block_runs"], 8);
    const json &ours = shared["stages"][1]["linears"], &theirs = alone["stages"][1]["linears"];
    ASSERT_EQ(ours.size(), 28u);
    ASSERT_EQ(theirs.size(), 28u);
    for (std::size_t i = 0; i < ours.size(); ++i) {
        ASSERT_EQ(ours[i]["name"], theirs[i]["name"]);
        ASSERT_EQ(ours[i]["shape"], theirs[i]["shape"]);
        // The same matrices up to the rounding of float32 sums; a weight that is rounded the other way shows a little.
        EXPECT_NEAR(ours[i]["error"].get<double>(), theirs[i]["error"].get<double>(),
                    0.02 * theirs[i]["error"].get<double>())
            << ours[i]["name"];
    }
}

TEST(SharedGrams, ResumeGivesTheSameBytes) {
    const Small small;
    const fs::path recipe = small.recipe(slimgpt + gptq + "sequential = \"shared\"\n");
    survives_kills(recipe, small.folder / "out", every(2, 7), [&](long k) {
        EXPECT_EQ(report_of(small.folder / "out")["forward"]["block_runs"], 2) << "killed at " << k;
    });
}

TEST(SharedGrams, ThatThereAreNotAreRefused) {
    const Small small;
    const std::string shared = "sequential = \"shared\"\n";
    const auto refused = [&](const std::string& stages, const std::string& says) {
        const Outcome run = kerf({"run", small.recipe(stages).string()});
        EXPECT_EQ(run.code, 2) << stages << run.err;
        EXPECT_NE(run.err.find(says), std::string::npos) << stages << run.err;
        EXPECT_FALSE(fs::exists(small.folder / "out")) << stages;
    };
    refused(gptq + shared, "this is the first one");
    refused(magnitude + gptq + shared, "collects none");
    refused(slimgpt + rtn + shared, "nothing to share");
    refused(slimgpt + gptq + shared +
                "[stage.calibration]\nsource = \"tokens\"\npath = \"tokens.safetensors\"\ntensor = \"calib\"\n",
            "goes with the calibration of the stage before");
}

}  // namespace
}  // namespace kerf::e2e
