// SPDX-License-Identifier: Apache-2.0
// SliceGPT against the figures of microsoft/TransformerCompression in golden/slicegpt.json, and what it promises
// beyond.
#include <algorithm>
#include <cmath>
#include <fstream>

#include "core/eval/evaluate.hpp"
#include "core/graph/residual.hpp"
#include "core/pipeline/basis_stage.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/support/error.hpp"
#include "core/weights/safetensors_writer.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json golden() {
    const fs::path own = test_data("golden/slicegpt.json"), shared = fs::path(KERF_SHARED) / "golden/slicegpt.json";
    return read_json(fs::exists(own) ? own : shared);
}

struct GoldenSlice {
    std::string model, setting;
    friend std::ostream& operator<<(std::ostream& out, const GoldenSlice& s) {
        return out << s.model << " " << s.setting;
    }
};

/// A few settings that differ in kind; all of them where they are asked for.
std::vector<GoldenSlice> golden_slices() {
    std::vector<GoldenSlice> few{{"llama-tiny", "s0.50"},
                                 {"llama-tiny", "linear_sched"},
                                 {"opt-tiny", "s0.50"},
                                 {"phi2-tiny", "s0.50"},
                                 {"phi3-tiny", "s0.25_nomean"}};
    if (!all_figures()) return few;
    std::vector<GoldenSlice> all;
    const json figures = golden();
    for (const auto& [model, settings] : figures["models"].items())
        for (const auto& [name, setting] : settings.items())
            if (name != "dense" && name != "fused") all.push_back({model, name});
    for (const auto& [name, figure] : figures["variants"]["figures"].items()) {
        const auto slash = name.find('/');
        all.push_back({name.substr(0, slash), name.substr(slash + 1)});
    }
    return all;
}

/// What the file says of a setting. Variants have perplexities, and parameters, alone.
json setting_of(const json& figures, const GoldenSlice& slice) {
    const json& settings = figures["models"][slice.model];
    if (settings.contains(slice.setting)) return settings[slice.setting];
    json out = figures["variants"]["figures"][slice.model + "/" + slice.setting];
    out.update({{"variant", slice.setting.substr(0, slice.setting.find('/'))},
                {"sparsity", std::stod(slice.setting.substr(slice.setting.find("/s") + 2))},
                {"round_interval", 8},
                {"final_orientation", "pca"},
                {"do_slice_head", false},
                {"embedding_mean_removed", true}});
    return out;
}

json options_of(const json& setting) {
    const bool centred = setting["embedding_mean_removed"];
    json options{{"round_interval", setting["round_interval"]},
                 {"final_orientation", setting["final_orientation"]},
                 {"slice_head", setting["do_slice_head"]}};
    // What the reference does without taking the mean away is our own default with its signals.
    if (setting.value("variant", "") == "normalized_pca")
        options["signal"] =
            "normalized";  // but for the centred embeddings, which move perplexity by less than asked for
    else if (centred)
        options["compatibility"] = true;
    else
        options["signal"] = "raw";
    if (setting.contains("scheduler")) {
        const auto& s = setting["scheduler"];
        options.update({{"scheduler", "linear"},
                        {"attention_start", s["attn_start"]},
                        {"attention_end", s["attn_end"]},
                        {"mlp_start", s["mlp_start"]},
                        {"mlp_end", s["mlp_end"]}});
    } else {
        options["sparsity"] = setting["sparsity"];
    }
    return options;
}

/// The last `count` calibration windows of a model as a file of their own.
fs::path last_windows(const std::string& model, std::int64_t count, const fs::path& folder) {
    const auto file = open_safetensors(golden_file(model, "tokens-" + model + ".safetensors"));
    const StoredTensor& tensor = *file->find("calib");
    const std::size_t bytes = std::size_t(count * tensor.shape[1]) * sizeof(std::int64_t);
    const ShardPlan plan({{"calib", DType::i64, {count, tensor.shape[1]}}}, 1u << 30, {});
    ShardWriter writer(plan, folder, false);
    writer.write("calib", tensor.bytes.last(bytes));
    writer.sync();
    return folder / plan.shard_name(0);
}

double squares(const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) sum += double(value) * double(value);
    return sum;
}
/// ‖a − b‖ / ‖b‖
double relative_distance(std::vector<float> a, const std::vector<float>& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
    return std::sqrt(squares(a) / squares(b));
}

