// SPDX-License-Identifier: Apache-2.0
// Each family, or form of it, without a trained tiny model in the repository, on random weights: what transformers
// computes, compression end to end, and what is refused. tests/data/make_tiny_models.py made the models and the
// figures.
#include <cmath>
#include <optional>
#include <set>

#include "core/eval/evaluate.hpp"
#include "core/pipeline/block_runner.hpp"
#include "core/pipeline/prepared.hpp"
#include "core/support/error.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

std::filesystem::path golden_file(const std::string& model) {
    return test_data("golden/logits-" + model + ".safetensors");
}

std::vector<float> golden_values(const TensorFile& file, const std::string& name) {
    const StoredTensor& tensor = *file.find(name);
    std::vector<float> out(std::size_t(tensor.elements()));
    to_float32(tensor, out);
    return out;
}

/// ‖a − b‖ / ‖b‖
double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
    EXPECT_EQ(a.size(), b.size());
    double difference = 0, whole = 0;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        difference += (double(a[i]) - double(b[i])) * (double(a[i]) - double(b[i]));
        whole += double(b[i]) * double(b[i]);
    }
    return std::sqrt(difference / whole);
}

Recipe gptq_recipe(const std::string& model, const std::filesystem::path& output) {
    Recipe recipe = golden_recipe(model, output, "gptq", {{"bits", 4}, {"group_size", 16}});
    recipe.calibration->path = golden_file(model);
    recipe.evaluation.perplexity[0].text.path = golden_file(model);
    recipe.evaluation.perplexity[0].text.tensor = "input_ids";
    return recipe;
}

/// One stage of a recipe, block by block as run_recipe does it, with what is otherwise gone afterwards: the calibration
/// tokens' stream behind the last block, as it was while the weights were in memory.
struct Compression {
    std::vector<float> stream;
    std::vector<std::string> warnings;
    std::map<std::string, std::map<std::string, double>> metrics;
    std::optional<Model> result;

    Compression(const Recipe& recipe, const std::filesystem::path& folder) {
        const Prepared prepared = prepare(recipe, components());
        const Model& model = prepared.model;
        const OutputLayout layout = layout_of(recipe, prepared, 0, model);
        ResultWriter writer(layout, model, folder, false);
        writer.write_copied(layout.outside());
        const Units units(*prepared.stages[0].windows);
        States states(units, folder, DType::f32);
        embed_all(model, units, DType::f32, states);
        const BlockRunner::Hooks hooks{.made =
                                           [&](const Target& target, const Compressed& made) {
                                               writer.write_linear(target, made);
                                               metrics[target.name] = made.metrics;
                                           },
                                       .pruned = {},
                                       .progress = [](double) {},
                                       .log = [&](int, const std::string& line) { warnings.push_back(line); },
                                       .check_cancelled = [] {}};
        for (std::size_t block = 0; block < model.graph().blocks.size(); ++block) {
            BlockRunner(model, prepared.stages[0], block, layout, hooks).run(units, states, nullptr, DType::f32, false);
            writer.write_copied(block);
        }
        for (std::int64_t unit = 0; unit < units.count(); ++unit) {
            const auto part = states.get("x", unit).to_floats();
            stream.insert(stream.end(), part.begin(), part.end());
        }
        writer.sync();
        write_atomically(folder / "config.json", output_config(model, layout).dump());
        result = Model::open(folder, components());
    }
};

class Family : public testing::TestWithParam<const char*> {
protected:
    std::string name_ = GetParam();
    Model model_ = Model::open(test_data("models/" + name_), components());
    ScratchFolder scratch_;
};

TEST_P(Family, GivesTheLogitsAndHiddenStatesOfTransformers) {
    const auto golden = open_safetensors(golden_file(name_));
    const Windows windows = token_windows(golden_file(name_), "input_ids");
    for (std::size_t block = 0; block <= model_.graph().blocks.size(); ++block) {
        const auto expected = golden_values(*golden, "hidden." + std::to_string(block));
        EXPECT_LE(distance(hidden_states(model_, windows, block, DType::f32, scratch_.path()), expected),
                  1e-4 * largest(expected))
            << "block " << block;
    }
    const auto expected = golden_values(*golden, "logits");
    EXPECT_LE(distance(logits(model_, windows, DType::f32, scratch_.path()), expected), 1e-4 * largest(expected));
}

