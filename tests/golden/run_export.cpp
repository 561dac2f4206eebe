// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "core/eval/evaluate.hpp"
#include "core/export/export.hpp"
#include "core/pipeline/output.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

namespace fs = std::filesystem;

constexpr const char* name = "llama-tiny";

/// llama-tiny as an export whose last block has lost its MLP: no config of the family says that.
fs::path export_without_an_mlp(const fs::path& folder) {
    const fs::path source = test_data(std::string("models/") + name);
    const Model model = Model::open(source, components());
    Graph graph = model.graph();
    auto& ops = graph.blocks.back().ops;
    const std::string after_attention = ops.back().in[0];  // y = after_attention + mlp
    const auto sum = std::find_if(ops.begin(), ops.end(), [&](const Op& op) { return op.out[0] == after_attention; });
    sum->out = {"y"};
    ops.erase(sum + 1, ops.end());
    fs::create_directories(folder);
    fs::copy_file(source / "model.safetensors", folder / "model.safetensors");
    copy_side_files(source, folder);
    write_config(folder, model.config(), graph, true);
    return folder;
}

Recipe recipe_for(const fs::path& model, const fs::path& output) {
    Recipe recipe = golden_recipe(name, output, "rtn", {{"bits", 8}});
    recipe.model.path = model;
    return recipe;
}

TEST(ExportedModel, ComputesWhatItsGraphSays) {
    const ScratchFolder scratch;
    const Model whole = Model::open(test_data(std::string("models/") + name), components());
    const Model less = Model::open(export_without_an_mlp(scratch.path() / "less"), components());
    EXPECT_TRUE(less.is_edited());
    EXPECT_FALSE(whole.is_edited());
    EXPECT_LT(less.parameters(), whole.parameters());
    const Windows windows = token_windows(test_data("golden/logits-llama-tiny.safetensors"), "input_ids");
    const std::size_t last = whole.graph().blocks.size() - 1;
    const auto before = hidden_states(whole, windows, last, DType::f32, scratch.path());
    EXPECT_EQ(hidden_states(less, windows, last, DType::f32, scratch.path()), before);
    EXPECT_NE(logits(less, windows, DType::f32, scratch.path()), logits(whole, windows, DType::f32, scratch.path()));
}

TEST(ExportedModel, StaysOneWhenItIsCompressed) {
    const ScratchFolder scratch;
    const fs::path source = export_without_an_mlp(scratch.path() / "less"), output = scratch.path() / "out";
    run_recipe(recipe_for(source, output), components(), false, {});
    const Model less = Model::open(source, components()), compressed = Model::open(output, components());
    EXPECT_TRUE(compressed.is_edited());
    EXPECT_EQ(graph_json(compressed.graph()), graph_json(less.graph()));
    EXPECT_EQ(read_json(output / "config.json")["model_type"], "kerf");
    EXPECT_EQ(compressed.config()["model_type"], "llama");
    EXPECT_EQ(read_text(output / "modeling_kerf.py"),
              read_text(fs::path(KERF_SOURCE) / "core/export/modeling_kerf.py"));
    const Windows windows = token_windows(test_data("golden/logits-llama-tiny.safetensors"), "input_ids");
    const auto dense = logits(less, windows, DType::f32, scratch.path());
    const auto rounded = logits(compressed, windows, DType::f32, scratch.path());
    double largest = 0, furthest = 0;
    for (std::size_t i = 0; i < dense.size(); ++i) {
        largest = std::max(largest, std::abs(double(dense[i])));
        furthest = std::max(furthest, std::abs(double(dense[i]) - double(rounded[i])));
    }
    EXPECT_LT(furthest, 0.05 * largest);
    EXPECT_GT(furthest, 0);
}

TEST(ExportedModel, IsNotWrittenForAGraphThatTheConfigSays) {
    const ScratchFolder scratch;
    const fs::path output = scratch.path() / "out";
    run_recipe(recipe_for(test_data(std::string("models/") + name), output), components(), false, {});
    EXPECT_FALSE(fs::exists(output / "modeling_kerf.py"));
    EXPECT_EQ(read_json(output / "config.json")["model_type"], "llama");
}

}  // namespace
}  // namespace kerf::core
