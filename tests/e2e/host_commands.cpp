// SPDX-License-Identifier: Apache-2.0
// The real program: exit codes, what it prints where, and that bad input leaves nothing behind.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/support/file.hpp"
#include "core/support/text.hpp"

namespace kerf {
namespace {

namespace fs = std::filesystem;

struct Outcome {
    int exit_code = -1;
    std::string out, err;
};

class Commands : public testing::Test {
protected:
    void SetUp() override {
        if (!fs::exists(program)) GTEST_SKIP() << program << " is not built";
        const auto* name = testing::UnitTest::GetInstance()->current_test_info()->name();
        folder = fs::path(testing::TempDir()) / core::text("kerf-commands-", ::getpid(), "-", name);
        fs::create_directories(folder);
    }
    void TearDown() override {
        if (!folder.empty()) fs::remove_all(folder);
    }

    Outcome kerf(const std::string& arguments, const std::string& to = "") const {
        const std::string out = (folder / "stdout").string(), err = (folder / "stderr").string();
        const std::string command = core::text("'", program, "' ", arguments,
                                               to.empty() ? core::text(" > '", out, "'") : to, " 2> '", err, "'");
        const int status = std::system(command.c_str());
        Outcome outcome{WIFEXITED(status) ? WEXITSTATUS(status) : -1, "", core::read_text(err)};
        if (to.empty()) outcome.out = core::read_text(out);
        return outcome;
    }
    /// One line on stderr that holds `part`, nothing on stdout, exit code 2.
    void expect_refused(const std::string& arguments, const std::string& part) const {
        const Outcome outcome = kerf(arguments);
        EXPECT_EQ(outcome.exit_code, 2) << arguments;
        EXPECT_EQ(outcome.out, "") << arguments;
        EXPECT_TRUE(outcome.err.starts_with("kerf: error: ")) << outcome.err;
        EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
        EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
    }
    fs::path write(const std::string& name, const std::string& text) const {
        core::write_atomically(folder / name, text);
        return folder / name;
    }
    std::string quoted(const fs::path& path) const { return core::text("'", path.string(), "'"); }
    /// A recipe on the small model with this stage; its output is folder/out.
    fs::path recipe(const std::string& stage) const {
        return write(
            "recipe.toml",
            core::text("[model]\npath = \"", model, "\"\n[calibration]\npath = \"", data,
                       "/text/wikitext2-valid-256k.txt\"\nsamples = 4\nlength = 64\n", stage,
                       "\n[evaluation]\nperplexity = [{name = \"w\", path = \"", data,
                       "/text/wikitext2-test-128k.txt\", length = 64, samples = 4}]\n[output]\npath = \"out\"\n"));
    }

