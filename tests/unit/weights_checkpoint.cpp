// SPDX-License-Identifier: Apache-2.0
#include "core/weights/checkpoint.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "weights_fixture.hpp"

namespace kerf::core {
namespace {

std::filesystem::path model(const std::string& name) {
    return std::filesystem::path(KERF_TEST_DATA) / "models" / name;
}

struct Tensor {
    PlannedTensor plan;
    std::string bytes;
};

Tensor floats(const std::string& name, const std::vector<float>& values) {
    return {{name, DType::f32, {static_cast<std::int64_t>(values.size())}}, test::raw_all(values)};
}

std::string file_of(const std::vector<Tensor>& tensors) {
    std::vector<PlannedTensor> planned;
    std::string data;
    for (const auto& tensor : tensors) {
        planned.push_back(tensor.plan);
        data += tensor.bytes;
    }
    return ShardPlan(planned, UINT64_MAX, {}).header(0) + data;
}

std::string index_of(const std::string& weight_map) {
    return "{\"metadata\":{},\"weight_map\":" + weight_map + "}";
}

std::string open_message(const test::TemporaryFolder& folder) {
    return test::message_of([&] { Checkpoint::open(folder.path()); });
}

TEST(Checkpoint, ReadsASingleFile) {
    const auto checkpoint = Checkpoint::open(model("llama-tiny"));
    EXPECT_EQ(checkpoint.bytes(), 8'000'000u);
    EXPECT_EQ(checkpoint.files().size(), 1u);
    EXPECT_EQ(checkpoint.folder(), model("llama-tiny"));
    const auto names = checkpoint.names();
    EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
    for (const auto& name : names) {
        const auto values = checkpoint.read(name);
        EXPECT_EQ(static_cast<std::int64_t>(values.size()), checkpoint.at(name).elements());
        EXPECT_EQ(values, checkpoint.read(name)) << "forgotten pages come back";
    }
}

TEST(Checkpoint, ReadsATorchArchive) {
    const auto checkpoint = Checkpoint::open(model("opt-tiny"));
    EXPECT_EQ(checkpoint.names().size(), 69u);
    EXPECT_EQ(checkpoint.read("lm_head.weight"), checkpoint.read("model.decoder.embed_tokens.weight"));
}

TEST(Checkpoint, ReadsShards) {
    const auto folder = std::filesystem::path(KERF_SHARED) / "models/falcon-tiny";
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << "the shared models are not here";
    const auto checkpoint = Checkpoint::open(folder);
    EXPECT_EQ(checkpoint.files().size(), 3u);
    EXPECT_EQ(checkpoint.bytes(), 6427648u) << "the index's own total_size";
    for (const auto& name : checkpoint.names()) EXPECT_FALSE(checkpoint.read(name).empty());
}

TEST(Checkpoint, ReadsTorchShards) {
    const test::TemporaryFolder folder;
    for (const std::string shard : {"1", "2"}) {
        test::ArchiveBuilder archive;
        archive.add_storage("0", test::raw_all<float>({1, 2}));
        archive.add("t" + shard,
                    test::ArchiveBuilder::tensor(test::ArchiveBuilder::storage("FloatStorage", "0", 2), 0, {2}, {1}));
        folder.write("pytorch_model-" + shard + ".bin", archive.build());
    }
    folder.write("pytorch_model.bin.index.json",
                 index_of(R"({"t1":"pytorch_model-1.bin","t2":"pytorch_model-2.bin"})"));
    const auto checkpoint = Checkpoint::open(folder.path());
    EXPECT_EQ(checkpoint.read("t2"), (std::vector<float>{1, 2}));
    EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"t1", "t2"}));
}

TEST(Checkpoint, StaysValidWhenMoved) {
    auto first = Checkpoint::open(model("llama-tiny"));
    const auto wanted = first.read("model.norm.weight");
    const Checkpoint second = std::move(first);
    EXPECT_EQ(second.read("model.norm.weight"), wanted);
}

TEST(Checkpoint, NamesAMissingTensor) {
    const auto checkpoint = Checkpoint::open(model("llama-tiny"));
    EXPECT_EQ(checkpoint.find("nothing"), nullptr);
    EXPECT_EQ(test::message_of([&] { checkpoint.at("nothing"); }),
              "tensor nothing is missing from " + model("llama-tiny").string());
    test::message_of([&] { checkpoint.read("nothing"); });
}

