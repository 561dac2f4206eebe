// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "core/weights/checkpoint.hpp"
#include "core/weights/safetensors_writer.hpp"
#include "weights_fixture.hpp"

namespace kerf::core {
namespace {

const std::map<std::string, std::string> torch_metadata{{"format", "pt"}};

std::vector<PlannedTensor> three_tensors() {
    return {{"b", DType::f32, {2, 2}}, {"a", DType::f16, {3}}, {"quote\"d", DType::u8, {5}}};
}

std::string header_text(const ShardPlan& plan, std::size_t shard) {
    return plan.header(shard).substr(8);
}

TEST(ShardPlan, OneShardIsPlannedToTheByte) {
    const ShardPlan plan(three_tensors(), 1 << 20, torch_metadata);
    ASSERT_EQ(plan.shards(), 1u);
    EXPECT_EQ(plan.shard_name(0), "model.safetensors");
    EXPECT_EQ(plan.index_json(), "");
    const std::string json =
        R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
        R"("a":{"dtype":"F16","shape":[3],"data_offsets":[16,22]},"quote\"d":{"dtype":"U8","shape":[5],"data_offsets":[22,27]}})";
    const std::string header = header_text(plan, 0);
    EXPECT_EQ(header.substr(0, json.size()), json);
    EXPECT_EQ(header.find_first_not_of(' ', json.size()), std::string::npos);
    EXPECT_EQ(header.size() % 8, 0u);
    EXPECT_LT(header.size(), json.size() + 8);
    EXPECT_EQ(plan.header(0).substr(0, 8), test::raw<std::uint64_t>(header.size()));
    EXPECT_EQ(plan.shard_bytes(0), 8 + header.size() + 27);
    EXPECT_EQ(plan.total_bytes(), plan.shard_bytes(0));
    EXPECT_EQ(plan.place("a").offset, 8 + header.size() + 16);
    EXPECT_EQ(plan.place("a").bytes, 6u);
}

TEST(ShardPlan, ShardsFillInOrderAndALargeTensorHasItsOwn) {
    const ShardPlan plan({{"a", DType::u8, {60}},
                          {"b", DType::u8, {40}},
                          {"c", DType::u8, {1}},
                          {"d", DType::u8, {500}},
                          {"e", DType::u8, {10}}},
                         100, torch_metadata);
    ASSERT_EQ(plan.shards(), 4u);
    EXPECT_EQ(plan.shard_name(2), "model-00003-of-00004.safetensors");
    const auto shard_of = [&](const char* name) { return plan.place(name).shard; };
    EXPECT_EQ(shard_of("a"), 0u);
    EXPECT_EQ(shard_of("b"), 0u);
    EXPECT_EQ(shard_of("c"), 1u);
    EXPECT_EQ(shard_of("d"), 2u);
    EXPECT_EQ(shard_of("e"), 3u);
}

TEST(ShardPlan, TheIndexIsWhatTransformersWrites) {
    const ShardPlan plan({{"z", DType::f32, {2}}, {"a", DType::f32, {1}}}, 8, torch_metadata);
    EXPECT_EQ(plan.index_json(), R"({
  "metadata": {
    "total_size": 12
  },
  "weight_map": {
    "a": "model-00002-of-00002.safetensors",
    "z": "model-00001-of-00002.safetensors"
  }
}
)");
}

TEST(ShardPlan, WrongPlansAreOurOwnMistakes) {
    test::message_of([] { ShardPlan({{"a", DType::f32, {1}}, {"a", DType::f32, {1}}}, 100, {}); }, Fault::internal);
    test::message_of([] { ShardPlan({{"a", DType::f32, {-1}}}, 100, {}); }, Fault::internal);
    test::message_of([] { ShardPlan({{"a", DType::f32, {1}}}, 100, {}).place("b"); }, Fault::internal);
}