// A bfloat16 has 8 bits: each of some 30 roundings on the way through two blocks moves a value by 2^-9 of itself or
// less, and attention and norms amplify what they are given a few times. A token in ten may do worse: a router whose
// choice is close sends it to another expert.
TEST_P(Family, IsNearInBfloat16) {
    const Windows windows = token_windows(golden_file(name_), "input_ids");
    const auto wide = logits(model_, windows, DType::f32, scratch_.path());
    const auto narrow = logits(model_, windows, DType::bf16, scratch_.path());
    EXPECT_NE(narrow, wide);
    const std::int64_t vocabulary = model_.graph().vocabulary, tokens = std::int64_t(wide.size()) / vocabulary;
    std::vector<double> apart;
    for (std::int64_t t = 0; t < tokens; ++t) {
        const auto row = [&](const std::vector<float>& all) {
            return std::vector<float>(all.begin() + t * vocabulary, all.begin() + (t + 1) * vocabulary);
        };
        apart.push_back(relative_distance(row(narrow), row(wide)));
    }
    std::sort(apart.begin(), apart.end());
    RecordProperty("median", std::to_string(apart[apart.size() / 2]));
    RecordProperty("ninth_tenth", std::to_string(apart[apart.size() * 9 / 10]));
    EXPECT_LT(apart[apart.size() / 2], 0.02);
    EXPECT_LT(apart[apart.size() * 9 / 10], 0.05);
}

TEST_P(Family, IsCompressedToACheckpointThatEqualsWhatWasInMemory) {
    for (const std::string format : {"hf", "gptq"}) {
        const auto folder = scratch_.path() / format;
        std::filesystem::create_directories(folder);
        Recipe recipe = gptq_recipe(name_, scratch_.path() / "unused");
        recipe.output.format = format;
        const Compression compression(recipe, folder);
        EXPECT_TRUE(compression.warnings.empty()) << compression.warnings[0];
        const Windows calib = token_windows(golden_file(name_), "calib");
        const std::size_t blocks = model_.graph().blocks.size();
        const auto read_back = hidden_states(*compression.result, calib, blocks, DType::f32, scratch_.path());
        EXPECT_EQ(read_back, compression.stream) << format;
        // and it is another model than before, though not far from it
        const auto dense = hidden_states(model_, calib, blocks, DType::f32, scratch_.path());
        EXPECT_GT(relative_distance(read_back, dense), 0.01) << format;
        EXPECT_LT(relative_distance(read_back, dense), 0.5) << format;
    }
}

TEST_P(Family, RunsARecipeToAFinitePerplexity) {
    const json report = run_recipe(gptq_recipe(name_, scratch_.path() / "out"), components(), false, {});
    const double after = perplexity_after(report);
    EXPECT_TRUE(std::isfinite(after));
    const Model written = Model::open(scratch_.path() / "out", components());
    const Windows windows = token_windows(golden_file(name_), "input_ids");
    EXPECT_EQ(evaluate(written, nullptr, windows, DType::f32, scratch_.path(), {}).model.value, after);
    EXPECT_NE(evaluate(model_, nullptr, windows, DType::f32, scratch_.path(), {}).model.value, after);
}