TEST(Checkpoint, NamesTheElementThatIsNotANumber) {
    const test::TemporaryFolder folder;
    std::vector<float> values(12, 1.0f);
    values[7] = std::nanf("");
    folder.write("model.safetensors",
                 file_of({{{"bad", DType::f32, {3, 4}}, test::raw_all(values)}, floats("infinite", {0, INFINITY})}));
    const auto checkpoint = Checkpoint::open(folder.path());
    EXPECT_NE(test::message_of([&] { checkpoint.read("bad"); }).find("tensor bad is nan at [1, 3]"), std::string::npos);
    EXPECT_NE(test::message_of([&] { checkpoint.read("infinite"); }).find("tensor infinite is inf at [1]"),
              std::string::npos);
}

TEST(Checkpoint, RefusesAFolderWithoutWeights) {
    const test::TemporaryFolder folder;
    EXPECT_NE(open_message(folder).find("has no weights"), std::string::npos);
    EXPECT_NE(test::message_of([&] { Checkpoint::open(folder / "none"); }).find("no such folder"), std::string::npos);
}

TEST(Checkpoint, RefusesAnIndexThatItsShardsDoNotBearOut) {
    const test::TemporaryFolder folder;
    folder.write("one.safetensors", file_of({floats("a", {1}), floats("b", {2})}));
    folder.write("two.safetensors", file_of({floats("c", {3})}));
    folder.write("again.safetensors", file_of({floats("a", {1})}));
    const std::vector<std::tuple<std::string, std::string, std::string>> cases{
        {"missing shard", R"({"a":"one.safetensors","b":"one.safetensors","c":"gone.safetensors"})",
         "names the shard gone.safetensors"},
        {"missing tensor",
         R"({"a":"one.safetensors","b":"one.safetensors","d":"two.safetensors","c":"two.safetensors"})",
         "lacks the tensor d"},
        {"tensor that the index does not name", R"({"a":"one.safetensors","c":"two.safetensors"})",
         "the tensor b, which"},
        {"swapped shards", R"({"a":"two.safetensors","b":"one.safetensors","c":"one.safetensors"})",
         "places in two.safetensors"},
        {"one tensor in two shards", R"({"a":"one.safetensors","b":"one.safetensors","x":"again.safetensors"})",
         "holds too"},
    };
    for (const auto& [what, map, wanted] : cases) {
        SCOPED_TRACE(what);
        folder.write("model.safetensors.index.json", index_of(map));
        const auto message = open_message(folder);
        EXPECT_NE(message.find(wanted), std::string::npos) << message;
    }
}

