// SPDX-License-Identifier: Apache-2.0
// Every perplexity of golden/gptq.json for the tiny models of this repository: in the reference's own mode (one Hessian
// pass a block, or true_sequential), and in ours.
#include <cmath>
#include <numeric>

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

/// Three runs of each further family: nearest rounding, GPTQ at 4 bits, and at 3 bits in static groups with act_order.
std::vector<GoldenRun> runs_of_further_families() {
    const nlohmann::json chosen[] = {
        {{"method", "rtn"}, {"wbits", 3}},
        {{"method", "gptq"}, {"wbits", 4}},
        {{"method", "gptq"}, {"wbits", 3}, {"groupsize", 64}, {"act_order", true}, {"static_groups", true}}};
    std::vector<GoldenRun> out;
    const auto golden = read_json(test_data("golden/gptq.json"));
    for (const std::string model : {"phi2-tiny", "phi3-tiny", "falcon-tiny"})
        for (const auto& run : golden["models"][model]["runs"])
            if (std::find(std::begin(chosen), std::end(chosen), run["settings"]) != std::end(chosen))
                out.push_back({model, run["settings"], run["ppl"].get<double>(),
                               golden["models"][model]["dense_ppl"].get<double>()});
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
    KERF_SKIP_WITHOUT(model);
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

INSTANTIATE_TEST_SUITE_P(Gptq, Golden, testing::ValuesIn(chosen(golden_runs(), 2)),
                         [](const auto& info) { return name_of(info.param); });
INSTANTIATE_TEST_SUITE_P(GptqOfFurtherFamilies, Golden, testing::ValuesIn(runs_of_further_families()),
                         [](const auto& info) { return name_of(info.param); });

/// The runs with nothing but bits, group size and symmetry set: what our defaults are compared with at equal bits.
std::vector<GoldenRun> plain_runs() {
    std::vector<GoldenRun> out;
    for (auto& run : golden_runs()) {
        const auto& s = run.settings;
        const bool plain = s["method"] == "gptq" && !s.contains("calib") && !s.contains("act_order") &&
                           !s.contains("mse") && !s.contains("trits") && !s.contains("percdamp") &&
                           !s.contains("blocksize") && s["wbits"] != 8;
        if (plain) out.push_back(std::move(run));
    }
    return out;
}

nlohmann::json defaults_at(const nlohmann::json& settings) {
    return {{"bits", settings["wbits"]},
            {"group_size", settings.value("groupsize", -1)},
            {"sym", settings.value("sym", false)}};
}

/// How far the reference's own perplexity moves when it is given one or the other half of the calibration windows, the
/// largest such ratio of a model: less than that says nothing about a method.
double spread_of_the_reference(const std::string& model) {
    std::map<std::string, std::pair<double, double>> range;  // by the settings without the choice of windows
    double largest = 1;
    for (const auto& run : golden_runs()) {
        if (run.model != model) continue;
        nlohmann::json same = run.settings;
        same.erase("calib");
        auto& [low, high] = range.try_emplace(same.dump(), run.perplexity, run.perplexity).first->second;
        low = std::min(low, run.perplexity);
        high = std::max(high, run.perplexity);
        largest = std::max(largest, high / low);
    }
    return largest;
}

/// Mean log ratio of all runs, against the standard error of that mean: which of two roundings of a weight a processor
/// takes moves each run by some 0.002, and with it the sign of a mean that is nearly 0.
TEST(GptqPerplexity, DefaultsAreNoWorseThanTheReferenceAtEqualBits) {
    std::vector<double> log_ratios;
    const auto runs = plain_runs();
    ASSERT_GT(runs.size(), 5u);
    for (const auto& run : runs) {
        const ScratchFolder scratch;
        const double ours = perplexity_after(
            run_recipe(golden_recipe(run.model, scratch.path() / "out", "gptq", defaults_at(run.settings)),
                       components(), false, {}));
        EXPECT_LE(ours, run.perplexity * spread_of_the_reference(run.model)) << name_of(run);
        log_ratios.push_back(std::log(ours / run.perplexity));
    }
    const double count = double(log_ratios.size());
    const double mean = std::accumulate(log_ratios.begin(), log_ratios.end(), 0.0) / count;
    double squares = 0;
    for (const double ratio : log_ratios) squares += (ratio - mean) * (ratio - mean);
    EXPECT_LE(mean, std::sqrt(squares / (count - 1) / count));
}

class GptqDefaults : public testing::TestWithParam<GoldenRun> {};

/// Divergence from the dense model: what perplexity only shows through the noise of a small model, which a compressed
/// one may beat by chance.
TEST_P(GptqDefaults, AreNearerToTheDenseModelThanTheReference) {
    const auto& [model, settings, expected, dense] = GetParam();
    const auto divergence = [&](const nlohmann::json& options, Sequential sequential) {
        const ScratchFolder scratch;
        Recipe recipe = golden_recipe(model, scratch.path() / "out", "gptq", options);
        recipe.stages[0].sequential = sequential;
        recipe.evaluation.kl = true;
        return run_recipe(recipe, components(), false, {})["kl"]["eval"].get<double>();
    };
    const double ours = divergence(defaults_at(settings), Sequential::group);
    EXPECT_LE(ours, divergence(options_of(settings),
                               settings.value("true_sequential", false) ? Sequential::group : Sequential::block));
}

INSTANTIATE_TEST_SUITE_P(Plain, GptqDefaults, testing::ValuesIn(chosen(plain_runs(), 3)),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace kerf::core