INSTANTIATE_TEST_SUITE_P(Golden, Family,
                         testing::Values("gpt2-tiny", "gptneox-tiny", "gptneox-serial-tiny", "gemma2-tiny",
                                         "qwen3-tiny", "mixtral-tiny", "phi2-random-tiny", "phi3-random-tiny",
                                         "falcon-random-tiny", "falcon-grouped-tiny", "falcon-alibi-tiny"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

TEST(Experts, AreCalibratedOnTheTokensThatReachThem) {
    const ScratchFolder scratch;
    const Compression compression(gptq_recipe("mixtral-tiny", scratch.path() / "unused"), scratch.path());
    for (const char* block : {"0", "1"}) {
        double all = 0;
        std::set<double> counts;
        for (int expert = 0; expert < 6; ++expert) {
            const std::string name = text("model.layers.", block, ".block_sparse_moe.experts.", expert);
            const double tokens = compression.metrics.at(name + ".w1").at("tokens");
            for (const char* other : {".w3", ".w2"})
                EXPECT_EQ(compression.metrics.at(name + other).at("tokens"), tokens);
            all += tokens;
            counts.insert(tokens);
        }
        EXPECT_EQ(all, 2 * 4 * 64);  // two experts for each token of four windows
        EXPECT_GT(counts.size(), 1u);
    }
    EXPECT_FALSE(compression.metrics.contains("model.layers.0.block_sparse_moe.gate"));
}

TEST(Experts, ThatNoTokenReachesAreCompressedWithoutData) {
    const ScratchFolder scratch;
    for (const Sequential sequential : {Sequential::group, Sequential::block}) {
        const auto folder = scratch.path() / std::to_string(int(sequential));
        std::filesystem::create_directories(folder);
        Recipe recipe = gptq_recipe("mixtral-tiny", scratch.path() / "unused");
        recipe.calibration->tensor = "pair";  // two tokens reach four of six experts at most
        recipe.stages[0].sequential = sequential;
        const Compression compression(recipe, folder);
        int unreached = 0;
        for (const auto& [name, metrics] : compression.metrics) {
            EXPECT_TRUE(std::isfinite(metrics.at("error"))) << name;
            if (metrics.at("tokens") > 0) continue;
            ++unreached;
            // Four bits in groups of 16 leave about 1 % of a normal weight's square, and a weight that counts as unused
            // leaves all of it.
            EXPECT_GT(metrics.at("error"), 0) << name;
            EXPECT_LT(metrics.at("error"), 0.03) << name;
            const auto names_it = [&](const auto& line) { return line.find(name) != std::string::npos; };
            EXPECT_EQ(std::count_if(compression.warnings.begin(), compression.warnings.end(), names_it), 1) << name;
        }
        EXPECT_GE(unreached, 2 * 2 * 3);                                 // blocks, experts, linears
        EXPECT_EQ(int(compression.warnings.size()), unreached / 3 * 2);  // w1 and w3 share their input
    }
}

struct Refusal {
    const char* model;
    const char* key;
    json value;
    const char* says;
};

TEST(Families, RefuseConfigValuesByName) {
    const ScratchFolder scratch;
    const std::vector<Refusal> cases{
        {"gpt2-tiny", "add_cross_attention", true, "add_cross_attention = true is not supported"},
        {"gpt2-tiny", "n_head", 5, "n_head = 5 does not divide n_embd = 32"},
        {"gpt2-tiny", "activation_function", "tanh", "activation_function = tanh is not supported"},
        {"gptneox-tiny", "rotary_pct", 0.4, "rotary_pct: 3 of 8 features"},
        {"gptneox-tiny", "hidden_size", 33, "does not divide hidden_size = 33"},
        {"gptneox-tiny",
         "rope_scaling",
         {{"type", "dynamic"}, {"factor", 2.0}},
         "rope_type = dynamic is not supported"},
        {"gemma2-tiny", "use_bidirectional_attention", true, "use_bidirectional_attention = true is not supported"},
        {"gemma2-tiny", "layer_types", {"sliding_attention", "chunked_attention"}, "layer_types.1 = chunked_attention"},
        {"gemma2-tiny", "attn_logit_softcapping", -1.0, "attn_logit_softcapping = -1"},
        {"gemma2-tiny", "query_pre_attn_scalar", 0, "query_pre_attn_scalar = 0"},
        {"gemma2-tiny", "sliding_window", -2, "sliding_window = -2"},
        {"gemma2-tiny", "rms_norm_eps", -1e-6, "needs an eps of 0 or more"},
        {"gemma2-tiny", "num_hidden_layers", 1000000000, "1000000000 blocks are more than 250000 ops"},
        {"gemma2-tiny", "num_key_value_heads", 3, "num_key_value_heads = 3 does not divide"},
        {"qwen3-tiny", "num_experts", 8, "num_experts is not supported"},
        {"qwen3-tiny", "partial_rotary_factor", 0.5, "partial_rotary_factor = 0.5 is not supported"},
        {"mixtral-tiny", "num_experts_per_tok", 7, "num_experts_per_tok = 7, but there are 6 experts"},
        {"mixtral-tiny", "attention_bias", true, "attention_bias = true is not supported"},
        {"mixtral-tiny", "num_local_experts", 1000000000, "asks for more than 250000 ops"},
        {"mixtral-tiny", "sliding_window", -5, "sliding_window = -5"},
        {"mixtral-tiny", "hidden_act", "gelu_10", "hidden_act = gelu_10 is not supported"},
    };
    for (const auto& [model, key, value, says] : cases) {
        json config = read_json(test_data(text("models/", model, "/config.json")));
        config[key] = value;
        write_atomically(scratch.path() / "config.json", config.dump());
        try {
            Model::describe(scratch.path(), components());
            ADD_FAILURE() << model << " takes " << key << " = " << value;
        } catch (const Error& error) {
            EXPECT_EQ(error.fault(), Fault::input);
            EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
        }
    }
}

}  // namespace
}  // namespace kerf::core
