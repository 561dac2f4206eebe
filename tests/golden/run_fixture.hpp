// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <unistd.h>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/exec/program.hpp"
#include "core/pipeline/model.hpp"
#include "core/pipeline/recipe.hpp"
#include "core/pipeline/run.hpp"
#include "core/support/file.hpp"
#include "core/weights/tensor_file.hpp"
#include "host/loader/plugin.hpp"

namespace kerf::core {

inline std::filesystem::path test_data(const std::string& name) {
    return std::filesystem::path(KERF_TEST_DATA) / name;
}

/// Whether all golden figures are asked for, which takes half an hour, and not the usual choice.
inline bool all_figures() {
    const char* asked = std::getenv("KERF_GOLDEN");
    return asked && std::string(asked) == "all";
}
/// Every step-th of many settings, or all of them.
template <class T>
std::vector<T> chosen(const std::vector<T>& settings, std::size_t step) {
    std::vector<T> out;
    for (std::size_t i = 0; i < settings.size(); i += all_figures() ? 1 : step) out.push_back(settings[i]);
    return out;
}

/// Where the trained tiny model NAME is: in the clone or, for those that would make it too large, in the shared folder
/// of the project's golden figures (../shared). Empty: neither has it.
inline std::filesystem::path trained_model(const std::string& name) {
    const std::filesystem::path shared = KERF_SHARED;
    for (const auto& folder : {test_data("models/" + name), shared / "models" / name})
        if (Checkpoint::present(folder)) return folder;
    return {};
}
/// A file of golden figures of such a model.
inline std::filesystem::path golden_file(const std::string& model, const std::string& file) {
    const auto own = test_data("golden/" + file);
    return std::filesystem::exists(own) ? own : trained_model(model) / "../../golden" / file;
}
#define KERF_SKIP_WITHOUT(model)      \
    if (trained_model(model).empty()) \
    GTEST_SKIP() << "needs ../shared/models/" << (model) << " and the figures in ../shared/golden"

/// The plugins of this build.
inline const Components& components() {
    static const host::Registry registry = [] {
        initialise_execution();
        return host::Registry::scan({std::filesystem::path(KERF_BUILD) / "lib/kerf"});
    }();
    static const Components found = registry.components();
    return found;
}

/// A folder of its own for each test, gone when the test is.
class ScratchFolder {
public:
    ScratchFolder() {
        const auto* test = testing::UnitTest::GetInstance()->current_test_info();
        std::string name = std::string(test->test_suite_name()) + "." + test->name() + "." + std::to_string(::getpid());
        std::replace(name.begin(), name.end(), '/', '_');
        path_ = std::filesystem::temp_directory_path() / ("kerf-test." + name);
        std::filesystem::remove_all(path_);
        std::filesystem::create_directories(path_);
    }
    ~ScratchFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    const std::filesystem::path& path() const { return path_; }

private:
    std::filesystem::path path_;
};

inline Windows token_windows(const std::filesystem::path& file, const std::string& tensor, std::int64_t samples = 0) {
    TextSource source;
    source.source = "tokens";
    source.path = file;
    source.tensor = tensor;
    source.samples = samples;
    source.length = 0;
    return calibration_windows(source, nullptr, std::int64_t{1} << 30);
}

/// A recipe with one stage over the golden token windows of a tiny model.
inline Recipe golden_recipe(const std::string& model, const std::filesystem::path& output, const std::string& method,
                            const nlohmann::json& options) {
    Recipe recipe;
    recipe.file = "golden.toml";
    recipe.text = options.dump();
    recipe.model.path = trained_model(model);
    TextSource calibration;
    calibration.source = "tokens";
    calibration.path = golden_file(model, "tokens-" + model + ".safetensors");
    calibration.tensor = "calib";
    calibration.samples = 0;
    calibration.length = 0;
    recipe.calibration = calibration;
    StageSpec stage;
    stage.method = method;
    stage.options = options;
    stage.location = "golden.toml:1";
    recipe.stages.push_back(stage);
    recipe.evaluation.before = false;
    TextSource eval = calibration;
    eval.tensor = "eval";
    recipe.evaluation.perplexity.push_back({"eval", eval});
    recipe.output.path = output;
    recipe.output.dtype = DType::f32;
    return recipe;
}

/// max |x|
inline double largest(const std::vector<float>& values) {
    double out = 0;
    for (const float value : values) out = std::max(out, std::abs(double(value)));
    return out;
}
/// max |a - b|
inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
    EXPECT_EQ(a.size(), b.size());
    double out = 0;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
        out = std::max(out, std::abs(double(a[i]) - double(b[i])));
    return out;
}

inline double perplexity_after(const nlohmann::json& report) {
    return report["after"]["perplexity"]["eval"]["value"].get<double>();
}

}  // namespace kerf::core
