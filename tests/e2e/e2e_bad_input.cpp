// SPDX-License-Identifier: Apache-2.0
// Bad input: one clear sentence, exit code 2, and nothing left behind.
#include <functional>

#include "core/support/text.hpp"
#include "tests/e2e/command.hpp"

namespace kerf::e2e {
namespace {

const std::string good_recipe =
    "[model]\npath = \"model\"\n"
    "[calibration]\nsource = \"tokens\"\npath = \"tokens.safetensors\"\ntensor = \"calib\"\nsamples = 0\nlength = 0\n"
    "[[stage]]\nmethod = \"gptq\"\nbits = 4\ngroup_size = 32\n"
    "[output]\npath = \"out\"\n";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const auto at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
}

/// Changes bytes of a safetensors file in place.
void edit_file(const fs::path& file, const std::function<void(std::string&)>& edit) {
    std::string content = slurp(file);
    edit(content);
    spill(file, content);
}
/// A file whose header is `header` and whose data is `bytes` zero bytes.
void write_safetensors(const fs::path& file, const std::string& header, std::uint64_t bytes,
                       std::uint64_t claimed = 0) {
    const std::uint64_t size = claimed ? claimed : header.size();
    std::string content(8, '\0');
    std::memcpy(content.data(), &size, 8);
    spill(file, content + header + std::string(bytes, '\0'));
}

struct Case {
    friend std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }
    const char* name;
    std::function<std::string(const Folder&)> prepare;  ///< changes the folder, gives the recipe
    const char* says;                                   ///< must be in the one sentence
};

std::string with(const std::string& from, const std::string& to) {
    return replaced(good_recipe, from, to);
}

const std::vector<Case> cases{
    {"UnknownMethod", [](const Folder&) { return with("\"gptq\"", "\"gptk\""); }, "did you mean \"gptq\""},
    {"UnknownOption", [](const Folder&) { return with("bits = 4", "bitz = 4"); }, "bits"},
    {"WrongType", [](const Folder&) { return with("bits = 4", "bits = \"four\""); }, "bits"},
    {"OutOfRange", [](const Folder&) { return with("bits = 4", "bits = 99"); }, "recipe.toml:11:"},
    {"MissingModel", [](const Folder&) { return with("path = \"model\"", "path = \"nowhere\""); }, "nowhere"},
    {"MissingTokens", [](const Folder&) { return with("tokens.safetensors", "nothing.safetensors"); },
     "nothing.safetensors"},
    {"BrokenToml", [](const Folder&) { return with("bits = 4", "bits = = 4"); }, "recipe.toml:11:"},
    {"UnknownArchitecture",
     [](const Folder& f) {
         edit_file(f / "model/config.json", [](std::string& s) { s = replaced(s, "\"llama\"", "\"mamba\""); });
         return good_recipe;
     },
     "mamba"},
    {"TruncatedSafetensors",
     [](const Folder& f) {
         edit_file(f / "model/model.safetensors", [](std::string& s) { s.resize(s.size() - 100); });
         return good_recipe;
     },
     "model.safetensors"},
    {"HugeHeader",
     [](const Folder& f) {
         write_safetensors(f / "model/model.safetensors", "{}", 0, 1ull << 60);
         return good_recipe;
     },
     "model.safetensors"},
    {"OverlappingTensors",
     [](const Folder& f) {
         write_safetensors(
             f / "model/model.safetensors",
             R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
             12);
         return good_recipe;
     },
     "model.safetensors"},
    {"MissingShard",
     [](const Folder& f) {
         fs::remove(f / "model/model.safetensors");
         spill(f / "model/model.safetensors.index.json",
               R"({"weight_map":{"model.norm.weight":"model-00001-of-00002.safetensors"}})");
         return good_recipe;
     },
     "model-00001-of-00002.safetensors"},
    {"WrongShape",
     [](const Folder& f) {
         edit_file(f / "model/config.json",
                   [](std::string& s) { s = replaced(s, "\"intermediate_size\": 96", "\"intermediate_size\": 128"); });
         return good_recipe;
     },
     "mlp."},
    {"NanWeights",
     [](const Folder& f) {
         // The very last tensor of the file: found while the run is under way.
         edit_file(f / "model/model.safetensors", [](std::string& s) { s.replace(s.size() - 2, 2, "\xff\x7f"); });
         return good_recipe;
     },
     "model.layers.1.self_attn.v_proj.weight"},
    {"VocabularyLargerThanTheEmbedding",
     [](const Folder& f) {
         make_tokens(f / "tokens.safetensors", 4, 64, 4000);
         return good_recipe;
     },
     "embedding has 128 rows"},
    {"EmptyText",
     [](const Folder& f) {
         fs::copy(fs::path(KERF_TEST_DATA) / "models/llama-tiny/tokenizer.model", f / "model/tokenizer.model");
         spill(f / "empty.txt", "");
         return replaced(with("source = \"tokens\"\npath = \"tokens.safetensors\"\ntensor = \"calib\"",
                              "source = \"text\"\npath = \"empty.txt\""),
                         "length = 0", "length = 64");
     },
     "empty.txt"},
    {"ShortText",
     [](const Folder& f) {
         fs::copy(fs::path(KERF_TEST_DATA) / "models/llama-tiny/tokenizer.model", f / "model/tokenizer.model");
         spill(f / "short.txt", "Too short.");
         return replaced(with("source = \"tokens\"\npath = \"tokens.safetensors\"\ntensor = \"calib\"",
                              "source = \"text\"\npath = \"short.txt\""),
                         "length = 0", "length = 64");
     },
     "short.txt"},
    {"OutputThere",
     [](const Folder& f) {
         spill(f / "out/precious.txt", "mine");
         return good_recipe;
     },
     "overwrite"},
    {"IncludeMatchesNothing", [](const Folder&) { return with("group_size = 32", "include = [\"nothing.*\"]"); },
     "matches no linear"},
    {"MemoryTooSmall", [](const Folder&) { return with("path = \"model\"", "path = \"model\"\nmemory = \"1MiB\""); },
     "needs at least"},
};

