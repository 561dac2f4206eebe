// SPDX-License-Identifier: Apache-2.0
// Whole runs through the kerf command on a small random model: resuming, threads, memory, sizes.
#include "core/support/text.hpp"
#include "core/weights/tensor_file.hpp"
#include "tests/e2e/small_run.hpp"

namespace kerf::e2e {
namespace {

std::string recipe_text(const std::string& stages, const std::string& output, const std::string& format = "hf") {
    return core::text(
        "[model]\npath = \"model\"\n[calibration]\nsource = \"tokens\"\npath = \"tokens.safetensors\"\ntensor = "
        "\"calib\"\nsamples = 0\nlength = 0\n",
        stages,
        "[evaluation]\nbefore = true\nperplexity = [{ name = \"eval\", source = \"tokens\", path = "
        "\"tokens.safetensors\", tensor = \"eval\", samples = 0, length = 0 }]\n",
        "[output]\npath = \"", output, "\"\nformat = \"", format, "\"\n");
}
const std::string gptq_stage = "[[stage]]\nmethod = \"gptq\"\nbits = 4\ngroup_size = 32\n";
const std::string magnitude_stage = "[[stage]]\nmethod = \"magnitude\"\npattern = \"2:4\"\n";

struct SmallRun {
    Folder folder;
    SmallRun(const std::string& stages, const std::string& format, std::int64_t windows = 4, std::int64_t length = 64,
             const TinyShape& shape = {}) {
        make_tiny_model(folder / "model", shape);
        make_tokens(folder / "tokens.safetensors", windows, length, shape.vocabulary);
        spill(folder / "recipe.toml", recipe_text(stages, "out", format));
    }
    fs::path output() const { return folder / "out"; }
    Outcome run(std::vector<std::string> extra = {}, const std::map<std::string, std::string>& environment = {}) const {
        extra.insert(extra.begin(), {"run", (folder / "recipe.toml").string()});
        return kerf(extra, environment);
    }
};

/// Kills a run at its k-th change of a file, resumes it, and compares; for every k.
void survives_every_kill(const std::string& stages, const std::string& format) {
    const SmallRun small(stages, format);
    survives_kills(small.folder / "recipe.toml", small.output(), [](long calls) {
        EXPECT_GT(calls, 50);
        return every(1, 1)(calls);
    });
}

TEST(Resume, GivesTheSameBytesAfterAKillAtAnyWriteOfAGptqRun) {
    survives_every_kill(gptq_stage, "gptq");
}

TEST(Resume, GivesTheSameBytesAfterAKillInATwoStageRunWherePlacesAreSampled) {
    const SmallRun small(magnitude_stage + gptq_stage, "hf");
    // A third of the places, and every one near the end, where folders change their names.
    survives_kills(small.folder / "recipe.toml", small.output(), [](long calls) {
        std::vector<long> out;
        for (long k = 2; k <= calls; k += k + 24 < calls ? 9 : 1) out.push_back(k);
        return out;
    });
}

TEST(Resume, RefusesToGoOnWithAnotherRecipe) {
    const SmallRun small(gptq_stage, "hf");
    ASSERT_EQ(small.run({}, {{"LD_PRELOAD", kill_shim}, {"KERF_KILL_AT", "60"}}).code, 128 + SIGKILL);
    const Outcome other = small.run({"--resume", "--set", "stage.0.bits=3"});
    EXPECT_EQ(other.code, 2);
    EXPECT_NE(other.err.find("another recipe"), std::string::npos) << other.err;
    EXPECT_EQ(small.run({}).code, 2) << "without --resume the unfinished run must not be lost";
    EXPECT_EQ(small.run({"--resume"}).code, 0);
}

TEST(Threads, DoNotChangeAByte) {
    // 9 windows of 96 tokens: units of unequal size, more of them than threads.
    const SmallRun small(gptq_stage, "gptq", 45, 96);
    std::map<std::string, std::string> first;
    for (const char* threads : {"1", "2", "8"}) {
        fs::remove_all(small.output());
        const Outcome outcome = small.run({"--threads", threads});
        ASSERT_EQ(outcome.code, 0) << outcome.err;
        const auto files = lasting_files(small.output());
        if (first.empty()) first = files;
        EXPECT_EQ(files, first) << threads << " threads";
    }
}

TEST(Sequential, ModesRunAndDiffer) {
    std::map<std::string, std::string> weights;
    for (const char* mode : {"linear", "group", "block", "none"}) {
        const SmallRun small(gptq_stage + "sequential = \"" + mode + "\"\n", "hf");
        const Outcome outcome = small.run();
        ASSERT_EQ(outcome.code, 0) << outcome.err;
        weights[mode] = slurp(small.output() / "model.safetensors");
    }
    EXPECT_EQ(weights["linear"], weights["group"])
        << "linears of one group read one input, whatever the other makes of it";
    EXPECT_NE(weights["group"], weights["block"]);
    EXPECT_NE(weights["block"], weights["none"]);
}

TEST(Output, HasExactlyThePlannedSize) {
    for (const char* format : {"hf", "gptq"}) {
        const SmallRun small(gptq_stage, format);
        const Outcome plan = kerf({"plan", (small.folder / "recipe.toml").string(), "--json"});
        ASSERT_EQ(plan.code, 0) << plan.err;
        ASSERT_EQ(small.run().code, 0);
        EXPECT_EQ(nlohmann::json::parse(plan.out)["output_bytes"].get<std::uint64_t>(),
                  fs::file_size(small.output() / "model.safetensors"));
    }
}

TEST(Output, OfTwoToFourSparsityStaysExactThroughNothingElse) {
    const SmallRun small(magnitude_stage, "hf");
    ASSERT_EQ(small.run().code, 0);
    const auto report = nlohmann::json::parse(slurp(small.output() / "report.json"));
    EXPECT_EQ(report["stages"][0]["linears"].size(), 14u);
    const auto file = core::open_safetensors(small.output() / "model.safetensors");
    const auto& tensor = *file->find("model.layers.1.mlp.up_proj.weight");
    std::vector<float> values(std::size_t(tensor.elements()));
    core::to_float32(tensor, values);
    for (std::size_t i = 0; i < values.size(); i += 4)
        ASSERT_LE(std::count_if(values.begin() + std::ptrdiff_t(i), values.begin() + std::ptrdiff_t(i) + 4,
                                [](float v) { return v != 0; }),
                  2);
}

TEST(Output, OfAnEmptyRecipeIsTheInput) {
    const SmallRun small("", "hf");
    ASSERT_EQ(small.run().code, 0);
    const auto before = core::open_safetensors(small.folder / "model/model.safetensors");
    const auto after = core::open_safetensors(small.output() / "model.safetensors");
    ASSERT_EQ(before->tensors().size(), after->tensors().size());
    for (const auto& tensor : before->tensors()) {
        const auto& copy = *after->find(tensor.name);
        EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), copy.bytes.begin(), copy.bytes.end()))
            << tensor.name;
    }
}

