// SPDX-License-Identifier: Apache-2.0
// Structured pruning through the kerf command on a small random model.
#include "core/support/text.hpp"
#include "core/weights/checkpoint.hpp"
#include "core/weights/tensor_file.hpp"
#include "tests/e2e/small_run.hpp"

namespace kerf::e2e {
namespace {

using nlohmann::json;

const std::string slimgpt = "[[stage]]\nmethod = \"slimgpt\"\nsparsity = 0.5\n";
const std::string by_error = "[[stage]]\nmethod = \"slimgpt\"\nschedule = \"error\"\nbudget = 0.4\n";
const std::string gptq = "[[stage]]\nmethod = \"gptq\"\nbits = 4\ngroup_size = 32\n";

std::string weights(const fs::path& folder) {
    return slurp(folder / "model.safetensors");
}

TEST(Structured, OutputHasExactlyThePlannedSizeAndParameters) {
    const Small small;
    const fs::path recipe = small.recipe(slimgpt);
    const Outcome planned = kerf({"plan", recipe.string(), "--json"});
    ASSERT_EQ(planned.code, 0) << planned.err;
    const json plan = json::parse(planned.out);
    const Outcome run = kerf({"run", recipe.string()});
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(plan["output_bytes"].get<std::uint64_t>(), fs::file_size(small.folder / "out/model.safetensors"));
    const json report = json::parse(slurp(small.folder / "out/report.json"));
    EXPECT_EQ(plan["parameters"]["after"], report["parameters"]["after"]);
    // Half of the attention and of the MLP of each block: 64·64·1.5·… = (2·64·64 + 2·64·32 + 3·64·96) / 2.
    EXPECT_EQ(plan["parameters"]["before"].get<int>() - plan["parameters"]["after"].get<int>(),
              2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96) / 2);
    const json config = json::parse(slurp(small.folder / "out/config.json"));
    EXPECT_EQ(config["model_type"], "llama") << "equal widths: the family's own class takes them";
    EXPECT_EQ(config["intermediate_size"], 48);
    EXPECT_EQ(config["num_attention_heads"], 2);
    EXPECT_EQ(config["num_key_value_heads"], 1);
}

TEST(Structured, ResumeGivesTheSameBytesWherePlacesAreSampled) {
    const Small small;
    const fs::path recipe = small.recipe(slimgpt + gptq);
    survives_kills(recipe, small.folder / "out", every(3, 11));
}

TEST(Structured, ThreadsDoNotChangeAByte) {
    const Small small(9, 96);
    const fs::path recipe = small.recipe(slimgpt);
    std::string first;
    for (const char* threads : {"1", "3"}) {
        fs::remove_all(small.folder / "out");
        const Outcome run = kerf({"run", recipe.string(), "--threads", threads});
        ASSERT_EQ(run.code, 0) << run.err;
        if (first.empty()) first = weights(small.folder / "out");
        EXPECT_EQ(weights(small.folder / "out"), first) << threads;
    }
}

TEST(Structured, TwoStagesOfOneRecipeAreTwoRecipes) {
    const Small small;
    for (const auto& [stages, output, model] :
         {std::tuple{slimgpt + gptq, "both", "model"}, {slimgpt, "first", "model"}, {gptq, "second", "first"}}) {
        const Outcome run = kerf({"run", small.recipe(stages, output, model).string()});
        ASSERT_EQ(run.code, 0) << run.err;
    }
    EXPECT_EQ(weights(small.folder / "both"), weights(small.folder / "second"));
}

TEST(Structured, OverridesMakeWidthsThatDifferAndTheOutputOpensAgain) {
    const Small small;
    const std::string stage = slimgpt + "[stage.override.\"model.layers.1\"]\nsparsity = 0.25\n";
    const Outcome run = kerf({"run", small.recipe(stage).string()});
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(json::parse(slurp(small.folder / "out/config.json"))["model_type"], "kerf");
    const Outcome next = kerf({"run", small.recipe(gptq, "next", "out").string()});
    EXPECT_EQ(next.code, 0) << next.err;
}

TEST(Structured, ZeroedResultKeepsShapesAndHasZeroColumns) {
    const Small small;
    const Outcome run = kerf({"run", small.recipe(slimgpt + "result = \"zeroed\"\n").string()});
    ASSERT_EQ(run.code, 0) << run.err;
    const auto file = core::open_safetensors(small.folder / "out/model.safetensors");
    const auto& tensor = *file->find("model.layers.0.mlp.down_proj.weight");
    ASSERT_EQ(tensor.shape, (std::vector<std::int64_t>{64, 96}));
    std::vector<float> values(std::size_t(tensor.elements()));
    core::to_float32(tensor, values);
    int zero = 0;
    for (std::size_t c = 0; c < 96; ++c) {
        bool all = true;
        for (std::size_t r = 0; r < 64; ++r) all = all && values[r * 96 + c] == 0;
        zero += all;
    }
    EXPECT_EQ(zero, 48);
}

TEST(Structured, BaselinesRunWithoutDataAndWithRefit) {
    const Small small;
    for (const char* method : {"magnitude_structured", "random_structured"})
        for (const char* refit : {"", "refit = true\n"}) {
            fs::remove_all(small.folder / "out");
            const Outcome run = kerf(
                {"run",
                 small.recipe(core::text("[[stage]]\nmethod = \"", method, "\"\nsparsity = 0.5\n", refit)).string()});
            EXPECT_EQ(run.code, 0) << method << refit << run.err;
        }
}

TEST(Structured, OneUnitStaysWhateverTheShare) {
    const Small small;
    const Outcome run = kerf({"run", small.recipe("[[stage]]\nmethod = \"slimgpt\"\nsparsity = 0.999\n").string()});
    ASSERT_EQ(run.code, 0) << run.err;
    const json axes = json::parse(slurp(small.folder / "out/report.json"))["stages"][0]["axes"];
    for (const auto& axis : axes) EXPECT_EQ(axis["removed"].size() + 1, axis["units"].get<std::size_t>()) << axis;
}

TEST(Structured, TheOnlyHeadStaysAndThePlanSaysWhatGoes) {
    const Small small;
    make_tiny_model(small.folder / "one-head", {.heads = 1, .kv_heads = 1});
    const fs::path recipe = small.recipe(slimgpt, "out", "one-head");
    const Outcome planned = kerf({"plan", recipe.string()}), run = kerf({"run", recipe.string()});
    ASSERT_EQ(planned.code, 0) << planned.err;
    ASSERT_EQ(run.code, 0) << run.err;
    for (const auto* text : {&planned.out, &run.out}) {
        EXPECT_NE(text->find("0 of 2 heads (0 %)"), std::string::npos) << *text;
        EXPECT_NE(text->find("96 of 192 MLP channels (50 %)"), std::string::npos) << *text;
    }
}

TEST(Structured, TooFewTokensForTheRankAreAWarningWithNumbers) {
    const Small small(1, 32);
    const Outcome run = kerf({"run", small.recipe(slimgpt).string()});
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_NE(run.err.find("32 calibration tokens for 96 features"), std::string::npos) << run.err;
}

TEST(Structured, AttentionOfOneHeadIsAClearErrorWhenNothingElseMayGo) {
    const Small small;
    const auto run = [&](const std::string& options, const std::string& from, const std::string& to) {
        return kerf(
            {"run",
             small.recipe("[[stage]]\nmethod = \"slimgpt\"\nmodules = \"attn\"\n" + options, to, from).string()});
    };
    // 2 KV groups of 2 heads, 1 group of 2, 1 head.
    ASSERT_EQ(run("sparsity = 0.5\n", "model", "one").code, 0);
    ASSERT_EQ(run("sparsity = 0.5\n", "one", "two").code, 0);
    const Outcome refused = run("sparsity = 0.5\n", "two", "three");
    EXPECT_EQ(refused.code, 2) << refused.err;
    EXPECT_NE(refused.err.find("every attention of the model has one unit left"), std::string::npos) << refused.err;
    EXPECT_EQ(run("sparsity = 0.0\n", "two", "three").code, 0);
}

TEST(Structured, ASingularGramMatrixIsAnErrorWhenStrict) {
    const Small few(1, 32);
    const Outcome run =
        kerf({"run", few.recipe("[[stage]]\nmethod = \"slimgpt\"\ndamp = 0.0\nstrict = true\n").string()});
    EXPECT_EQ(run.code, 2) << run.err;
    EXPECT_NE(run.err.find("Gram matrix not positive definite at pivot"), std::string::npos) << run.err;
    EXPECT_NE(run.err.find("(32 calibration tokens) with damp = 0"), std::string::npos) << run.err;
    EXPECT_FALSE(fs::exists(few.folder / "out"));
}

TEST(Structured, ACutShareIsAWarningWithNumbers) {
    const Small small;
    const Outcome run = kerf({"run", small.recipe("[[stage]]\nmethod = \"slimgpt\"\nsparsity = 0.999\n").string()});
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_NE(run.err.find("a share of 0.999 would take 2 of 2 units, but 1 must stay; 1 go"), std::string::npos)
        << run.err;
}

TEST(Structured, ExpandedKeysLetAnyHeadGo) {
    const Small small;
    const fs::path recipe =
        small.recipe("[[stage]]\nmethod = \"slimgpt\"\nsparsity = 0.25\nmodules = \"attn\"\ngqa = \"expand\"\n");
    const Outcome planned = kerf({"plan", recipe.string(), "--json"}), run = kerf({"run", recipe.string()});
    ASSERT_EQ(planned.code, 0) << planned.err;
    ASSERT_EQ(run.code, 0) << run.err;
    const auto out = core::Checkpoint::open(small.folder / "out");
    for (const auto* part : {"q_proj", "k_proj", "v_proj"})  // three heads of 16, each with its own key and value
        EXPECT_EQ(out.at(core::text("model.layers.0.self_attn.", part, ".weight")).shape.front(), 48) << part;
    EXPECT_EQ(json::parse(planned.out)["output_bytes"].get<std::uint64_t>(),
              fs::file_size(small.folder / "out/model.safetensors"));
}

TEST(Structured, ADenseTargetResumesToTheSameBytes) {
    const Small small;
    const fs::path recipe =
        small.recipe("[[stage]]\nmethod = \"slimgpt\"\nsparsity = 0.5\ntarget = \"dense\"\nbeta = 0.5\n");
    survives_kills(recipe, small.folder / "out", [](long calls) {
        return std::vector{calls / 3, calls / 2, 3 * calls / 4};
    });
}

TEST(Structured, IncludeAndExcludeNameAxesOrBlocks) {
    const Small small;
    const auto removed = [&](const std::string& more) {
        const Outcome planned = kerf({"plan", small.recipe(slimgpt + more).string(), "--json"});
        EXPECT_EQ(planned.code, 0) << planned.err;
        const json plan = json::parse(planned.out);
        std::string out;
        for (const auto& axis : plan["stages"][0]["axes"])
            if (axis["removed"] > 0) out += axis["name"].get<std::string>() + " ";
        return out;
    };
    EXPECT_EQ(removed("exclude = [\"model.layers.0\", \"*.kv_groups\"]\n"), "model.layers.1.mlp ");
    EXPECT_EQ(removed("include = [\"model.layers.0\"]\nexclude = [\"*.mlp\"]\n"), "model.layers.0.kv_groups ");
}

TEST(Structured, WhatDoesNothingIsAWarning) {
    const Small small;
    const auto warns = [&](const std::string& stage, const std::string& says) {
        const Outcome plan = kerf({"plan", small.recipe(stage).string()});
        EXPECT_EQ(plan.code, 0) << plan.err;
        EXPECT_NE(plan.out.find("warning: stage 0 (slimgpt): " + says), std::string::npos) << plan.out;
        fs::remove_all(small.folder / "out");
        const Outcome run = kerf({"run", small.recipe(stage).string()});
        EXPECT_EQ(run.code, 0) << run.err;
        const json report = json::parse(slurp(small.folder / "out/report.json"));
        EXPECT_EQ(report["warnings"].size(), 1u) << report["warnings"];
        EXPECT_EQ(report["warnings"][0].get<std::string>().find("stage 0 (slimgpt): " + says), 0u)
            << report["warnings"];
    };
    warns(slimgpt + "beta = 0.5\n", "beta = 0.5 does nothing with target = \"current\"; it goes with dense");
    warns(slimgpt + "[stage.override.\"*.mlp\"]\nweight = 2\n",
          "override \"*.mlp\": weight = 2 does nothing with schedule = \"uniform\"; it goes with error");
    warns("[[stage]]\nmethod = \"slimgpt\"\nsparsity = 0.001\n", "its options take less than one unit of every axis");
}

TEST(Structured, ASurveySpendsTheBudgetThatThePlanSaysAboutHowToSpend) {
    const Small small;
    const fs::path recipe = small.recipe(by_error);
    const Outcome planned = kerf({"plan", recipe.string(), "--json"}), run = kerf({"run", recipe.string()});
    ASSERT_EQ(planned.code, 0) << planned.err;
    ASSERT_EQ(run.code, 0) << run.err;
    const json plan = json::parse(planned.out), report = json::parse(slurp(small.folder / "out/report.json"));
    EXPECT_FALSE(plan["exact"].get<bool>());
    for (const auto* forward : {&plan["stages"][0]["forward"], &report["stages"][0]["forward"]})
        EXPECT_EQ((*forward)["block_runs"], 4) << "two blocks, surveyed and pruned";
    EXPECT_LE(run.peak_bytes, plan["peak_bytes"].get<std::uint64_t>());
    // 2·64·64 + 2·64·32 + 3·64·96 in each block; a channel has 3·64.
    const int linears = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96);
    const int gone = report["parameters"]["before"].get<int>() - report["parameters"]["after"].get<int>();
    EXPECT_NEAR(gone, 0.4 * linears, 3 * 64);
    EXPECT_NEAR(plan["parameters"]["before"].get<int>() - plan["parameters"]["after"].get<int>(), 0.4 * linears,
                3 * 64);
    for (const auto& axis : report["stages"][0]["axes"]) EXPECT_GE(axis["cost"].get<double>(), 0) << axis;
}

