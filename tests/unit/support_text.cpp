// SPDX-License-Identifier: Apache-2.0
#include "core/support/text.hpp"

#include <gtest/gtest.h>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

TEST(Glob, MatchesWholeNames) {
    EXPECT_TRUE(glob_match("model.layers.*", "model.layers.0.mlp.up_proj"));
    EXPECT_TRUE(glob_match("*", ""));
    EXPECT_TRUE(glob_match("*.q_proj", "model.layers.11.self_attn.q_proj"));
    EXPECT_TRUE(glob_match("model.layers.?.mlp.*", "model.layers.3.mlp.fc1"));
    EXPECT_TRUE(glob_match("layers.[02].fc", "layers.2.fc"));
    EXPECT_TRUE(glob_match("lm_head", "lm_head"));
}

TEST(Glob, DoesNotMatchPartsOfNames) {
    EXPECT_FALSE(glob_match("layers.*", "model.layers.0"));
    EXPECT_FALSE(glob_match("lm_head", "lm_head.weight"));
    EXPECT_FALSE(glob_match("model.layers.?.mlp.*", "model.layers.11.mlp.fc1"));
    EXPECT_FALSE(glob_match("layers.[02].fc", "layers.1.fc"));
    EXPECT_FALSE(glob_match("model.layersx", "model.layers"));
    EXPECT_FALSE(glob_match("", "x"));
}

TEST(ParseBytes, KnowsDecimalAndBinaryUnits) {
    EXPECT_EQ(parse_bytes("0"), 0u);
    EXPECT_EQ(parse_bytes("1024"), 1024u);
    EXPECT_EQ(parse_bytes("6GiB"), 6ull << 30);
    EXPECT_EQ(parse_bytes("512 MiB"), 512ull << 20);
    EXPECT_EQ(parse_bytes("1.5kib"), 1536u);
    EXPECT_EQ(parse_bytes("2GB"), 2'000'000'000u);
    EXPECT_EQ(parse_bytes("1e9"), 1'000'000'000u);
    EXPECT_EQ(parse_bytes("3g"), 3ull << 30);
    EXPECT_EQ(parse_bytes("7 B"), 7u);
}

TEST(ParseBytes, RefusesWhatIsNoSize) {
    for (const char* bad :
         {"", "x", "GiB", "-1", "1QB", "1GiB2", "nan", "inf", "1e30", "9999999TiB", "0x10", "1,5GiB"}) {
        SCOPED_TRACE(bad);
        try {
            parse_bytes(bad);
            ADD_FAILURE() << "was taken";
        } catch (const Error& error) {
            EXPECT_EQ(error.fault(), Fault::input);
            EXPECT_NE(std::string(error.what()).find(bad), std::string::npos);
        }
    }
}

TEST(Nearest, FindsTheWordThatWasMeant) {
    const std::vector<std::string> known{"rtn", "gptq", "magnitude", "slimgpt"};
    EXPECT_EQ(nearest("gtpq", known), "gptq");
    EXPECT_EQ(nearest("magnitde", known), "magnitude");
    EXPECT_EQ(nearest("slim_gpt", known), "slimgpt");
    EXPECT_EQ(nearest("rtn", known), "rtn");
}

TEST(Nearest, IsSilentWhenNothingIsNear) {
    EXPECT_EQ(nearest("quantisation", {"rtn", "gptq"}), "");
    EXPECT_EQ(nearest("x", {}), "");
}

TEST(Format, WritesSizesTimesAndShapesForPeople) {
    EXPECT_EQ(format_bytes(0), "0 B");
    EXPECT_EQ(format_bytes(1536), "1.5 KiB");
    EXPECT_EQ(format_bytes(200.0 * 1048576), "200 MiB");
    EXPECT_EQ(format_seconds(0.25), "0.25 s");
    EXPECT_EQ(format_seconds(75.3), "1 min 15 s");
    EXPECT_EQ(format_seconds(7260), "2 h 01 min");
    EXPECT_EQ(format_shape({2, 64}), "[2, 64]");
    EXPECT_EQ(format_shape({}), "[]");
    EXPECT_EQ(text("a", 1, ' ', 2.5), "a1 2.5");
}

}  // namespace
}  // namespace kerf::core
