// SPDX-License-Identifier: Apache-2.0
#include "host/recipe.hpp"

#include <gtest/gtest.h>

#include "core/support/error.hpp"
#include "host/settings.hpp"

namespace kerf::host {
namespace {

using core::Recipe;

constexpr auto smallest = R"([model]
path = "models/tiny"
[output]
path = "out"
)";

constexpr auto whole = R"([model]
path = "models/tiny"
compute_dtype = "bfloat16"
memory = "6GiB"

[calibration]
source = "tokens"
path = "data/tokens.safetensors"
tensor = "calib"
samples = 64
seed = 7

[[stage]]
method = "magnitude"
version = ">=1.0"
pattern = "2:4"
include = ["model.layers.*"]
exclude = ["*.down_proj", "lm_head"]
sequential = "none"

[[stage]]
method = "gptq"
bits = 4
damp = 0.02
sym = true
[stage.calibration]
path = "/data/other.txt"
length = 256
[stage.override."model.layers.3.*"]
bits = 8
[stage.override."*.o_proj"]
bits = 2
damp = 0.1

[evaluation]
before = false
kl = true
perplexity = [{ name = "a", path = "a.txt", length = 128 }, { path = "../b.jsonl", source = "jsonl", field = "body", samples = 5 }]

[output]
path = "out/x/"
format = "gptq"
dtype = "float16"
overwrite = true
shard_size = "1MB"
)";

Recipe parse(std::string_view text, const RecipeChanges& changes = {}) {
    return parse_recipe(text, "folder/recipe.toml", changes);
}

/// What parse_recipe says to a recipe; empty when it takes it.
std::string refusal(std::string_view text, const RecipeChanges& changes = {}) {
    try {
        parse(text, changes);
    } catch (const core::Error& error) {
        EXPECT_EQ(error.fault(), core::Fault::input);
        return error.what();
    }
    return {};
}

TEST(Recipe, DefaultsAreThoseOfTheInterface) {
    const Recipe recipe = parse(smallest);
    EXPECT_EQ(recipe.model.path, "folder/models/tiny");
    EXPECT_EQ(recipe.model.compute, core::DType::f32);
    EXPECT_EQ(recipe.model.memory_budget, 0u);
    EXPECT_FALSE(recipe.calibration);
    EXPECT_TRUE(recipe.stages.empty());
    EXPECT_TRUE(recipe.evaluation.before);
    EXPECT_FALSE(recipe.evaluation.kl);
    EXPECT_EQ(recipe.output.path, "folder/out");
    EXPECT_EQ(recipe.output.format, "hf");
    EXPECT_FALSE(recipe.output.dtype);
    EXPECT_FALSE(recipe.output.overwrite);
}

TEST(Recipe, EveryKeyOfModelCalibrationAndOutputIsRead) {
    const Recipe recipe = parse(whole);
    EXPECT_EQ(recipe.model.compute, core::DType::bf16);
    EXPECT_EQ(recipe.model.memory_budget, 6ull << 30);
    ASSERT_TRUE(recipe.calibration);
    EXPECT_EQ(recipe.calibration->source, "tokens");
    EXPECT_EQ(recipe.calibration->path, "folder/data/tokens.safetensors");
    EXPECT_EQ(recipe.calibration->tensor, "calib");
    EXPECT_EQ(recipe.calibration->samples, 64);
    EXPECT_EQ(recipe.calibration->length, 0) << "stored windows keep their length";
    EXPECT_EQ(recipe.calibration->seed, 7u);
    EXPECT_EQ(recipe.output.path, "folder/out/x");
    EXPECT_EQ(recipe.output.format, "gptq");
    EXPECT_EQ(recipe.output.dtype, core::DType::f16);
    EXPECT_TRUE(recipe.output.overwrite);
    EXPECT_EQ(recipe.output.shard_bytes, 1'000'000u);
}

TEST(Recipe, EveryKeyOfAStageIsRead) {
    const Recipe recipe = parse(whole);
    ASSERT_EQ(recipe.stages.size(), 2u);
    const auto& first = recipe.stages[0];
    EXPECT_EQ(first.method, "magnitude");
    EXPECT_EQ(first.version, ">=1.0");
    EXPECT_EQ(first.options, nlohmann::json({{"pattern", "2:4"}}));
    EXPECT_EQ(first.include, std::vector<std::string>{"model.layers.*"});
    EXPECT_EQ(first.exclude, (std::vector<std::string>{"*.down_proj", "lm_head"}));
    EXPECT_EQ(first.sequential, core::Sequential::none);
    EXPECT_FALSE(first.calibration);
    EXPECT_EQ(first.location, "folder/recipe.toml:13:1");

    const auto& second = recipe.stages[1];
    EXPECT_EQ(second.options, nlohmann::json({{"bits", 4}, {"damp", 0.02}, {"sym", true}}));
    EXPECT_EQ(second.sequential, core::Sequential::group);
    EXPECT_EQ(second.where.at("bits"), "folder/recipe.toml:23:8");
    ASSERT_TRUE(second.calibration);
    EXPECT_EQ(second.calibration->path, "/data/other.txt");
    EXPECT_EQ(second.calibration->length, 256);
}

