// SPDX-License-Identifier: Apache-2.0
// What `kerf inspect` says of published models from their config.json alone, and of models that are there.
#include "core/graph/cost.hpp"
#include "core/support/error.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

struct Published {
    const char* name;  // of the folder in tests/data/configs
    std::int64_t parameters;
    std::int64_t active = parameters;

    friend std::ostream& operator<<(std::ostream& out, const Published& model) { return out << model.name; }
};

// Tied weights once. Each is also the sum over the parameters of transformers' class on the meta device.
constexpr Published published[] = {
    {"llama-2-7b", 6'738'415'616},      {"llama-2-70b", 68'976'648'192},
    {"llama-3-8b", 8'030'261'248},      {"llama-3-70b", 70'553'706'496},
    {"opt-125m", 125'239'296},          {"opt-350m", 331'196'416},
    {"opt-1.3b", 1'315'758'080},        {"opt-2.7b", 2'651'596'800},
    {"opt-6.7b", 6'658'473'984},        {"opt-13b", 12'853'473'280},
    {"opt-30b", 29'974'540'288},        {"opt-66b", 65'719'701'504},
    {"phi-2", 2'779'683'840},           {"phi-3-mini-4k", 3'821'079'552},
    {"phi-3-mini-128k", 3'821'079'552}, {"falcon-7b", 6'921'720'704},
    {"falcon-40b", 41'303'293'952},     {"falcon-180b", 178'557'088'768},
    {"falcon-rw-1b", 1'311'625'216},    {"gpt2", 124'439'808},
    {"pythia-160m", 162'322'944},       {"gemma-2-2b", 2'614'341'888},
    {"gemma-2-9b", 9'241'705'984},      {"qwen3-0.6b", 596'049'920},
    {"qwen3-8b", 8'190'735'360},        {"mixtral-8x7b", 46'702'792'704, 12'879'925'248}};

class PublishedConfig : public testing::TestWithParam<Published> {};

TEST_P(PublishedConfig, HasThePublishedNumberOfParameters) {
    const auto& [name, parameters, active] = GetParam();
    const auto folder = test_data(std::string("configs/") + name);
    const auto model = inspect_model(folder, components());
    EXPECT_EQ(model["parameters"].get<std::int64_t>(), parameters);
    EXPECT_EQ(model["active_parameters"].get<std::int64_t>(), active);
    EXPECT_FALSE(model["weights"].get<bool>());
    // Decoding multiplies with every active weight once, but for those that are looked up or added.
    EXPECT_GT(model["flops_per_token"]["decode"].get<double>(), 1.8 * double(active));
}

INSTANTIATE_TEST_SUITE_P(Inspect, PublishedConfig, testing::ValuesIn(published), [](const auto& info) {
    std::string name = info.param.name;
    for (char& c : name)
        if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
    return name;
});

nlohmann::json inspected(const std::string& name, std::int64_t length = 0) {
    return inspect_model(test_data("configs/" + name + "/config.json"), components(), length);
}

TEST(Inspect, AConfigsOwnPathGivesWhatItsFolderGives) {
    auto file = inspected("phi-2"), folder = inspect_model(test_data("configs/phi-2"), components());
    file.erase("model");
    folder.erase("model");
    EXPECT_EQ(file, folder);
}

TEST(Inspect, TheCacheOfPublishedModelsIsTheSizeThatTheirHeadsGive) {
    const auto per_token = [](const std::string& name) {
        return inspected(name)["kv_cache"]["bytes_per_token"].get<std::int64_t>();
    };
    EXPECT_EQ(per_token("llama-2-7b"), 2 * 32 * 4096 * 2);  // keys and values, layers, features, bytes
    EXPECT_EQ(per_token("llama-2-70b"), 2 * 80 * 8 * 128 * 2);
    EXPECT_EQ(per_token("falcon-7b"), 2 * 32 * 64 * 2);  // one key-value head whatever num_kv_heads says
    EXPECT_EQ(inspected("phi-3-mini-4k", 4096)["kv_cache"]["bytes"].get<std::int64_t>(),
              2047 * per_token("phi-3-mini-4k"));
}

TEST(Inspect, TheFlopsOfLlama2AreThoseOfItsProducts) {
    constexpr double products = 32 * (4.0 * 4096 * 4096 + 3.0 * 4096 * 11008) + 4096.0 * 32000;
    const auto flops = inspected("llama-2-7b", 1000)["flops_per_token"];
    EXPECT_DOUBLE_EQ(flops["decode"].get<double>(), 2 * products + 32 * 4.0 * 4096 * 1001);
    EXPECT_DOUBLE_EQ(flops["prefill"].get<double>(), 2 * products + 32 * 4.0 * 4096 * 500.5);
}

TEST(Inspect, RefusesALengthThatTheModelDoesNotTake) {
    EXPECT_THROW(inspected("llama-2-7b", 4097), Error);
    EXPECT_EQ(inspected("llama-2-7b", 4096)["length"], 4096);
    EXPECT_THROW(inspect_model(test_data("configs/nothing.json"), components()), Error);
}

TEST(Inspect, APackedModelIsAsLargeAsItWasSaidToBecome) {
    const ScratchFolder scratch;
    Recipe recipe = golden_recipe("llama-tiny", scratch.path() / "out", "rtn", {{"bits", 4}, {"group_size", 64}});
    recipe.output.format = "gptq";
    recipe.output.dtype = DType::f16;
    recipe.evaluation.perplexity.clear();
    run_recipe(recipe, components(), false, {});
    const auto packed = inspect_model(scratch.path() / "out", components());
    EXPECT_TRUE(packed["weights"].get<bool>());
    EXPECT_EQ(packed["bytes"].get<std::uint64_t>(),
              weight_bytes(Model::open(trained_model("llama-tiny"), components()).graph(), {DType::f16, 4, 64}));
}

}  // namespace
}  // namespace kerf::core
