// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>

#include "host/loader/check.hpp"

namespace kerf::host {
namespace {

std::string problems(const std::string& name, int seconds = 20) {
    const auto report = check_plugin(std::string(KERF_FIXTURES) + "/fixture_" + name + ".so", seconds);
    std::string out;
    for (const auto& problem : report.problems) out += problem + "\n";
    return out;
}

TEST(PluginCheck, ASoundPluginPasses) {
    const auto report = check_plugin(KERF_FIXTURES "/fixture_sound.so", 20);
    EXPECT_TRUE(report.sound()) << report.problems.at(0);
    EXPECT_GE(report.passed.size(), 6u);
}

TEST(PluginCheck, ThePluginsOfThisBuildPass) {
    for (const char* name : {"llama", "opt"}) {
        const auto report = check_plugin(std::string(KERF_BUILD "/lib/kerf/kerf-") + name + ".so", 20);
        EXPECT_TRUE(report.sound()) << name << ": " << report.problems.at(0);
    }
}

TEST(PluginCheck, CrashesExitsAndLoopsAreFindingsThatSayWhere) {
    const std::pair<const char*, const char*> cases[] = {
        {"constructor_crash", "crashed (Aborted) while loading it"},
        {"constructor_exit", "ended the process (exit code 0) while loading it"},
        {"entry_exit", "ended the process (exit code 3) while loading it"},
        {"compress_crash", "crashed (Aborted) while fixture: compressing a layer"},
        {"compress_exit", "ended the process (exit code 7) while fixture: compressing a layer"},
    };
    for (const auto& [name, finding] : cases)
        EXPECT_NE(problems(name).find(finding), std::string::npos) << problems(name);
    EXPECT_NE(problems("entry_loop", 1).find("did not end within 1 s while loading it"), std::string::npos);
    EXPECT_NE(problems("compress_loop", 1).find("did not end within 1 s while fixture: compressing a layer"),
              std::string::npos);
}

TEST(PluginCheck, MisbehaviourIsFound) {
    const std::pair<const char*, const char*> cases[] = {
        {"create_error", "fixture: not today"},
        {"cost", "held 51200 bytes of scratch, cost() announced 16"},
        {"prints", "writes to stdout or stderr: \"hello from the plugin"},
        {"unknown_code", "failed with code 4711"},
        {"no_replace", "ended without replacing the layer"},
        {"nan", "weight[0, 0] = -nan, which is not finite"},
        {"leak", "did not give 51200 bytes back"},
        {"null_slot", "leaves a function out"},
        {"throws", "threw an exception from its entry point"},
        {"abi_2", "plugin ABI 2.0"},
    };
    for (const auto& [name, finding] : cases)
        EXPECT_NE(problems(name).find(finding), std::string::npos) << name << ": " << problems(name);
}

}  // namespace
}  // namespace kerf::host