TEST(Recipe, OverridesStayInTheOrderOfTheFile) {
    const Recipe recipe = parse(whole);
    const auto& overrides = recipe.stages[1].overrides;
    ASSERT_EQ(overrides.size(), 2u);
    EXPECT_EQ(overrides[0].first, "model.layers.3.*");
    EXPECT_EQ(overrides[0].second, nlohmann::json({{"bits", 8}}));
    EXPECT_EQ(overrides[1].first, "*.o_proj");
    EXPECT_EQ(overrides[1].second, nlohmann::json({{"bits", 2}, {"damp", 0.1}}));
    EXPECT_EQ(recipe.stages[1].where.at("override.\"*.o_proj\".bits"), "folder/recipe.toml:32:8");
}

TEST(Recipe, EvaluationTextsTakeAllWindowsAndTheNameOfTheirFileUnlessToldOtherwise) {
    const auto evaluation = parse(whole).evaluation;
    EXPECT_FALSE(evaluation.before);
    EXPECT_TRUE(evaluation.kl);
    ASSERT_EQ(evaluation.perplexity.size(), 2u);
    EXPECT_EQ(evaluation.perplexity[0].name, "a");
    EXPECT_EQ(evaluation.perplexity[0].text.samples, 0);
    EXPECT_EQ(evaluation.perplexity[0].text.length, 128);
    EXPECT_EQ(evaluation.perplexity[1].name, "b");
    EXPECT_EQ(evaluation.perplexity[1].text.path, "b.jsonl");
    EXPECT_EQ(evaluation.perplexity[1].text.field, "body");
    EXPECT_EQ(evaluation.perplexity[1].text.length, 2048);
}

TEST(Recipe, ItsCanonicalTextReadsBackToItself) {
    const Recipe recipe = parse(whole);
    EXPECT_EQ(parse(recipe.text).text, recipe.text);
    EXPECT_EQ(parse(recipe.text).stages[1].options, recipe.stages[1].options);
}

TEST(Recipe, OrderAndCommentsDoNotChangeTheCanonicalText) {
    const auto other = "# a comment\n[output]\npath = 'out'\n\n[model]\npath = \"models/tiny\" # tiny\n";
    EXPECT_EQ(parse(other).text, parse(smallest).text);
}

struct BadRecipe {
    std::string text, message;
};

class BadRecipes : public testing::TestWithParam<BadRecipe> {};

TEST_P(BadRecipes, AreRefusedWithTheirPlace) {
    EXPECT_EQ(refusal(GetParam().text), "folder/recipe.toml" + GetParam().message);
}

std::string with(const std::string& lines) {
    return smallest + lines;
}
std::string stage(const std::string& lines) {
    return smallest + ("[[stage]]\nmethod = \"gptq\"\n" + lines);
}

INSTANTIATE_TEST_SUITE_P(
    Structure, BadRecipes,
    testing::Values(
        BadRecipe{"", ": the table [model] with a path is missing"},
        BadRecipe{"[model]\npath = \"m\"\n", ": the table [output] with a path is missing"},
        BadRecipe{"[model]\n", ":1:1: model.path is missing"},
        BadRecipe{"[model]\npath = \"\"", ":2:8: model.path must not be empty"},
        BadRecipe{"model = 3", ":1:9: model must be a table, not a whole number"},
        BadRecipe{"[model]\npath = 3", ":2:8: model.path must be a text, not a whole number"},
        BadRecipe{with("[calibraton]\n"),
                  ":5:2: unknown key \"calibraton\" in the recipe; did you mean \"calibration\"?"},
        BadRecipe{"[model]\npath = \"m\"\nzzzzzz = 1\n",
                  ":3:1: unknown key \"zzzzzz\" in model; known: path, device, compute_dtype, memory"},
        BadRecipe{with("[stage]\nmethod = \"gptq\""),
                  ":5:1: stage must be a list of tables, each under a header [[stage]], not a table"},
        BadRecipe{with("[[stage]]\nbits = 3"), ":5:1: stage.0.method is missing"},
        BadRecipe{stage("include = \"*\""), ":7:11: stage.0.include must be a list of texts, not a text"},
        BadRecipe{stage("include = [\"a\", 1]"),
                  ":7:17: stage.0.include must be a list of texts; it holds a whole number"},
        BadRecipe{
            stage("sequential = \"blok\""),
            ":7:14: stage.0.sequential = \"blok\" is not one of linear, group, block, none, shared; did you mean \"block\"?"},
        BadRecipe{stage("version = \"new\""),
                  ":7:11: stage.0.version = \"new\" is not a version; write it as in \">=1.0\" or \"1.2.3\""},
        BadRecipe{stage("since = 2024-01-01"),
                  ":7:9: dates and times are not values of an option; write a text in quotes"},
        BadRecipe{stage("override = 1"), ":7:12: stage.0.override must be a table, not a whole number"}));

