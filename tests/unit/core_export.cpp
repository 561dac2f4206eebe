// SPDX-License-Identifier: Apache-2.0
#include "core/export/export.hpp"

#include <gtest/gtest.h>

#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "tests/unit/temporary.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

Graph small_graph() {
    return parse_graph(json::parse(R"({
      "graph": 1, "family": "tiny", "hidden": 8, "vocabulary": 16,
      "prologue": [{"op": "embedding", "in": "tokens", "out": "x", "weight": "embed.weight", "shape": [16, 8]}],
      "blocks": [{"name": "layers.0", "ops": [
        {"op": "linear", "in": "x", "out": "up", "name": "layers.0.up", "shape": [5, 8]},
        {"op": "linear", "in": "up", "out": "down", "name": "layers.0.down", "shape": [8, 5]},
        {"op": "add", "in": ["x", "down"], "out": "y"}]}],
      "epilogue": [{"op": "linear", "in": "x", "out": "logits", "name": "head", "shape": [16, 8], "weight": "embed.weight"}]
    })"),
                       "test");
}

json family() {
    return {{"model_type", "llama"},
            {"hidden_size", 8},
            {"rope_scaling", nullptr},
            {"dtype", "float16"},
            {"eos_token_id", {2, 3}}};
}

template <class Call>
std::string refusal(Call call) {
    try {
        call();
    } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::input);
        return error.what();
    }
    return "";
}

TEST(Export, KeepsTheGraphAndTheFamilysConfigWhole) {
    const json config = exported_config(family(), small_graph());
    EXPECT_EQ(family_config(config, "config.json"), family());
    EXPECT_EQ(exported_graph(config, "config.json"), graph_json(small_graph()));
}

TEST(Export, IsNoModelOfTheFamilyToOtherPrograms) {
    const json config = exported_config(family(), small_graph());
    EXPECT_EQ(config["model_type"], "kerf");
    EXPECT_EQ(config["auto_map"]["AutoModelForCausalLM"], "modeling_kerf.KerfForCausalLM");
    EXPECT_EQ(config["auto_map"]["AutoConfig"], "modeling_kerf.KerfConfig");
    EXPECT_EQ(config["eos_token_id"], json({2, 3}));
    EXPECT_FALSE(config.contains("hidden_size"));
}

TEST(Export, BelievesTheDtypeThatTransformersLastWrote) {
    json config = exported_config(family(), small_graph());
    config["dtype"] = "bfloat16";
    EXPECT_EQ(family_config(config, "config.json")["dtype"], "bfloat16");
}

TEST(Export, LeavesOtherConfigsAsTheyAre) {
    EXPECT_EQ(family_config(family(), "config.json"), family());
    EXPECT_TRUE(exported_graph(family(), "config.json").is_null());
}

TEST(Export, RefusesAnExportWithoutItsParts) {
    for (const char* key : {"family_config", "graph"}) {
        json config = exported_config(family(), small_graph());
        config["kerf"][key] = 7;
        const auto read = [&] {
            family_config(config, "out/config.json");
            exported_graph(config, "out/config.json");
        };
        const auto message = refusal(read);
        EXPECT_TRUE(message.starts_with("out/config.json: ")) << message;
        EXPECT_NE(message.find(key), std::string::npos) << message;
    }
    EXPECT_NE(refusal([] { family_config({{"model_type", "kerf"}}, "config.json"); }), "");
    EXPECT_NE(refusal([] { family_config({{"model_type", "kerf"}, {"kerf", {1, 2}}}, "config.json"); }), "");
}

TEST(Export, WritesTheModuleByteForByte) {
    const test::TemporaryFolder folder;
    write_modeling_code(folder.path());
    EXPECT_EQ(read_text(folder / "modeling_kerf.py"),
              read_text(std::filesystem::path(KERF_SOURCE) / "core/export/modeling_kerf.py"));
}

}  // namespace
}  // namespace kerf::core
