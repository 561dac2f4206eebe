// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <filesystem>

#include "core/weights/gguf_blocks.hpp"
#include "core/weights/tensor_file.hpp"
#include "tests/unit/test_files.hpp"

namespace kerf::test {
namespace {

const core::GgufType& type_named(std::string_view name) {
    for (std::uint32_t id = 0; id < 64; ++id)
        if (const auto* type = core::gguf_type(id); type && type->name == name) return *type;
    throw std::runtime_error("no such type");
}

class GgufBlocks : public testing::TestWithParam<const char*> {};

TEST_P(GgufBlocks, AreDecodedToTheVeryFloatsOfThePythonPackage) {
    const auto golden =
        core::open_safetensors(std::filesystem::path(KERF_TEST_DATA) / "golden/gguf-blocks.safetensors");
    const std::string name = GetParam();
    const auto& blocks = *golden->find(name + ".blocks");
    const auto& values = *golden->find(name + ".values");
    std::vector<float> expected(static_cast<std::size_t>(values.elements())), got(expected.size());
    core::to_float32(values, expected);
    const auto& type = type_named(name);
    if (type.plain)
        core::to_float32({name, *type.plain, values.shape, blocks.bytes}, got);
    else
        core::gguf_decode(type, blocks.bytes, got);
    for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(expected[i]))
            << "element " << i << ": " << got[i] << " for " << expected[i];
}

INSTANTIATE_TEST_SUITE_P(Types, GgufBlocks,
                         testing::Values("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K",
                                         "Q4_K", "Q5_K", "Q6_K"));

// The Python package has no reader for this one: a float32 scale, 256 signed bytes, 16 sums.
TEST(GgufBlocksOfQ8K, AreItsBytesTimesItsScale) {
    std::string block = raw(0.25f);
    for (int i = 0; i < 256; ++i) block += static_cast<char>(i - 128);
    block += std::string(32, 'x');
    std::vector<float> values(256);
    core::gguf_decode(type_named("Q8_K"), std::as_bytes(std::span(block)), values);
    for (int i = 0; i < 256; ++i) EXPECT_EQ(values[static_cast<std::size_t>(i)], 0.25f * static_cast<float>(i - 128));
}

TEST(GgufTypes, KnowTheTypesThatHaveNoDecoderByName) {
    const auto* type = core::gguf_type(23);
    ASSERT_NE(type, nullptr);
    EXPECT_EQ(type->name, "IQ4_XS");
    EXPECT_FALSE(type->readable());
    EXPECT_EQ(core::gguf_type(4), nullptr) << "Q4_2 left the format before its first version";
    EXPECT_EQ(core::gguf_type(0xFFFFFFFFu), nullptr);
}

}  // namespace
}  // namespace kerf::test