TEST(Checkpoint, RefusesAnIndexThatLeadsOutOfTheFolderOrIsNone) {
    const test::TemporaryFolder folder;
    folder.write("one.safetensors", file_of({floats("a", {1})}));
    const std::vector<std::pair<std::string, std::string>> cases{
        {index_of(R"({"a":"../one.safetensors"})"), "not the name of a"},
        {index_of(R"({"a":"/etc/one.safetensors"})"), "not the name of a"},
        {index_of(R"({"a":"sub/one.safetensors"})"), "not the name of a"},
        {index_of(R"({"a":"..\\one.safetensors"})"), "not the name of a"},
        {index_of(R"({"a":".safetensors"})"), "not the name of a"},
        {index_of(R"({"a":"config.json"})"), "not the name of a"},
        {index_of(R"({"a":""})"), "not the name of a"},
        {index_of(R"({"a":"x\u0000.safetensors"})"), "not the name of a"},
        {index_of(R"({"a":"\u001b[2J.safetensors"})"), "not the name of a"},
        {index_of(R"({"a":7})"), "is not a text"},
        {index_of(R"({"a":"one.safetensors","a":"one.safetensors"})"), "twice"},
        {index_of("{}"), "names no tensor"},
        {index_of("[]"), "no object \"weight_map\""},
        {"{}", "no object \"weight_map\""},
        {"[]", "no object \"weight_map\""},
        {"", "not valid JSON"},
        {"{\"weight_map\":", "not valid JSON"},
        {std::string("{}\0", 3), "zero byte"},
        {"{\"x\":\"\xff\"}", "not valid JSON"},
        {std::string(100000, '['), "nested deeper"},
    };
    for (const auto& [content, wanted] : cases) {
        SCOPED_TRACE(content.substr(0, 100));
        folder.write("model.safetensors.index.json", content);
        const auto message = open_message(folder);
        EXPECT_NE(message.find(wanted), std::string::npos) << message;
        EXPECT_EQ(message.find((folder / "model.safetensors.index.json").string()), 0u) << message;
    }
}

/// A checkpoint with one packed layer [8, 16] of 4 bits in groups of 8, and one plain tensor.
struct PackedFolder {
    test::TemporaryFolder folder;
    GptqLayout layout{"model.fc", 8, 16, 4, 8};
    std::vector<std::uint8_t> codes;
    std::vector<float> scales, zeros;
    std::vector<std::int32_t> groups;

    explicit PackedFolder(GptqVersion version) {
        for (int i = 0; i < 8 * 16; ++i) codes.push_back(static_cast<std::uint8_t>(i * 7 % 16));
        for (int i = 0; i < 8 * 2; ++i) {
            scales.push_back(0.25f * static_cast<float>(i + 1));
            zeros.push_back(static_cast<float>(1 + i % 15));
        }
        for (int c = 0; c < 16; ++c) groups.push_back(c % 2);
        write(version);
        config(version == GptqVersion::v1 ? "gptq" : "gptq_v2");
    }
    std::vector<Tensor> tensors(GptqVersion version) const {
        const auto packed = gptq_pack(layout, {codes, scales, zeros, groups}, version);
        const auto text_of = [](const std::vector<std::byte>& bytes) {
            return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        };
        std::vector<Tensor> tensors{floats("model.fc.bias", {1, 2, 3, 4, 5, 6, 7, 8})};
        const std::array contents{&packed.g_idx, &packed.qweight, &packed.qzeros, &packed.scales};
        const auto planned = gptq_tensors(layout);
        for (std::size_t i = 0; i < planned.size(); ++i) tensors.push_back({planned[i], text_of(*contents[i])});
        return tensors;
    }
    void write(GptqVersion version) const { folder.write("model.safetensors", file_of(tensors(version))); }
    void config(const std::string& format, const nlohmann::json& more = nlohmann::json::object()) const {
        nlohmann::json quantization{
            {"quant_method", "gptq"}, {"bits", 4}, {"group_size", 8}, {"checkpoint_format", format}};
        quantization.update(more);
        folder.write("config.json", nlohmann::json{{"quantization_config", quantization}}.dump());
    }
    float weight(std::size_t o, std::size_t c) const {
        const auto g = o * 2 + static_cast<std::size_t>(groups[c]);
        return scales[g] * (static_cast<float>(codes[o * 16 + c]) - zeros[g]);
    }
};

TEST(PackedCheckpoint, ShowsTheWeightsThatItStandsFor) {
    for (const auto version : {GptqVersion::v1, GptqVersion::v2}) {
        const PackedFolder packed(version);
        const auto checkpoint = Checkpoint::open(packed.folder.path());
        EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"model.fc.bias", "model.fc.weight"}));
        EXPECT_EQ(checkpoint.find("model.fc.qweight"), nullptr);
        const auto& weight = checkpoint.at("model.fc.weight");
        EXPECT_EQ(weight.dtype, DType::f16);
        EXPECT_EQ(weight.shape, (std::vector<std::int64_t>{8, 16}));
        EXPECT_TRUE(weight.bytes.empty());
        EXPECT_EQ(checkpoint.bytes(), 32u + 64 + 64 + 8 + 32);
        const auto values = checkpoint.read("model.fc.weight");
        for (std::size_t o = 0; o < 8; ++o)
            for (std::size_t c = 0; c < 16; ++c) ASSERT_EQ(values[o * 16 + c], packed.weight(o, c)) << o << " " << c;
        checkpoint.forget("model.fc.weight");
        EXPECT_EQ(checkpoint.read("model.fc.weight"), values);
    }
}

TEST(PackedCheckpoint, WithoutItsConfigItIsFourPlainTensors) {
    const PackedFolder packed(GptqVersion::v1);
    packed.folder.write("config.json", R"({"quantization_config":null})");
    EXPECT_EQ(Checkpoint::open(packed.folder.path()).names().size(), 5u);
}