INSTANTIATE_TEST_SUITE_P(
    Values, BadRecipes,
    testing::Values(
        BadRecipe{with("[calibration]\npath = \"x\"\nsamples = -1"),
                  ":7:11: calibration.samples = -1 is out of range: it must be at least 0"},
        BadRecipe{with("[calibration]\npath = \"x\"\nlength = 0"),
                  ":7:10: calibration.length = 0 is out of range: it must be at least 1"},
        BadRecipe{with("[calibration]\npath = \"x\"\nlength = 1.5"),
                  ":7:10: calibration.length must be a whole number, not a number with a fraction"},
        BadRecipe{with("[calibration]\nsource = \"tokens\"\npath = \"x\""), ":5:1: calibration.tensor is missing"},
        BadRecipe{with("[calibration]\npath = \"x\"\ntensor = \"t\""),
                  ":7:10: calibration.tensor goes with source = \"tokens\" alone"},
        BadRecipe{with("[calibration]\nsource = \"txt\"\npath = \"x\""),
                  ":6:10: calibration.source = \"txt\" is not one of text, jsonl, json, c4, alpaca, tokens; did you "
                  "mean \"text\"?"},
        BadRecipe{with("[evaluation]\nkl = true"),
                  ":6:6: evaluation.kl = true needs a text to compare on; add one to evaluation.perplexity"},
        BadRecipe{with("[evaluation]\nperplexity = [{path = \"a/x\"}, {path = \"b/x\", name = \"x\"}]"),
                  ":6:53: evaluation.perplexity.1.name = \"x\" is there already; give each text a name of its own"},
        BadRecipe{with("format = \"gguf\""),
                  ":5:10: output.format = \"gguf\" is not one of hf, gptq, compressed-tensors, spqr, kerf"},
        BadRecipe{with("overwrite = \"yes\""), ":5:13: output.overwrite must be true or false, not a text"},
        BadRecipe{with("shard_size = 0"), ":5:14: output.shard_size = 0 is out of range: it must be at least 1"},
        BadRecipe{"[model]\npath = \"m\"\nmemory = \"much\"",
                  ":3:10: model.memory: \"much\" is not a size; write it as in \"6GiB\" or \"512MiB\""},
        BadRecipe{"[model]\npath = \"m\"\ndevice = \"tpu\"",
                  ":3:10: model.device = \"tpu\" is not a device; use \"cpu\""}));

INSTANTIATE_TEST_SUITE_P(
    NotInThisVersion, BadRecipes,
    testing::Values(BadRecipe{"[model]\npath = \"m\"\ndevice = \"cuda:1\"",
                              ":3:10: model.device = \"cuda:1\" is not available in this version; use \"cpu\""},
                    BadRecipe{with("[evaluation]\ntasks = [\"piqa\"]"),
                              ":6:9: evaluation.tasks is not available in this version; leave it out"},
                    BadRecipe{with("[evaluation]\ngenerate = [\"Once\"]"),
                              ":6:12: evaluation.generate is not available in this version; leave it out"},
                    BadRecipe{
                        with("format = \"spqr\""),
                        ":5:10: output.format = \"spqr\" is not available in this version; use \"hf\" or \"gptq\""}));

TEST(Recipe, FaultsOfSyntaxNameLineAndColumn) {
    const auto message = refusal("[model]\npath = \"m\n");
    EXPECT_TRUE(message.starts_with("folder/recipe.toml:2:10: not valid TOML: ")) << message;
}

TEST(Recipe, TheExamplesInDocsAreGood) {
    int examples = 0;
    for (const auto& entry : std::filesystem::directory_iterator(KERF_SOURCE "/docs/recipes")) {
        const Recipe recipe = read_recipe(entry.path());
        EXPECT_TRUE(std::filesystem::exists(recipe.model.path / "config.json")) << entry.path();
        EXPECT_FALSE(recipe.stages.empty()) << entry.path();
        for (const auto& spec : recipe.evaluation.perplexity)
            EXPECT_TRUE(std::filesystem::exists(spec.text.path)) << entry.path();
        ++examples;
    }
    EXPECT_GE(examples, 4);
}