TEST(Structured, ASurveyedStageIsFollowedInOnePassAndResumesToTheSameBytes) {
    const Small small;
    const std::string aligned = by_error + "align = 32\n";
    const fs::path recipe = small.recipe(aligned + gptq);
    // In the survey, between it and the pruning, and in either stage's blocks.
    survives_kills(recipe, small.folder / "out",
                   [](long calls) { return std::vector{2l, 3l, 4l, 5l, calls / 2, 3 * calls / 4}; });
    const json report = json::parse(slurp(small.folder / "out/report.json"));
    EXPECT_EQ(report["stages"][0]["pass"], report["stages"][1]["pass"]);
    for (const auto& [stages, output, model] : {std::tuple{aligned, "first", "model"}, {gptq, "second", "first"}}) {
        const Outcome run = kerf({"run", small.recipe(stages, output, model).string(), "--threads", "3"});
        ASSERT_EQ(run.code, 0) << run.err;
    }
    EXPECT_EQ(weights(small.folder / "out"), weights(small.folder / "second"));
}

TEST(Structured, ASurveySparesWhatAnOverrideWeighsOrFixes) {
    const Small small;
    const auto removed = [&](const std::string& override_) {
        fs::remove_all(small.folder / "out");
        const Outcome run = kerf({"run", small.recipe(by_error + override_).string()});
        EXPECT_EQ(run.code, 0) << run.err;
        std::map<std::string, std::size_t> out;
        const json report = json::parse(slurp(small.folder / "out/report.json"));
        for (const auto& axis : report["stages"][0]["axes"])
            out[axis["name"].get<std::string>()] = axis["removed"].size();
        return out;
    };
    auto plain = removed("");
    EXPECT_LT(removed("[stage.override.\"model.layers.1.mlp\"]\nweight = 100\n")["model.layers.1.mlp"],
              plain["model.layers.1.mlp"]);
    auto fixed =
        removed("[stage.override.\"model.layers.0.mlp\"]\nschedule = \"uniform\"\nbudget = 0\nsparsity = 0.25\n");
    EXPECT_EQ(fixed["model.layers.0.mlp"], 24u);
    const auto all = [](auto& counts) {  // in channels; a KV group has 2·64·32 + 2·64·16 parameters
        return int(counts["model.layers.0.mlp"] + counts["model.layers.1.mlp"]) +
               32 * int(counts["model.layers.0.kv_groups"] + counts["model.layers.1.kv_groups"]);
    };
    EXPECT_NEAR(all(fixed), all(plain), 1) << "what an override fixes counts towards the budget";
}

