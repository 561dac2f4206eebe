// SPDX-License-Identifier: Apache-2.0
// Every perplexity of golden/gptq.json for the tiny models of this repository: in the reference's own mode (one Hessian
// pass a block, or true_sequential), and in ours.
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

struct GoldenRun {
    std::string model;
    nlohmann::json settings;
    double perplexity, dense;

    friend std::ostream& operator<<(std::ostream& out, const GoldenRun& run) {
        return out << run.model << " " << run.settings.dump();
    }
};

std::vector<GoldenRun> golden_runs() {
    std::vector<GoldenRun> out;
    const auto golden = read_json(test_data("golden/gptq.json"));
    for (const std::string model : {"llama-tiny", "opt-tiny"})
        for (const auto& run : golden["models"][model]["runs"])
            out.push_back(
                {model, run["settings"], run["ppl"].get<double>(), golden["models"][model]["dense_ppl"].get<double>()});
    return out;
}

std::string name_of(const GoldenRun& run) {
    std::string name = run.model;
    for (const auto& [key, value] : run.settings.items())
        name += "_" + key + (value.is_boolean() ? "" : value.is_string() ? value.get<std::string>() : value.dump());
    std::erase_if(name, [](char c) { return c == '.'; });
    for (char& c : name)
        if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
    return name;
}

/// The reference's settings in our options' names.
nlohmann::json options_of(const nlohmann::json& settings) {
    nlohmann::json options;
    const std::map<std::string, std::string> names{{"wbits", "bits"},
                                                   {"groupsize", "group_size"},
                                                   {"percdamp", "damp"},
                                                   {"blocksize", "block_size"},
                                                   {"sym", "sym"},
                                                   {"act_order", "act_order"},
                                                   {"static_groups", "static_groups"},
                                                   {"mse", "mse"},
                                                   {"trits", "trits"}};
    for (const auto& [key, value] : settings.items())
        if (const auto name = names.find(key); name != names.end()) options[name->second] = value;
    if (!settings.contains("groupsize")) options["group_size"] = -1;
    options["compatibility"] = true;
    return options;
}

double tolerance(int bits) {
    return bits >= 4 ? 0.003 : bits == 3 ? 0.006 : 0.015;
}

/// A copy of the golden windows in another order or number: "a,b" = windows a..b-1, or "reversed".
std::filesystem::path chosen_windows(const Recipe& recipe, const std::string& choice,
                                     const std::filesystem::path& folder) {
    const Windows all = token_windows(recipe.calibration->path, "calib");
    std::vector<std::int64_t> order;
    if (choice == "reversed") {
        for (std::int64_t w = all.samples; w-- > 0;) order.push_back(w);
    } else {
        const auto comma = choice.find(',');
        for (std::int64_t w = std::stoll(choice); w < std::stoll(choice.substr(comma + 1)); ++w) order.push_back(w);
    }
    std::vector<std::int64_t> ids;
    for (const auto w : order) ids.insert(ids.end(), all.window(w).begin(), all.window(w).end());
    const ShardPlan plan({{"calib", DType::i64, {std::int64_t(order.size()), all.length}}}, 1u << 30, {});
    ShardWriter writer(plan, folder, false);
    writer.write("calib", std::as_bytes(std::span(ids)));
    return folder / plan.shard_name(0);
}

class Golden : public testing::TestWithParam<GoldenRun> {};

TEST_P(Golden, PerplexityIsTheReferencesInItsOwnMode) {
    const auto& [model, settings, expected, dense] = GetParam();
    const ScratchFolder scratch;
    nlohmann::json options = options_of(settings);
    const std::string method = settings["method"];
    if (method == "rtn") options.erase("act_order");
    Recipe recipe = golden_recipe(model, scratch.path() / "out", method, options);
    const bool truly_sequential = settings.value("true_sequential", false);
    recipe.stages[0].sequential = truly_sequential ? Sequential::group : Sequential::block;
    if (settings.contains("calib"))
        recipe.calibration->path = chosen_windows(recipe, settings["calib"], scratch.path());
    const double ours = perplexity_after(run_recipe(recipe, components(), false, {}));
    EXPECT_NEAR(ours, expected, tolerance(settings["wbits"].get<int>()) * expected);
    RecordProperty("ours", std::to_string(ours));
    RecordProperty("reference", std::to_string(expected));
}

INSTANTIATE_TEST_SUITE_P(Gptq, Golden, testing::ValuesIn(golden_runs()),
                         [](const auto& info) { return name_of(info.param); });

/// Our defaults at the reference's bits: on the sum of both models, no perplexity is worse than the reference's by more
/// than what two halves of the calibration set differ by, and on average they are better.
TEST(GptqDefaults, AreNoWorseThanTheReferenceAtEqualBits) {
    double log_ratio = 0;
    int runs = 0;
    for (const auto& run : golden_runs()) {
        const auto& s = run.settings;
        const bool plain = s["method"] == "gptq" && !s.contains("calib") && !s.contains("act_order") &&
                           !s.contains("mse") && !s.contains("trits") && !s.contains("percdamp") &&
                           !s.contains("blocksize") && s["wbits"] != 8;
        if (!plain) continue;
        const ScratchFolder scratch;
        const nlohmann::json options{
            {"bits", s["wbits"]}, {"group_size", s.value("groupsize", -1)}, {"sym", s.value("sym", false)}};
        const double ours = perplexity_after(
            run_recipe(golden_recipe(run.model, scratch.path() / "out", "gptq", options), components(), false, {}));
        EXPECT_LE(ours, run.perplexity * (1 + tolerance(s["wbits"].get<int>()))) << name_of(run);
        log_ratio += std::log(ours / run.perplexity);
        ++runs;
    }
    ASSERT_GT(runs, 5);
    EXPECT_LE(log_ratio / runs, 0);
}

}  // namespace
}  // namespace kerf::core
