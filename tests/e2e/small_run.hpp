// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "core/support/text.hpp"
#include "tests/e2e/command.hpp"

/// Runs over a small random model, and what interrupts them.
namespace kerf::e2e {

/// 2 blocks, 4 heads in 2 KV groups, 96 channels.
struct Small {
    Folder folder;
    explicit Small(std::int64_t windows = 4, std::int64_t length = 64) {
        make_tiny_model(folder / "model");
        make_tokens(folder / "tokens.safetensors", windows, length, 128);
    }
    fs::path recipe(const std::string& stages, const std::string& output = "out", const std::string& model = "model",
                    const std::string& format = "hf") const {
        const fs::path file = folder / (output + ".toml");
        spill(file, core::text("[model]\npath = \"", model,
                               "\"\n[calibration]\nsource = \"tokens\"\npath = \"tokens.safetensors\"\ntensor = "
                               "\"calib\"\nsamples = 0\nlength = 0\n",
                               stages, "[output]\npath = \"", output, "\"\ndtype = \"float32\"\nformat = \"", format,
                               "\"\n"));
        return file;
    }
};

inline const std::string kill_shim = KERF_BUILD "/tests/libkerf_kill_shim.so";

/// Where two texts part, for messages.
inline std::string first_difference(const std::string& a, const std::string& b) {
    const auto at = std::size_t(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
    const auto from = at > 80 ? at - 80 : 0;
    return " at byte " + std::to_string(at) + ":\n" + a.substr(from, 160) + "\ninstead of\n" + b.substr(from, 160);
}

/// Kills a run of the recipe at its k-th change of a file and resumes it: its `output` has the `expected` lasting
/// files.
inline void resumes_to(const std::map<std::string, std::string>& expected, const fs::path& recipe,
                       const fs::path& output, long k) {
    fs::remove_all(output);
    ASSERT_EQ(kerf({"run", recipe.string()}, {{"LD_PRELOAD", kill_shim}, {"KERF_KILL_AT", std::to_string(k)}}).code,
              128 + SIGKILL)
        << "at " << k;
    const Outcome resumed = kerf({"run", recipe.string(), "--resume"});
    ASSERT_EQ(resumed.code, 0) << "killed at " << k << ": " << resumed.err;
    const auto files = lasting_files(output);
    ASSERT_EQ(files.size(), expected.size()) << "killed at " << k;
    for (const auto& [name, content] : expected) {
        ASSERT_TRUE(files.contains(name)) << name << ", killed at " << k;
        ASSERT_TRUE(files.at(name) == content)
            << name << ", killed at " << k << first_difference(files.at(name), content);
    }
    ASSERT_FALSE(fs::exists(output.string() + ".partial")) << "killed at " << k;
}

/// Counts the changes of files in a run of the recipe, then kills it at those that `places` picks among so many, one
/// after the other, and resumes it. `check` looks at each resumed result.
inline void survives_kills(const fs::path& recipe, const fs::path& output,
                           const std::function<std::vector<long>(long calls)>& places,
                           const std::function<void(long k)>& check = {}) {
    const fs::path count = recipe.parent_path() / "count";
    const Outcome whole =
        kerf({"run", recipe.string()}, {{"LD_PRELOAD", kill_shim}, {"KERF_KILL_COUNT", count.string()}});
    ASSERT_EQ(whole.code, 0) << whole.err;
    const auto expected = lasting_files(output);
    for (const long k : places(std::stol(slurp(count)))) {
        resumes_to(expected, recipe, output, k);
        if (testing::Test::HasFatalFailure()) return;
        if (check) check(k);
    }
}

/// The first, and every step-th after it.
inline std::function<std::vector<long>(long)> every(long first, long step) {
    return [=](long calls) {
        std::vector<long> out;
        for (long k = first; k <= calls; k += step) out.push_back(k);
        return out;
    };
}

}  // namespace kerf::e2e