TEST(Recipe, AMissingFileIsBadInput) {
    try {
        read_recipe("no/such/recipe.toml");
        FAIL() << "read a file that is not there";
    } catch (const core::Error& error) {
        EXPECT_EQ(error.fault(), core::Fault::input);
        EXPECT_NE(std::string(error.what()).find("no/such/recipe.toml"), std::string::npos);
    }
}

TEST(Settings, ReachEveryPartOfARecipe) {
    const Recipe recipe =
        parse(whole, {{"stage.1.bits=3", "stage.1.damp=5e-3", "stage.1.sym=false", "stage.0.include=[\"a*\", \"b,c\"]",
                       "model.memory=512MiB", "evaluation.perplexity.0.samples=9", "output.path=else/where",
                       "stage.1.override.\"model.layers.3.*\".bits=6", "stage.1.override.\"*.q=x\".bits=5"},
                      "",
                      ""});
    EXPECT_EQ(recipe.stages[1].options, nlohmann::json({{"bits", 3}, {"damp", 0.005}, {"sym", false}}));
    EXPECT_EQ(recipe.stages[0].include, (std::vector<std::string>{"a*", "b,c"}));
    EXPECT_EQ(recipe.model.memory_budget, 512ull << 20);
    EXPECT_EQ(recipe.evaluation.perplexity[0].text.samples, 9);
    EXPECT_EQ(recipe.output.path, "folder/else/where");
    ASSERT_EQ(recipe.stages[1].overrides.size(), 3u);
    EXPECT_EQ(recipe.stages[1].overrides[0].second, nlohmann::json({{"bits", 6}}));
    EXPECT_EQ(recipe.stages[1].overrides[2].first, "*.q=x") << "what --set adds comes last";
}

TEST(Settings, MakeTheTablesOnTheirWay) {
    const Recipe recipe = parse(smallest, {{"calibration.path=text.txt", "stage=[{method = \"rtn\"}]"}, "", ""});
    ASSERT_TRUE(recipe.calibration);
    EXPECT_EQ(recipe.calibration->path, "folder/text.txt");
    ASSERT_EQ(recipe.stages.size(), 1u);
    EXPECT_EQ(recipe.stages[0].method, "rtn");
}

TEST(Settings, AreWhatAComplaintAboutThemNames) {
    EXPECT_EQ(parse(whole, {{"stage.1.bits=3"}, "", ""}).stages[1].where.at("bits"), "--set stage.1.bits=3");
    const auto complaint = [](const std::string& setting) { return refusal(whole, {{setting}, "", ""}); };
    EXPECT_EQ(complaint("model.device=tpu"),
              "--set model.device=tpu: model.device = \"tpu\" is not a device; use \"cpu\"");
    EXPECT_EQ(complaint("model.pth=x"), "--set model.pth=x: unknown key \"pth\" in model; did you mean \"path\"?");
    EXPECT_EQ(complaint("stage.2.bits=3"),
              "--set stage.2.bits=3: there is no element 2; the list has 2, counted from 0");
    EXPECT_EQ(complaint("stage.x.bits=3"),
              "--set stage.x.bits=3: \"x\" should be the number of a list element, counted from 0");
    EXPECT_EQ(complaint("model.path.x=3"), "--set model.path.x=3: the path leads through a text, which has no parts");
    EXPECT_EQ(complaint("bits"), "--set bits: KEY=VALUE is expected, as in --set stage.0.bits=3");
    EXPECT_EQ(complaint("stage..bits=1"),
              "--set stage..bits=1: the key has an empty part; write it as in stage.0.bits=3");
    EXPECT_TRUE(complaint("stage.0.include=[1").starts_with("--set stage.0.include=[1: the value is not valid TOML: "));
}

TEST(Settings, OneValueCannotBringFurtherKeys) {
    const Recipe recipe = parse(whole, {{"stage.1.note=a\nmethod = \"rtn\""}, "", ""});
    EXPECT_EQ(recipe.stages[1].method, "gptq");
    EXPECT_EQ(recipe.stages[1].options["note"], "a\nmethod = \"rtn\"");
}

TEST(Settings, OutputAndMemoryOfTheCommandLineComeBeforeTheRecipes) {
    const Recipe recipe = parse(whole, {{}, "here/", "2GiB"});
    EXPECT_EQ(recipe.output.path, std::filesystem::current_path() / "here");
    EXPECT_EQ(recipe.model.memory_budget, 2ull << 30);
    EXPECT_EQ(refusal(smallest, {{}, "", "x"}),
              "--memory: model.memory: \"x\" is not a size; write it as in \"6GiB\" or \"512MiB\"");
    EXPECT_EQ(refusal("[model]\npath = \"m\"", {{}, "out", ""}), "") << "no [output] is needed beside --output";
}

}  // namespace
}  // namespace kerf::host
