// SPDX-License-Identifier: Apache-2.0
#include "host/command_line.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "core/support/error.hpp"

namespace kerf::host {
namespace {

using Words = std::vector<std::string>;

std::string refusal(const Words& arguments) {
    try {
        CommandLine::parse(arguments);
    } catch (const core::Error& error) {
        EXPECT_EQ(error.fault(), core::Fault::input);
        return error.what();
    }
    return {};
}

TEST(CommandLine, OptionsMayStandAnywhereBehindTheCommand) {
    const auto line =
        CommandLine::parse({"run", "--set", "a=1", "recipe.toml", "--json", "--set=b=[1, 2]", "--threads", "3"});
    EXPECT_EQ(line.command(), "run");
    EXPECT_EQ(line.words(), Words{"recipe.toml"});
    EXPECT_EQ(line.list("set"), (Words{"a=1", "b=[1, 2]"})) << "a comma separates nothing";
    EXPECT_TRUE(line.has("json"));
    EXPECT_FALSE(line.has("resume"));
    EXPECT_EQ(line.integer("threads", 0), 3);
    EXPECT_FALSE(line.integer("processes", 1));
}

TEST(CommandLine, CommandsMayHaveTwoWords) {
    EXPECT_EQ(CommandLine::parse({"plugins"}).command(), "plugins");
    const auto line = CommandLine::parse({"plugins", "describe", "gptq"});
    EXPECT_EQ(line.command(), "plugins describe");
    EXPECT_EQ(line.words(), Words{"gptq"});
}

TEST(CommandLine, HelpAndVersionNeedNothingElse) {
    EXPECT_EQ(CommandLine::parse({"--version"}).command(), "version");
    EXPECT_EQ(CommandLine::parse({"-h"}).command(), "help");
    EXPECT_EQ(CommandLine::parse({"help", "plugins", "check"}).words(), Words{"plugins check"});
    const auto line = CommandLine::parse({"run", "--help"});
    EXPECT_EQ(line.command(), "help");
    EXPECT_EQ(line.words(), Words{"run"});
}

TEST(CommandLine, SaysWhatIsWrong) {
    EXPECT_EQ(refusal({}), "a command is missing; kerf --help lists them");
    EXPECT_EQ(refusal({"rum", "x"}), "unknown command \"rum\"; did you mean kerf run?");
    EXPECT_EQ(refusal({"help", "rum"}), "unknown command \"rum\"; did you mean kerf run?");
    EXPECT_EQ(refusal({"xxxxxxx"}), "unknown command \"xxxxxxx\"; kerf --help lists them");
    EXPECT_EQ(refusal({"tune", "m"}), "kerf tune is not available in this version");
    EXPECT_EQ(refusal({"--json", "run"}), "the command comes first, then its options; kerf --help lists the commands");
    EXPECT_EQ(refusal({"run"}), "kerf run needs RECIPE; see kerf help run");
    EXPECT_EQ(refusal({"run", "a", "b"}), "kerf run does not know what to do with \"b\"");
    EXPECT_EQ(refusal({"run", "a", "--resum"}), "unknown option --resum; did you mean --resume?; see kerf help run");
    EXPECT_EQ(refusal({"run", "a", "--output"}), "--output needs a value; see kerf help run");
    EXPECT_EQ(refusal({"run", "a", "--output", "x", "--output", "y"}), "--output is given twice");
}

TEST(CommandLine, NumbersAreWholeAndInRange) {
    for (const std::string bad : {"x", "1.5", "-1", "99999999999999999999", "3x"}) {
        const auto line = CommandLine::parse({"eval", "model", "--samples=" + bad});
        EXPECT_THROW(line.integer("samples", 0), core::Error) << bad;
    }
    EXPECT_EQ(CommandLine::parse({"eval", "model", "--samples", "0"}).integer("samples", 0), 0);
}

TEST(CommandLine, AWordInBracketsMayBeMissing) {
    EXPECT_EQ(CommandLine::parse({"generate", "m"}).words().size(), 1u);
    EXPECT_EQ(CommandLine::parse({"generate", "m", "p"}).words().size(), 2u);
    EXPECT_EQ(refusal({"generate"}), "kerf generate needs MODEL [PROMPT]; see kerf help generate");
    EXPECT_EQ(refusal({"generate", "a", "b", "c"}), "kerf generate does not know what to do with \"c\"");
}

TEST(CommandLine, RealNumbersAreFinite) {
    for (const std::string bad : {"x", "1.5x", "inf", "nan", "1e999", "--"}) {
        const auto line = CommandLine::parse({"generate", "m", "p", "--temperature=" + bad});
        EXPECT_THROW(line.real("temperature"), core::Error) << bad;
    }
    EXPECT_EQ(CommandLine::parse({"generate", "m", "p", "--temperature=-0.5"}).real("temperature"), -0.5);
    EXPECT_FALSE(CommandLine::parse({"generate", "m", "p"}).real("temperature").has_value());
}

TEST(CommandLine, HelpNamesEveryOption) {
    for (const auto& doc : command_docs()) {
        const std::string help = help_text(doc.name);
        for (const auto& option : doc.options) EXPECT_NE(help.find("--" + option.name), std::string::npos) << doc.name;
        EXPECT_NE(help_text("").find(doc.summary), std::string::npos);
    }
}

TEST(CommandLine, TheManualNamesEveryCommandAndOption) {
    std::ifstream file(KERF_SOURCE "/docs/commands.md");
    std::stringstream manual;
    manual << file.rdbuf();
    for (const auto& doc : command_docs()) {
        EXPECT_NE(manual.str().find("kerf " + doc.name), std::string::npos) << doc.name;
        for (const auto& option : doc.options)
            EXPECT_NE(manual.str().find("`--" + option.name), std::string::npos) << doc.name << " --" << option.name;
    }
    for (const auto& option : common_options()) EXPECT_NE(manual.str().find("`--" + option.name), std::string::npos);
}

}  // namespace
}  // namespace kerf::host