void check_positions(const json& positions, const json& points) {
    ASSERT_EQ(positions.size(), points.size());
    for (std::size_t p = 0; p < points.size(); ++p) {
        const auto near = [&](const char* mine, const char* theirs, double tolerance) {
            const double wanted = points[p][theirs];
            EXPECT_NEAR(positions[p][mine].get<double>(), wanted, tolerance * wanted) << mine << " at " << p;
        };
        near("trace", "trace_H_undamped", 1e-5);
        near("eigenvalue_largest", "eig_max", 1e-3);
        if (p + 1 < points.size()) {  // the last position keeps all: the reference reports it at the sliced size
            near("eigenvalue_kept", "eig_k", 1e-3);
            near("energy", "kept_energy_damped", 1e-3);
        }
        near("eigenvalue_smallest", "eig_min", 1e-3);
    }
}

/// Shapes of the embedding tables and of the head.
void check_outer_shapes(const Model& sliced, const json& shapes) {
    json tables = json::array();
    for (const auto& op : sliced.graph().prologue)
        if (op.kind == OpKind::embedding) tables.push_back(sliced.tensor(op.weight).shape);
    EXPECT_EQ(tables, shapes["embeddings"]);
    const Op& head = sliced.graph().epilogue.back();
    EXPECT_EQ(json(sliced.tensor(head.weight).shape), shapes["head"]["weight"]);
    EXPECT_EQ(!head.bias.empty(), shapes["head"].contains("bias"));
}

/// Shapes by layer and module, as the reference names them.
void check_shapes(const Model& sliced, const json& shapes) {
    check_outer_shapes(sliced, shapes);
    for (const auto& [layer, tensors] : shapes.items()) {
        if (layer == "embeddings" || layer == "head") continue;
        const Block& block = sliced.graph().blocks[std::size_t(std::stoi(layer))];
        for (const auto& [name, shape] : tensors.items()) {
            const bool attention = name == "attn_shortcut_Q", shortcut = attention || name == "mlp_shortcut_Q";
            const std::string ours = shortcut ? block.name + (attention ? ".shortcut_0" : ".shortcut_1") + ".weight"
                                              : block.name + "." + name;
            auto wanted = shape.get<std::vector<std::int64_t>>();
            if (shortcut) std::reverse(wanted.begin(), wanted.end());
            EXPECT_EQ(sliced.tensor(ours).shape, wanted) << ours;
        }
    }
}

void check_products(const Model& sliced, const json& expected) {
    std::map<bool, std::int64_t> products;
    for (std::size_t part = 0; part < sliced.graph().blocks.size() + 2; ++part)
        for (const auto& op : part_ops(sliced.graph(), part))
            if (op.kind == OpKind::linear) products[op.role == "shortcut"] += op.rows * op.columns;
    EXPECT_EQ(products[false], expected["linear"].get<std::int64_t>());
    EXPECT_EQ(products[true], expected["shortcut"].get<std::int64_t>());
}

class SliceGptGolden : public testing::TestWithParam<GoldenSlice> {};

TEST_P(SliceGptGolden, PerplexityAndSizesAreTheReferences) {
    const auto& [model, name] = GetParam();
    KERF_SKIP_WITHOUT(model);
    const json figures = golden(), setting = setting_of(figures, GetParam());
    const ScratchFolder scratch;
    Recipe recipe = golden_recipe(model, scratch.path() / "out", "slicegpt", options_of(setting));
    if (setting.value("variant", "") == "two_phase") recipe.stages[0].sequential = Sequential::none;
    if (name.ends_with("first32")) recipe.calibration->samples = 32;
    if (name.ends_with("last32")) recipe.calibration->path = last_windows(model, 32, scratch.path());
    const Plan plan = make_plan(recipe, components());
    const json report = run_recipe(recipe, components(), false, {});
    const double ours = perplexity_after(report), expected = setting["ppl"],
                 dense = figures["models"][model]["dense"]["ppl"];
    EXPECT_NEAR(ours, expected, 5e-4 * expected);
    if (expected - dense > 0.5) {
        EXPECT_NEAR(ours - dense, expected - dense, 0.05 * (expected - dense));
    }
    RecordProperty("perplexity", std::to_string(ours));
    EXPECT_EQ(plan.output_bytes, fs::file_size(scratch.path() / "out/model.safetensors"));
    EXPECT_EQ(report["parameters"]["after"], plan.parameters_after);
    if (setting.contains("params")) {
        EXPECT_EQ(plan.parameters_after, setting["params"].get<std::int64_t>());
    }
    if (setting.contains("pca_points")) check_positions(report["stages"][0]["positions"], setting["pca_points"]);
    const Model sliced = Model::open(scratch.path() / "out", components());
    if (setting.contains("shapes")) check_shapes(sliced, setting["shapes"]);
    if (setting.contains("macs_per_token")) check_products(sliced, setting["macs_per_token"]);
    if (!setting.contains("logit_rel_fro")) return;
    const Windows windows = token_windows(golden_file(model, "tokens-" + model + ".safetensors"), "eval", 4);
    const auto from = logits(Model::open(trained_model(model), components()), windows, DType::f32, scratch.path());
    const double error = relative_distance(logits(sliced, windows, DType::f32, scratch.path()), from);
    const double wanted = setting["logit_rel_fro"];
    // Where the function is kept rounding is all that is left; otherwise as near as the perplexity's increase.
    if (wanted < 1e-5)
        EXPECT_LE(error, 1e-5);
    else
        EXPECT_NEAR(error, wanted, 0.05 * wanted);
}