class BadInput : public testing::TestWithParam<Case> {};

void expect_one_sentence(const Outcome& outcome, const std::string& says) {
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(says), std::string::npos) << outcome.err;
    std::istringstream lines(outcome.err);
    int errors = 0;
    for (std::string line; std::getline(lines, line);) errors += line.starts_with("kerf: error:");
    EXPECT_EQ(errors, 1) << outcome.err;
}

TEST_P(BadInput, IsOneSentenceExitTwoAndNothingLeft) {
    const Folder folder;
    make_tiny_model(folder / "model");
    make_tokens(folder / "tokens.safetensors", 4, 64, 128);
    spill(folder / "recipe.toml", GetParam().prepare(folder));
    const bool there = fs::exists(folder / "out");
    expect_one_sentence(kerf({"run", (folder / "recipe.toml").string()}), GetParam().says);
    EXPECT_EQ(fs::exists(folder / "out"), there);
    EXPECT_FALSE(fs::exists(folder / "out.partial"));
}

INSTANTIATE_TEST_SUITE_P(Table, BadInput, testing::ValuesIn(cases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(BadEnvironment, FullDiskIsOneSentenceAndNothingLeft) {
    const Folder folder;
    make_tiny_model(folder / "model");
    make_tokens(folder / "tokens.safetensors", 4, 64, 128);
    spill(folder / "recipe.toml", good_recipe);
    fs::create_directories(folder / "small");
    if (std::system(("mount -t tmpfs -o size=64k tmpfs " + (folder / "small").string() + " 2>/dev/null").c_str()) != 0)
        GTEST_SKIP() << "mounting a small tmpfs needs root";
    const Outcome outcome =
        kerf({"run", (folder / "recipe.toml").string(), "--output", (folder / "small/out").string()});
    const bool left = fs::exists(folder / "small/out") || fs::exists(folder / "small/out.partial");
    EXPECT_EQ(std::system(("umount " + (folder / "small").string()).c_str()), 0);
    expect_one_sentence(outcome, "the disk ");
    EXPECT_FALSE(left);
}

TEST(BadEnvironment, NoPermissionIsOneSentence) {
    if (::geteuid() == 0) {
        // Root may write everywhere but into the kernel's own file systems.
        const Folder folder;
        make_tiny_model(folder / "model");
        make_tokens(folder / "tokens.safetensors", 4, 64, 128);
        spill(folder / "recipe.toml", good_recipe);
        expect_one_sentence(kerf({"run", (folder / "recipe.toml").string(), "--output", "/proc/kerf-out"}),
                            "/proc/kerf-out");
        return;
    }
    const Folder folder;
    make_tiny_model(folder / "model");
    make_tokens(folder / "tokens.safetensors", 4, 64, 128);
    spill(folder / "recipe.toml", good_recipe);
    fs::create_directories(folder / "closed");
    fs::permissions(folder / "closed", fs::perms::owner_read | fs::perms::owner_exec);
    expect_one_sentence(kerf({"run", (folder / "recipe.toml").string(), "--output", (folder / "closed/out").string()}),
                        "closed");
}

/// A folder with one plugin more than this build's own.
Outcome run_with_plugin(const Folder& folder, const std::string& content, const std::string& name) {
    make_tiny_model(folder / "model");
    make_tokens(folder / "tokens.safetensors", 4, 64, 128);
    spill(folder / "recipe.toml", good_recipe);
    spill(folder / ("plugins/" + name), content);
    return kerf({"run", (folder / "recipe.toml").string(), "--plugin-path", (folder / "plugins").string()});
}

TEST(BadPlugin, ThatIsNoSharedLibraryIsNamed) {
    const Folder folder;
    expect_one_sentence(run_with_plugin(folder, "not a library", "kerf-junk.so"), "kerf-junk.so");
}

TEST(BadPlugin, ThatIsThereTwiceNamesBothFiles) {
    const Folder folder;
    const Outcome outcome = run_with_plugin(folder, slurp(KERF_BUILD "/lib/kerf/kerf-rtn.so"), "kerf-other.so");
    expect_one_sentence(outcome, "kerf-other.so");
    EXPECT_NE(outcome.err.find("kerf-rtn.so"), std::string::npos) << outcome.err;
}

TEST(BadPlugin, OfAnotherAbiMajorIsRefusedInWords) {
    const Folder folder;
    std::string library = slurp(KERF_BUILD "/lib/kerf/kerf-rtn.so");
    for (std::size_t at; (at = library.find("abi=1.")) != std::string::npos;) library.replace(at, 6, "abi=7.");
    expect_one_sentence(run_with_plugin(folder, library, "kerf-future.so"), "kerf-future.so");
}

}  // namespace
}  // namespace kerf::e2e