TEST(Output, PackedAndDequantisedEvaluateAlike) {
    const SmallRun packed(gptq_stage, "gptq"), dense(gptq_stage, "hf");
    ASSERT_EQ(packed.run().code, 0);
    ASSERT_EQ(dense.run({"--set", "output.dtype=\"float32\""}).code, 0);
    const auto value = [](const SmallRun& small) {
        return nlohmann::json::parse(slurp(small.output() / "report.json"))["after"]["perplexity"]["eval"]["value"]
            .get<double>();
    };
    // The packed weight is decoded to the very float32 values that the dense output holds; norms and embeddings are
    // float16 in one.
    EXPECT_NEAR(value(packed), value(dense), 1e-4 * value(dense));
}

/// A model large enough for its own buffers to show beside the idle process.
const TinyShape wide{.layers = 3, .hidden = 512, .intermediate = 1024, .heads = 8, .kv_heads = 8, .vocabulary = 512};

TEST(Memory, StaysFlatWhenCalibrationGrowsSixteenfold) {
    const SmallRun few(gptq_stage, "hf", 16, 128, wide), many(gptq_stage, "hf", 256, 128, wide);
    const Outcome small = few.run({"--threads", "2", "--set", "evaluation.perplexity=[]"}),
                  large = many.run({"--threads", "2", "--set", "evaluation.perplexity=[]"});
    ASSERT_EQ(small.code, 0) << small.err;
    ASSERT_EQ(large.code, 0) << large.err;
    EXPECT_LE(double(large.peak_bytes), 1.02 * double(small.peak_bytes));
}

TEST(Memory, StaysWithinThePlanAndNearIt) {
    const SmallRun small(gptq_stage, "hf", 32, 128, wide);
    const Outcome plan = kerf({"plan", (small.folder / "recipe.toml").string(), "--json", "--threads", "2"});
    ASSERT_EQ(plan.code, 0) << plan.err;
    const double planned = nlohmann::json::parse(plan.out)["peak_bytes"].get<double>();
    const Outcome outcome = small.run({"--threads", "2"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_LE(double(outcome.peak_bytes), planned);
    EXPECT_GE(double(outcome.peak_bytes), 0.85 * planned);
}

TEST(Memory, OfABudgetThatIsTooSmallIsRefusedWithWhatIsNeeded) {
    const SmallRun small(gptq_stage, "hf");
    const Outcome refused = kerf({"plan", (small.folder / "recipe.toml").string(), "--set", "model.memory=\"20MiB\""});
    EXPECT_EQ(refused.code, 2);
    EXPECT_NE(refused.err.find("needs at least"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace kerf::e2e