INSTANTIATE_TEST_SUITE_P(SliceGpt, SliceGptGolden, testing::ValuesIn(golden_slices()), [](const auto& info) {
    std::string name = info.param.model + "_" + info.param.setting;
    for (char& c : name)
        if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
    return name;
});

class SliceGptFamilies : public testing::TestWithParam<std::string> {};

TEST_P(SliceGptFamilies, AtSparsityZeroTheModelIsTheDenseOne) {
    KERF_SKIP_WITHOUT(GetParam());
    for (const char* basis : {"position", "shared"}) {
        const ScratchFolder scratch;
        Recipe recipe =
            golden_recipe(GetParam(), scratch.path() / "out", "slicegpt", {{"sparsity", 0}, {"basis", basis}});
        recipe.calibration->samples = 8;
        recipe.evaluation.perplexity.clear();
        run_recipe(recipe, components(), false, {});
        const Model dense = Model::open(trained_model(GetParam()), components());
        const Model sliced = Model::open(scratch.path() / "out", components());
        const auto windows =
            token_windows(golden_file(GetParam(), "logits-" + GetParam() + ".safetensors"), "input_ids");
        const auto expected = logits(dense, windows, DType::f32, scratch.path());
        const auto found = logits(sliced, windows, DType::f32, scratch.path());
        EXPECT_LE(relative_distance(found, expected), 1e-5) << basis;
    }
}