    const std::string program = KERF_BUILD "/bin/kerf", data = KERF_TEST_DATA, model = data + "/models/llama-tiny";
    fs::path folder;
};

TEST_F(Commands, HelpAndVersionGoToStdout) {
    const Outcome help = kerf("--help");
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_NE(help.out.find("kerf COMMAND"), std::string::npos);
    EXPECT_EQ(help.err, "");
    EXPECT_TRUE(kerf("--version").out.starts_with("kerf "));
    EXPECT_NE(kerf("help run").out.find("--resume"), std::string::npos);
}

TEST_F(Commands, BadCommandLinesAreRefusedInOneLine) {
    expect_refused("", "a command is missing");
    expect_refused("rum", "did you mean kerf run?");
    expect_refused("run", "kerf run needs RECIPE");
    expect_refused("run x --frobnicate", "unknown option --frobnicate");
    expect_refused("tune x", "not available in this version");
    expect_refused("eval " + quoted(model), "--perplexity FILE");
    expect_refused("run no-such.toml", "no-such.toml");
    expect_refused("run no-such.toml --log-level loud", "--log-level loud");
}

TEST_F(Commands, BadRecipesAreRefusedWithTheirLineAndLeaveNothing) {
    expect_refused("run " + quoted(recipe("[[stage]]\nmethod = \"gtpq\"\n")), "did you mean \"gptq\"?");
    expect_refused("run " + quoted(recipe("[[stage]]\nmethod = \"gptq\"\nbits = 99\n")), "recipe.toml:9:8: ");
    expect_refused("plan " + quoted(recipe("[[stage]]\nmethod = \"gptq\"\nbitz = 4\n")), "did you mean \"bits\"?");
    expect_refused("plan " + quoted(recipe("[[stage]]\nmethod = \"gptq\"\nexlude = []\n")),
                   "did you mean \"exclude\"?");
    expect_refused("run " + quoted(recipe("")) + " --set model.path=/no/such/model", "/no/such/model");
    expect_refused("run " + quoted(recipe("")) + " --memory 1MiB", "memory");
    EXPECT_FALSE(fs::exists(folder / "out"));
    EXPECT_FALSE(fs::exists(folder / "out.partial"));
}

TEST_F(Commands, PluginsAreListedAndDescribed) {
    const Outcome list = kerf("plugins --json");
    ASSERT_EQ(list.exit_code, 0) << list.err;
    const auto components = nlohmann::json::parse(list.out).at("components");
    EXPECT_TRUE(std::any_of(components.begin(), components.end(),
                            [](const auto& c) { return c["kind"] == "method" && c["id"] == "gptq"; }));
    const Outcome described = kerf("plugins describe gptq");
    EXPECT_NE(described.out.find("group_size"), std::string::npos);
    EXPECT_NE(described.out.find("bits per weight"), std::string::npos);
    expect_refused("plugins describe gptk", "did you mean \"gptq\"?");
}

TEST_F(Commands, APluginCheckSaysOnStdoutWhatHoldsAndOnStderrWhatDoesNot) {
    const Outcome good = kerf("plugins check " + quoted(KERF_BUILD "/lib/kerf/kerf-rtn.so"));
    EXPECT_EQ(good.exit_code, 0) << good.out << good.err;
    EXPECT_TRUE(good.out.starts_with("ok ")) << good.out;
    const Outcome bad = kerf("plugins check --json " + quoted(write("no-plugin.so", "text")));
    EXPECT_EQ(bad.exit_code, 2);
    EXPECT_FALSE(nlohmann::json::parse(bad.out).at("sound"));
    EXPECT_TRUE(bad.err.starts_with("kerf: error: ")) << bad.err;
    EXPECT_NE(bad.err.find("no-plugin.so is no kerf plugin"), std::string::npos) << bad.err;
}

TEST_F(Commands, InspectCountsParametersAndLinears) {
    const Outcome outcome = kerf("inspect --json " + quoted(model));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const auto found = nlohmann::json::parse(outcome.out);
    EXPECT_EQ(found["blocks"].size(), 4u);
    EXPECT_EQ(found["blocks"][0]["linears"].size(), 7u);
    EXPECT_NE(kerf("inspect " + quoted(model)).out.find("(4 alike)"), std::string::npos);
    const std::string experts = kerf("inspect " + quoted(data + "/models/mixtral-tiny")).out;
    EXPECT_NE(experts.find(" k parameters, 15.6 k of them active, "), std::string::npos) << experts;
}

TEST_F(Commands, ARunPrintsOneJsonObjectAndWritesItsReport) {
    const auto file = recipe("[[stage]]\nmethod = \"gptq\"\nbits = 4\ngroup_size = 64\n");
    const Outcome plan = kerf("plan --json " + quoted(file));
    ASSERT_EQ(plan.exit_code, 0) << plan.err;
    const Outcome run = kerf("run --json " + quoted(file));
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const auto result = nlohmann::json::parse(run.out);
    EXPECT_EQ(result["stages"][0]["linears"].size(), 28u);
    EXPECT_EQ(result["bytes"]["after"], nlohmann::json::parse(plan.out)["output_bytes"]);
    EXPECT_TRUE(fs::exists(folder / "out/report.json"));
    EXPECT_TRUE(core::read_text(folder / "out/report.html").starts_with("<!doctype html>"));
    expect_refused("run " + quoted(file), "is there already");
}

TEST_F(Commands, EvalTakesAsMuchAsTheModelHasPositionsFor) {
    const Outcome outcome = kerf(core::text("eval --json ", quoted(model), " --samples 1 --perplexity w='", data,
                                            "/text/wikitext2-test-128k.txt'"));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const auto figure = nlohmann::json::parse(outcome.out).at("perplexity").at("w");
    EXPECT_EQ(figure["windows"], 1);
    EXPECT_EQ(figure["tokens"], 511) << "llama-tiny has 512 positions";
}

TEST_F(Commands, AReaderThatGoesAwayIsNoCrash) {
    // The pipe is closed long before kerf writes: its reader ends at once.
    const fs::path code = folder / "code";
    const std::string command =
        core::text("{ sleep 0.2; '", program, "' --help; echo $? > '", code.string(), "'; } | true");
    ASSERT_EQ(std::system(command.c_str()), 0);
    EXPECT_EQ(core::read_text(code), "0\n");
}

TEST_F(Commands, AFullDiskUnderStdoutIsAnError) {
    if (!fs::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
    const Outcome outcome = kerf("--help", " > /dev/full");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_NE(outcome.err.find("stdout"), std::string::npos);
}

}  // namespace
}  // namespace kerf