TEST(PackedCheckpoint, RefusesOtherMethodsWhoseWeightsMayLookDense) {
    const PackedFolder packed(GptqVersion::v1);
    packed.folder.write("config.json", R"({"quantization_config": {"quant_method": "fp8"}})");
    EXPECT_NE(open_message(packed.folder).find("quant_method is \"fp8\""), std::string::npos);
}

TEST(PackedCheckpoint, SkippedModulesAreNoOverrides) {
    const PackedFolder packed(GptqVersion::v1);
    packed.config("gptq", {{"dynamic", {{"-:.*lm_head", nlohmann::json::object()}}}});
    EXPECT_EQ(Checkpoint::open(packed.folder.path()).names().size(), 2u);
}

TEST(PackedCheckpoint, RefusesAConfigThatItCannotDecode) {
    const PackedFolder packed(GptqVersion::v1);
    const auto message = [&](const nlohmann::json& more, const std::string& format = "gptq") {
        packed.config(format, more);
        return open_message(packed.folder);
    };
    EXPECT_NE(message({{"bits", "4"}}).find("\"bits\" is missing or not an integer"), std::string::npos);
    EXPECT_NE(message({{"bits", 16}}).find("bits = 16"), std::string::npos);
    EXPECT_NE(message({{"bits", 5}}).find("model.fc: the gptq format holds 2, 3, 4 or 8 bits, not 5"),
              std::string::npos);
    EXPECT_NE(message({{"bits", 18446744073709551615u}}).find("is not between"), std::string::npos);
    EXPECT_NE(message({{"bits", 8}}).find("tensor model.fc."), std::string::npos) << "shapes do not agree";
    EXPECT_NE(message({{"group_size", 0}}).find("group size of 0"), std::string::npos);
    EXPECT_NE(message({{"group_size", 4}}).find("model.fc.qzeros"), std::string::npos);
    EXPECT_NE(message(nlohmann::json::object(), "marlin").find("\"marlin\""), std::string::npos);
    EXPECT_NE(message({{"pack_dtype", "int8"}}).find("pack_dtype"), std::string::npos);
    EXPECT_NE(message({{"dynamic", {{"+:.*fc", {{"bits", 8}}}}}}).find("settings of its own"), std::string::npos);
}

TEST(PackedCheckpoint, RefusesPartsThatAreMissingOrDoNotFit) {
    const PackedFolder packed(GptqVersion::v1);
    const auto message = [&](auto change) {
        auto tensors = packed.tensors(GptqVersion::v1);
        change(tensors);
        packed.folder.write("model.safetensors", file_of(tensors));
        return open_message(packed.folder);
    };
    EXPECT_NE(message([](auto& t) { t.erase(t.begin() + 4); }).find("tensor model.fc.scales is missing"),
              std::string::npos);
    EXPECT_NE(message([](auto& t) { t[1].plan.dtype = DType::f32; }).find("model.fc.g_idx is F32"), std::string::npos);
    EXPECT_NE(message([](auto& t) { t[2].plan.shape = {16}; }).find("two dimensions"), std::string::npos);
    EXPECT_NE(message([](auto& t) {
                  t[2] = {{"model.fc.qweight", DType::i32, {1ll << 40, 0}}, ""};
              }).find("two dimensions"),
              std::string::npos);
    EXPECT_NE(message([](auto& t) { t.push_back(floats("model.fc.weight", {1})); }).find("holds both"),
              std::string::npos);
    EXPECT_NE(message([](auto& t) { t.erase(t.begin() + 1, t.end()); }).find("no tensor is named *.qweight"),
              std::string::npos);
}

TEST(PackedCheckpoint, ReadsPartsThatNameNoGroupAsInputError) {
    const PackedFolder packed(GptqVersion::v1);
    auto tensors = packed.tensors(GptqVersion::v1);
    tensors[1].bytes.replace(12, 4, test::raw<std::int32_t>(99));
    packed.folder.write("model.safetensors", file_of(tensors));
    const auto checkpoint = Checkpoint::open(packed.folder.path());
    EXPECT_NE(test::message_of([&] {
                  checkpoint.read("model.fc.weight");
              }).find("model.fc: g_idx puts input 3 into group 99"),
              std::string::npos);
}

}  // namespace
}  // namespace kerf::core
