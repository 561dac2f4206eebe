// SPDX-License-Identifier: Apache-2.0
#include "core/text/unicode.hpp"

#include <random>

#include "core/text/regex.hpp"
#include "tests/unit/text_fixture.hpp"

namespace kerf::test {
namespace {

namespace unicode = core::unicode;

std::vector<std::string> matches(const std::string& pattern, const std::string& text) {
    std::vector<std::string> out;
    for (const auto& range : core::Regex(pattern, "here").find_all(text))
        out.push_back(text.substr(range.begin, range.end - range.begin));
    return out;
}

TEST(Unicode, DecodingUndoesAppendingForEveryCodePoint) {
    for (char32_t code = 0; code < 0x110000; ++code) {
        if (code >= 0xD800 && code < 0xE000) continue;
        std::string text;
        unicode::append(text, code);
        const auto back = unicode::decode(text, 0);
        ASSERT_EQ(back.code, code);
        ASSERT_EQ(back.bytes, text.size());
        ASSERT_TRUE(unicode::is_valid(text)) << std::uint32_t(code);
    }
}

// The expected texts are Python's bytes.decode("utf-8", "replace").
TEST(Unicode, RepairReplacesEachMaximalIllFormedPartOnce) {
    const std::string bad = "\uFFFD";
    EXPECT_EQ(unicode::repaired("a\xFFz"), "a" + bad + "z");
    EXPECT_EQ(unicode::repaired("\xE2\x82"), bad);  // the beginning of U+20AC
    EXPECT_EQ(unicode::repaired("\xE2\x82z"), bad + "z");
    EXPECT_EQ(unicode::repaired("\xF0\x9F\x98"
                                "a\xF0\x9F"),
              bad + "a" + bad);
    EXPECT_EQ(unicode::repaired("\xC0\xAF"), bad + bad);                      // overlong
    EXPECT_EQ(unicode::repaired("\xE0\x80\xAF"), bad + bad + bad);            // overlong
    EXPECT_EQ(unicode::repaired("\xED\xA0\x80"), bad + bad + bad);            // a surrogate
    EXPECT_EQ(unicode::repaired("\xF4\x90\x80\x80"), bad + bad + bad + bad);  // past U+10FFFF
    EXPECT_EQ(unicode::repaired("\x80\xBF"), bad + bad);
    EXPECT_EQ(unicode::repaired("n\u00efve \U0001F600"), "n\u00efve \U0001F600");
}

TEST(Unicode, RepairedTextIsAlwaysValid) {
    std::mt19937_64 random(1);
    for (int i = 0; i < 20000; ++i) {
        std::string bytes;
        for (auto n = random() % 12; n > 0; --n) {
            constexpr std::string_view likely = "a\x80\xBF\xC2\xE0\xED\xF0\xF4\x9F\xA0\x90\xFF";
            bytes += likely[random() % likely.size()];
        }
        const auto repaired = unicode::repaired(bytes);
        ASSERT_TRUE(unicode::is_valid(repaired));
        ASSERT_EQ(unicode::is_valid(bytes), repaired == bytes);
    }
}

TEST(Regex, UnderstandsOnigurumasShorthands) {
    EXPECT_EQ(matches(R"(\w+)", "na\u0301ve x_1"),
              (std::vector<std::string>{"na\u0301ve", "x_1"}));  // marks are word characters
    EXPECT_EQ(matches(R"([^\s]+)", "a\u3000b\u180Ec"),
              (std::vector<std::string>{"a", "b\u180Ec"}));                          // U+180E is no space
    EXPECT_EQ(matches(R"(^.$)", "a\nbb\nc"), (std::vector<std::string>{"a", "c"}));  // ^ and $ at lines
    EXPECT_EQ(matches(R"([]x]+)", "a]x["), (std::vector<std::string>{"]x"}));
}

TEST(Regex, FindsEmptyMatchesBetweenCharactersOnly) {
    EXPECT_EQ(core::Regex("x*", "here").find_all("a\u00e9xb").size(), 4u);  // before a, before é, x, at the end
}

TEST(Regex, RefusesWhatItWouldMisunderstand) {
    expect_refused([] { core::Regex("[a[bc]]", "file.json: part"); },
                   {"file.json: part", "[a[bc]]", "class within a class"});
    expect_refused([] { core::Regex("[a-z&&[^b]]", "here"); }, {"intersection"});
    expect_refused([] { core::Regex("(a", "here"); }, {"(a", "parenthes"});
    expect_refused([] { core::Regex(std::string(70000, 'a'), "here"); }, {"70000"});
}

TEST(Regex, GivesUpOnAnExplodingPatternInsteadOfHanging) {
    const core::Regex regex(R"((a|aa|aaa)+(a|aa)+b)", "here");  // exponential where no b follows
    std::string text(200, 'a');
    text += "!b";
    expect_refused([&] { regex.find_all(text); }, {"gave up", "here"});
}

}  // namespace
}  // namespace kerf::test
