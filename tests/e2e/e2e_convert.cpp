// SPDX-License-Identifier: Apache-2.0
// kerf convert, and GGUF files as models of the other commands.
#include "core/weights/checkpoint.hpp"
#include "tests/e2e/command.hpp"
#include "tests/unit/gguf_fixture.hpp"

namespace kerf::e2e {
namespace {

fs::path small_gguf(const Folder& folder) {
    spill(folder / "small.gguf", test::smallest_llama().build());
    return folder / "small.gguf";
}

nlohmann::json parsed(const Outcome& outcome) {
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out);
}

TEST(Convert, MakesAFolderOfAGgufFile) {
    const Folder folder;
    const auto gguf = small_gguf(folder), out = folder / "out";
    const Outcome outcome = kerf({"convert", gguf.string(), out.string(), "--dtype", "bfloat16"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto config = nlohmann::json::parse(slurp(out / "config.json"));
    EXPECT_EQ(config["model_type"], "llama");
    EXPECT_EQ(config["torch_dtype"], "bfloat16");
    EXPECT_EQ(nlohmann::json::parse(slurp(out / "tokenizer_config.json"))["bos_token"], "<s>");
    EXPECT_EQ(nlohmann::json::parse(slurp(out / "generation_config.json"))["eos_token_id"], 0);
    EXPECT_EQ(nlohmann::json::parse(slurp(out / "tokenizer.json"))["model"]["vocab"]["ab"], 3);
    const auto made = core::Checkpoint::open(out), source = core::Checkpoint::open(gguf);
    EXPECT_EQ(made.names(), source.names());
    for (const auto& name : made.names()) {
        EXPECT_EQ(made.at(name).dtype, core::DType::bf16);
        EXPECT_EQ(made.read(name), source.read(name)) << "multiples of 1/16 below 1 fit bfloat16: " << name;
    }
    EXPECT_FALSE(fs::exists(folder / "out.partial"));
}

TEST(Convert, GivesTheSameBytesAgainAndRefusesToReplaceUnasked) {
    const Folder folder;
    const auto gguf = small_gguf(folder);
    ASSERT_EQ(kerf({"convert", gguf.string(), (folder / "out").string()}).code, 0);
    const auto first = lasting_files(folder / "out");
    const Outcome refused = kerf({"convert", gguf.string(), (folder / "out").string()});
    EXPECT_EQ(refused.code, 2);
    EXPECT_NE(refused.err.find("add --overwrite"), std::string::npos) << refused.err;
    EXPECT_EQ(lasting_files(folder / "out"), first);
    fs::remove(folder / "out/model.safetensors");
    fs::remove(folder / "out/kerf.json");
    ASSERT_EQ(kerf({"convert", gguf.string(), (folder / "out").string(), "--overwrite"}).code, 0);
    EXPECT_EQ(lasting_files(folder / "out"), first);
}

TEST(Convert, UnpacksAGptqCheckpoint) {
    const Folder folder;
    make_tiny_model(folder / "model");
    spill(folder / "recipe.toml",
          "[model]\npath = \"model\"\n[[stage]]\nmethod = \"rtn\"\nbits = 4\ngroup_size = 32\n"
          "[output]\npath = \"packed\"\nformat = \"gptq\"\n");
    ASSERT_EQ(kerf({"run", (folder / "recipe.toml").string()}).code, 0);
    const Outcome outcome =
        kerf({"convert", (folder / "packed").string(), (folder / "dense").string(), "--dtype", "float32"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_FALSE(nlohmann::json::parse(slurp(folder / "dense/config.json")).contains("quantization_config"));
    EXPECT_FALSE(fs::exists(folder / "dense/quantize_config.json"));
    const auto packed = core::Checkpoint::open(folder / "packed"), dense = core::Checkpoint::open(folder / "dense");
    EXPECT_EQ(dense.names(), packed.names());
    for (const auto& name : dense.names()) EXPECT_EQ(dense.read(name), packed.read(name)) << name;
}

TEST(Convert, RefusesWhatItCannotWrite) {
    const Folder folder;
    const auto gguf = small_gguf(folder).string(), out = (folder / "out").string();
    const auto expect_refused = [&](const std::vector<std::string>& arguments, const char* says) {
        const Outcome outcome = kerf(arguments);
        EXPECT_EQ(outcome.code, 2) << says;
        EXPECT_NE(outcome.err.find(says), std::string::npos) << outcome.err;
        EXPECT_FALSE(fs::exists(out));
        EXPECT_FALSE(fs::exists(out + ".partial"));
    };
    expect_refused({"convert", gguf}, "kerf convert needs MODEL OUT");
    expect_refused({"convert", gguf, out, "--dtype", "int8"}, "--dtype int8");
    expect_refused({"convert", gguf, out, "--format", "gptq"}, "packing needs a method");
    expect_refused({"convert", gguf, out, "--format", "onnx"}, "only hf can be written");
    expect_refused({"convert", (folder / "none.gguf").string(), out}, "no such folder");
}

TEST(Convert, RefusesWeightsThatTheTypeCannotHold) {
    const Folder folder;
    auto builder = test::smallest_llama();
    builder.tensors[1].bytes = test::raw_all(std::vector<float>{1, 2, 3, 70000, 5, 6, 7, 8});
    spill(folder / "large.gguf", builder.build());
    const Outcome outcome =
        kerf({"convert", (folder / "large.gguf").string(), (folder / "out").string(), "--dtype", "float16"});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_NE(outcome.err.find("model.norm.weight has the value 70000, which float16 cannot hold"), std::string::npos)
        << outcome.err;
    EXPECT_FALSE(fs::exists(folder / "out"));
    EXPECT_FALSE(fs::exists(folder / "out.partial"));
}

TEST(Convert, LeavesNothingOfAHostileFile) {
    const Folder folder;
    const std::string whole = test::smallest_llama().build();
    const std::vector<std::pair<std::string, std::string>> files{{"cut", whole.substr(0, whole.size() - 1)},
                                                                 {"magic", "GGUX" + whole.substr(4)},
                                                                 {"empty", ""},
                                                                 {"header", whole.substr(0, 700)}};
    for (const auto& [name, content] : files) {
        spill(folder / (name + ".gguf"), content);
        const Outcome outcome = kerf({"convert", (folder / (name + ".gguf")).string(), (folder / "out").string()});
        EXPECT_EQ(outcome.code, 2) << name;
        EXPECT_TRUE(outcome.err.starts_with("kerf: error: ")) << outcome.err;
        EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
        EXPECT_FALSE(fs::exists(folder / "out")) << name;
        EXPECT_FALSE(fs::exists(folder / "out.partial")) << name;
    }
}

TEST(GgufModels, AreTakenByInspectPlanRunAndEval) {
    const Folder folder;
    const auto gguf = small_gguf(folder);
    const auto inspected = parsed(kerf({"inspect", gguf.string(), "--json"}));
    EXPECT_EQ(inspected["family"], "llama");
    EXPECT_EQ(inspected["parameters"], 6 * 8 + 3 * 8 + 2 * 8 * 8 + 2 * 4 * 8 + 3 * 16 * 8);
    spill(folder / "text.txt", std::string(200, 'a') + std::string(200, 'b'));
    const auto evaluated = parsed(kerf({"eval", gguf.string(), "--json", "--perplexity",
                                        "t=" + (folder / "text.txt").string(), "--length", "32", "--samples", "4"}));
    EXPECT_GT(evaluated["perplexity"]["t"]["value"].get<double>(), 1);
    spill(folder / "recipe.toml",
          "[model]\npath = \"small.gguf\"\n[calibration]\npath = \"text.txt\"\nsamples = 4\nlength = 32\n"
          "[[stage]]\nmethod = \"gptq\"\nbits = 4\ngroup_size = 8\n[output]\npath = \"out\"\n");
    const auto planned = parsed(kerf({"plan", (folder / "recipe.toml").string(), "--json"}));
    const auto ran = parsed(kerf({"run", (folder / "recipe.toml").string(), "--json"}));
    EXPECT_EQ(ran["bytes"]["after"], planned["output_bytes"]);
    EXPECT_TRUE(fs::exists(folder / "out/tokenizer.json"));
    EXPECT_TRUE(fs::exists(folder / "out/model.safetensors"));
}

}  // namespace
}  // namespace kerf::e2e