INSTANTIATE_TEST_SUITE_P(Zero, SliceGptFamilies,
                         testing::Values("llama-tiny", "opt-tiny", "phi2-tiny", "phi3-tiny", "falcon-tiny"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

/// Sizes follow from the config alone: no weights are there.
TEST(SliceGptCounts, OfPublishedModelsFollowFromTheirConfigs) {
    const MethodComponent& slicegpt = *components().method("slicegpt");
    for (const auto& row : golden()["published_counts"]) {
        const std::string model = row["model"];
        const Model described =
            Model::describe(test_data("configs/" + model.substr(model.find('/') + 1)), components());
        const auto method = std::make_shared<MethodInstance>(
            slicegpt, components().host,
            validate_options({slicegpt.table->options_schema.data, slicegpt.table->options_schema.size},
                             {{"sparsity", 0.2}}, "slicegpt", {}));
        const BasisStage stage = BasisStage::plan(method, described, 1 << 18, {});
        EXPECT_EQ(stage.bases[0]->size(), row["dim"].get<std::int64_t>()) << model;
        EXPECT_EQ(stage.result.parameters(), row["params"].get<std::int64_t>()) << model;
    }
}

Recipe small_recipe(const fs::path& output, const json& options) {
    Recipe recipe = golden_recipe("llama-tiny", output, "slicegpt", options);
    recipe.calibration->samples = 8;
    recipe.evaluation.perplexity.clear();
    return recipe;
}

std::string bytes_of(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

TEST(SliceGptRun, ResumedFromAnyBlockGivesTheSameBytes) {
    for (const char* basis : {"position", "block"}) {
        const ScratchFolder scratch;
        const json options{{"sparsity", 0.3}, {"basis", basis}};
        const auto recipe_for = [&](const char* output) {
            Recipe recipe = small_recipe(scratch.path() / output, options);
            recipe.stages[0].refit = true;
            return recipe;
        };
        run_recipe(recipe_for("whole"), components(), false, {});
        const std::string whole = bytes_of(scratch.path() / "whole/model.safetensors");
        int asked = 0, stop = 6;
        bool finished = false;
        Observer observer;
        observer.cancelled = [&] { return ++asked % stop == 0; };
        for (int attempt = 0; attempt < 60 && !finished; ++attempt) {
            try {
                run_recipe(recipe_for("resumed"), components(), attempt > 0, observer);
                finished = true;
            } catch (const Error& error) {
                ASSERT_EQ(error.fault(), Fault::cancelled) << error.what();
                stop += 4;
                asked = 0;
            }
        }
        ASSERT_TRUE(finished);
        EXPECT_EQ(bytes_of(scratch.path() / "resumed/model.safetensors"), whole) << basis;
    }
}

TEST(SliceGptRun, ASharedBasisHasNoShortcutsAndFitsItsBudget) {
    const ScratchFolder scratch;
    const json report = run_recipe(
        small_recipe(scratch.path() / "out", {{"basis", "shared"}, {"scheduler", "budget"}, {"sparsity", 0.2}}),
        components(), false, {});
    EXPECT_LE(report["parameters"]["after"].get<double>(), 0.8 * report["parameters"]["before"].get<double>());
    EXPECT_GT(report["parameters"]["after"].get<double>(), 0.75 * report["parameters"]["before"].get<double>());
    const Model sliced = Model::open(scratch.path() / "out", components());
    for (const auto& block : sliced.graph().blocks)
        for (const auto& op : block.ops) EXPECT_NE(op.role, "shortcut");
}

/// Uniform widths under RMS norms are a model of the family: no code of ours is needed to load it.
TEST(SliceGptRun, ASharedBasisLeavesAStockModelUnderRmsNorms) {
    for (const std::string family : {"llama-tiny", "phi3-tiny"}) {
        KERF_SKIP_WITHOUT(family);
        const ScratchFolder scratch;
        Recipe recipe = golden_recipe(family, scratch.path() / "out", "slicegpt", {{"basis", "shared"}});
        recipe.calibration->samples = recipe.evaluation.perplexity[0].text.samples = 8;
        recipe.evaluation.before = true;
        const Plan plan = make_plan(recipe, components());
        const json report = run_recipe(recipe, components(), false, {});
        const json dense = read_json(trained_model(family) / "config.json"),
                   config = read_json(scratch.path() / "out/config.json");
        EXPECT_EQ(config["model_type"], dense["model_type"]);
        EXPECT_EQ(config["hidden_size"], 192);
        EXPECT_EQ(config["head_dim"], 256 / dense["num_attention_heads"].get<int>());
        EXPECT_NEAR(config["rms_norm_eps"].get<double>(), dense["rms_norm_eps"].get<double>() * 256 / 192, 1e-12);
        EXPECT_FALSE(fs::exists(scratch.path() / "out/modeling_kerf.py"));
        const Model sliced = Model::open(scratch.path() / "out", components());
        EXPECT_FALSE(sliced.is_edited());
        EXPECT_EQ(sliced.parameters(), plan.parameters_after);
        EXPECT_EQ(plan.output_bytes, fs::file_size(scratch.path() / "out/model.safetensors"));
        EXPECT_LT(perplexity_after(report), 1.1 * report["before"]["perplexity"]["eval"]["value"].get<double>());
    }
}

TEST(SliceGptRun, SizesByEnergyDifferAndStayWithinTheBudget) {
    const ScratchFolder scratch;
    const Recipe recipe = small_recipe(scratch.path() / "out", {{"scheduler", "budget"}, {"sparsity", 0.2}});
    const Plan plan = make_plan(recipe, components());
    EXPECT_TRUE(plan.stages[0].estimated);
    const json report = run_recipe(recipe, components(), false, {});
    EXPECT_GE(plan.parameters_after, report["parameters"]["after"].get<std::int64_t>());
    EXPECT_GE(plan.output_bytes, fs::file_size(scratch.path() / "out/model.safetensors"));
    EXPECT_LE(report["parameters"]["after"].get<double>(), 0.8 * report["parameters"]["before"].get<double>());
    double least = 1e9, most = 0;
    const json positions = report["stages"][0]["positions"];
    for (const auto& position : positions) {
        least = std::min(least, position["features"].get<double>());
        most = std::max(most, position["features"].get<double>());
    }
    EXPECT_LT(least, most);
}

TEST(SliceGptRun, IsFollowedByAQuantiserOfTheSlicedShapes) {
    for (const char* scheduler : {"constant", "energy"}) {
        const ScratchFolder scratch;
        Recipe recipe = small_recipe(scratch.path() / "out", {{"scheduler", scheduler}, {"energy", 0.97}});
        StageSpec rounding;
        rounding.method = "rtn";
        rounding.options = {{"bits", 8}, {"group_size", 32}};
        rounding.location = "golden.toml:9";
        recipe.stages.push_back(rounding);
        const json report = run_recipe(recipe, components(), false, {});
        const Model out = Model::open(scratch.path() / "out", components());
        EXPECT_EQ(out.parameters(), report["parameters"]["after"].get<std::int64_t>());
        EXPECT_LT(out.parameters(), report["parameters"]["before"].get<std::int64_t>());
        for (const auto& linear : report["stages"][1]["linears"])
            EXPECT_EQ(linear["name"].get<std::string>().find("shortcut"), std::string::npos);
        EXPECT_EQ(report["stages"][1]["linears"].size(), 28u);
    }
}

/// Pooled axes are nobody's own: what reads a shared basis gains most.
TEST(SliceGptRun, ARefitOfReadersComesNearerToTheDenseModel) {
    for (const char* basis : {"shared", "position"}) {
        const ScratchFolder scratch;
        std::map<bool, double> perplexities;
        for (const bool refit : {false, true}) {
            Recipe recipe = golden_recipe("llama-tiny", scratch.path() / (refit ? "refit" : "plain"), "slicegpt",
                                          {{"sparsity", 0.4}, {"basis", basis}});
            recipe.calibration->samples = 16;
            recipe.evaluation.perplexity[0].text.samples = 16;
            recipe.stages[0].refit = refit;
            const json report = run_recipe(recipe, components(), false, {});
            perplexities[refit] = perplexity_after(report);
            const json positions = report["stages"][0]["positions"];
            for (const auto& position : positions) {
                EXPECT_EQ(position.contains("error_refit"), refit) << position;
                if (refit) {
                    EXPECT_LE(position["error_refit"].get<double>(), position["error_sliced"].get<double>() + 1e-12);
                    EXPECT_GT(position["error_sliced"].get<double>(), 0);
                }
            }
        }
        EXPECT_LT(perplexities[true], perplexities[false]) << basis;
        RecordProperty(std::string("plain_") + basis, std::to_string(perplexities[false]));
        RecordProperty(std::string("refit_") + basis, std::to_string(perplexities[true]));
    }
}

TEST(SliceGptRun, SaysWhatItCannotDo) {
    const ScratchFolder scratch;
    const auto refusal = [&](const json& options, const std::function<void(Recipe&)>& change = {}) -> std::string {
        Recipe recipe = small_recipe(scratch.path() / "out", options);
        if (change) change(recipe);
        try {
            make_plan(recipe, components());
        } catch (const Error& error) {
            EXPECT_EQ(error.fault(), Fault::input) << error.what();
            return error.what();
        }
        return "";
    };
    EXPECT_NE(refusal({{"sparsity", 1}}).find("sparsity"), std::string::npos);
    EXPECT_NE(refusal({{"sparsity", -0.1}}).find("sparsity"), std::string::npos);
    EXPECT_NE(refusal({{"round_interval", 0}}).find("round_interval"), std::string::npos);
    EXPECT_NE(refusal({{"sparsity", 0.99}}).find("nothing would be left of the 256 features"), std::string::npos);
    EXPECT_NE(refusal({{"basis", "shared"}, {"scheduler", "linear"}}).find("linear"), std::string::npos);
    EXPECT_NE(refusal({}, [](Recipe& r) { r.stages[0].include = {"*"}; }).find("include"), std::string::npos);
    EXPECT_NE(refusal({}, [](Recipe& r) { r.calibration.reset(); }).find("calibration"), std::string::npos);
    EXPECT_NE(refusal({}, [](Recipe& r) { r.output.format = "gptq"; }).find("integer codes"), std::string::npos);
    EXPECT_NE(refusal({}, [](Recipe& r) { r.model.path = test_data("models/gemma2-tiny"); }).find("layernorm"),
              std::string::npos);
}

}  // namespace
}  // namespace kerf::core