TEST(Structured, BadInputIsOneSentenceAndNothingLeft) {
    const Small small;
    const auto refused = [&](const std::string& stage, const std::string& says, const std::string& format = "hf") {
        const Outcome run = kerf({"run", small.recipe(stage, "out", "model", format).string()});
        EXPECT_EQ(run.code, 2) << stage << run.err;
        EXPECT_NE(run.err.find(says), std::string::npos) << stage << run.err;
        EXPECT_FALSE(fs::exists(small.folder / "out")) << stage;
    };
    const std::string stage = "[[stage]]\nmethod = \"slimgpt\"\n";
    refused(stage + "sparsity = 1.0\n", "sparsity");
    refused(stage + "sparsity = -0.1\n", "sparsity");
    refused(stage + "schedule = \"log_increase\"\nmin_sparsity = 0.5\nmax_sparsity = 0.2\n", "is above max_sparsity");
    refused(stage + "maxlayer = 3\n", "the model has 2 blocks");
    refused(stage + "minlayer = 2\n", "the model has 2 blocks");
    refused(stage + "minlayer = 1\nmaxlayer = 1\n", "leave no block");
    refused(stage + "[stage.override.\"nothing*\"]\nsparsity = 0.1\n", "matches no axis");
    refused(stage + "maxlayer = 9\n", "maxlayer = 9: the model has 2 blocks");
    refused(stage + "budget = 0.9999\n", "budget = 0.9999: at most 0.");
    refused(stage + "budget = 1.5\n", "budget");
    refused(stage + "schedule = \"error\"\n", "as in budget = 0.2");
    refused(by_error + "compensate = false\n", "goes by the errors that compensation leaves");
    refused(stage + "schedule = \"error\"\nbudget = 0.9999\n", "budget = 0.9999: at most 0.");
    refused(stage + "[stage.override.\"*.mlp\"]\nschedule = \"error\"\nbudget = 0.2\n",
            "budget = 0.2 is for a whole stage");
    refused(by_error + "[stage.override.\"*.mlp\"]\nrelative_to = \"output\"\n", "is for a whole stage");
    refused(slimgpt + "exclude = [\"*.down_proj\"]\n", "exclude \"*.down_proj\" matches no axis or block");
    refused(slimgpt + "include = [\"nothing\"]\n", "include \"nothing\" matches no axis or block");
    refused(stage + "align = 96\n", "has 96 channels, so that none could go");
    refused(stage + "refit = true\ntarget = \"dense\"\n", "leave one of them out");
    refused(slimgpt + by_error + "sequential = \"shared\"\n", "needs a pass of its own");
    refused(stage + "swaps = 4\ncompensate = false\n", "which compensate = false forbids");
    refused(stage + "bias_refit = true\n", "none of the projections that read what is pruned has a bias");
    refused(stage + "bias_refit = true\ntarget = \"dense\"\n", "do not go together");
    refused(stage + "strict = true\nsparsity = 0.999\n", "of which 1 must stay");
    refused(stage + "[stage.override.\"*.heads\"]\ngqa = \"expand\"\n", "matches no axis");
    refused(stage + "[stage.override.\"*.kv_groups\"]\ngqa = \"expand\"\n", "which is for a whole stage");
    refused(stage, "holds integer codes", "gptq");
    refused(gptq + "refit = true\n", "refit = true goes with methods that remove structures");
}

}  // namespace
}  // namespace kerf::e2e