/// Bytes that no conversion turns into NaN: any of them is a valid integer.
std::string random_bytes(std::mt19937& random, std::uint64_t count) {
    std::string bytes(count, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    return bytes;
}

TEST(ShardWriter, WhatIsWrittenInAnyOrderIsReadBack) {
    std::mt19937 random(1);
    for (int round = 0; round < 40; ++round) {
        const test::TemporaryFolder folder;
        constexpr std::array types{DType::i64, DType::i32, DType::i16, DType::i8, DType::u8};
        std::vector<PlannedTensor> tensors;
        for (unsigned count = random() % 12, i = 0; i < count; ++i) {
            PlannedTensor tensor{text("layer.", i), types[random() % types.size()], {}};
            for (unsigned rank = random() % 4; rank > 0; --rank) tensor.shape.push_back(random() % 7);
            tensors.push_back(tensor);
        }
        const ShardPlan plan(tensors, random() % 500, torch_metadata);
        std::map<std::string, std::string> contents;
        for (const auto& tensor : tensors) contents[tensor.name] = random_bytes(random, tensor.bytes());
        std::shuffle(tensors.begin(), tensors.end(), random);
        ShardWriter writer(plan, folder.path(), false);
        for (const auto& tensor : tensors) writer.write(tensor.name, std::as_bytes(std::span(contents[tensor.name])));
        writer.sync();
        std::uint64_t total = 0;
        for (std::size_t shard = 0; shard < plan.shards(); ++shard) {
            EXPECT_EQ(std::filesystem::file_size(folder / plan.shard_name(shard)), plan.shard_bytes(shard));
            total += plan.shard_bytes(shard);
        }
        EXPECT_EQ(plan.total_bytes(), total);
        if (plan.shards() > 1) folder.write("model.safetensors.index.json", plan.index_json());
        const auto checkpoint = Checkpoint::open(folder.path());
        ASSERT_EQ(checkpoint.names().size(), tensors.size());
        for (const auto& tensor : tensors) {
            const auto& stored = checkpoint.at(tensor.name);
            EXPECT_EQ(stored.dtype, tensor.dtype);
            EXPECT_EQ(stored.shape, tensor.shape);
            EXPECT_EQ(std::string(reinterpret_cast<const char*>(stored.bytes.data()), stored.bytes.size()),
                      contents[tensor.name]);
        }
    }
}

TEST(ShardWriter, ChecksumsAreCrc32) {
    const test::TemporaryFolder folder;
    const ShardPlan plan({{"t", DType::u8, {9}}, {"u", DType::u8, {0}}}, 100, torch_metadata);
    ShardWriter writer(plan, folder.path(), false);
    const std::string check = "123456789";  // the check value of the CRC catalogue
    writer.write("t", std::as_bytes(std::span(check)));
    EXPECT_EQ(writer.checksums().at("t"), "cbf43926");
    EXPECT_EQ(writer.checksums().size(), 1u);
    writer.write("u", {});
    EXPECT_EQ(writer.checksums().at("u"), "00000000");
}

TEST(ShardWriter, PiecesGiveTheBytesAndTheChecksumOfTheWhole) {
    const test::TemporaryFolder folder;
    const ShardPlan plan({{"s", DType::u8, {3}}, {"t", DType::u8, {9}}}, 100, torch_metadata);
    ShardWriter writer(plan, folder.path(), false);
    for (const std::string piece : {"1234", "5", "6789"}) {
        EXPECT_FALSE(writer.checksums().contains("t"));
        writer.write_piece("t", std::as_bytes(std::span(piece)));
    }
    EXPECT_EQ(writer.checksums().at("t"), "cbf43926");
    EXPECT_TRUE(test::read_file(folder / plan.shard_name(0)).ends_with("123456789"));
    writer.write_piece("s", std::as_bytes(std::span("ab", 2)));
    test::message_of([&] { writer.write_piece("s", std::as_bytes(std::span("cd", 2))); }, Fault::internal);
}

TEST(ShardWriter, ResumingKeepsWhatIsThere) {
    const test::TemporaryFolder folder;
    const ShardPlan plan({{"a", DType::u8, {4}}, {"b", DType::u8, {4}}}, 4, torch_metadata);
    {
        ShardWriter first(plan, folder.path(), false);
        first.write("a", std::as_bytes(std::span("aaaa", 4)));
    }
    {
        ShardWriter second(plan, folder.path(), true);
        second.write("b", std::as_bytes(std::span("bbbb", 4)));
        EXPECT_EQ(second.checksums().size(), 1u);
    }
    const auto tail = [&](std::size_t shard) {
        const auto content = test::read_file(folder / plan.shard_name(shard));
        return content.substr(content.size() - 4);
    };
    EXPECT_EQ(tail(0), "aaaa");
    EXPECT_EQ(tail(1), "bbbb");
}

TEST(ShardWriter, ResumesOnlyTheFilesOfThePlan) {
    const test::TemporaryFolder folder;
    const ShardPlan plan({{"a", DType::u8, {4}}}, 100, torch_metadata);
    EXPECT_NE(test::message_of([&] { ShardWriter(plan, folder.path(), true); }).find("is missing"), std::string::npos);
    const std::string header = plan.header(0);
    folder.write("model.safetensors", header + "123");
    EXPECT_NE(test::message_of([&] { ShardWriter(plan, folder.path(), true); }).find("are planned"), std::string::npos);
    std::string other = header + "1234";
    other[20] = '?';
    folder.write("model.safetensors", other);
    EXPECT_NE(test::message_of([&] { ShardWriter(plan, folder.path(), true); }).find("its header"), std::string::npos);
    folder.write("model.safetensors", header + "1234");
    ShardWriter(plan, folder.path(), true);
}

TEST(ShardWriter, ATensorOfAnotherSizeIsRefused) {
    const test::TemporaryFolder folder;
    const ShardPlan plan({{"a", DType::u8, {4}}}, 100, torch_metadata);
    ShardWriter writer(plan, folder.path(), false);
    test::message_of([&] { writer.write("a", std::as_bytes(std::span("12345", 5))); }, Fault::internal);
    test::message_of([&] { writer.write("b", {}); }, Fault::internal);
    test::message_of([&] { ShardWriter(plan, folder / "missing", false); }, Fault::environment);
}

}  // namespace
}  // namespace kerf::core
