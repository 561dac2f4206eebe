// SPDX-License-Identifier: Apache-2.0
#include "core/text/text_stream.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "core/text/unicode.hpp"

namespace kerf::core {
namespace {

const std::filesystem::path models = std::filesystem::path(KERF_TEST_DATA) / "models";
const char* const names[] = {"llama-tiny", "opt-tiny", "phi2-tiny", "phi3-tiny", "falcon-tiny", "smollm2-135m"};

TEST(TextStream, PiecesTogetherAreTheTextOfAllIdsAndEachIsWhole) {
    const std::string text =
        "The café 世界 🦀🦀 naïve\n\n  Grüße — “quoted” \t end. 1234 e\u0301\u0302 and plain words.";
    for (const char* name : names) {
        const auto tokenizer = Tokenizer::open(models / name);
        const auto ids = tokenizer->encode(text, true);
        for (std::size_t prompt = 1; prompt < ids.size(); prompt += 3) {
            const auto before = std::span(ids).first(prompt);
            const std::string said = tokenizer->decode(before, true);
            if (!unicode::is_valid(said) || said.ends_with("\uFFFD")) continue;
            TextStream stream(*tokenizer, before);
            std::string all = said;
            for (std::size_t i = prompt; i < ids.size(); ++i) {
                const std::string piece = stream.add(ids[i]);
                EXPECT_TRUE(unicode::is_valid(piece));
                EXPECT_EQ(piece.find("\uFFFD"), std::string::npos) << "half a character";
                all += piece;
            }
            all += stream.finish();
            EXPECT_EQ(all, tokenizer->decode(ids, true)) << name << " from " << prompt;
        }
    }
}

TEST(TextStream, RandomIdsGiveValidTextThatTogetherIsTheirs) {
    std::mt19937 random(4);
    for (const char* name : names) {
        const auto tokenizer = Tokenizer::open(models / name);
        std::vector<std::int64_t> ids = tokenizer->encode("A", true);
        TextStream stream(*tokenizer, ids);
        std::string all = tokenizer->decode(ids, true);
        for (int i = 0; i < 200; ++i) {
            ids.push_back(std::int64_t(random() % std::uint64_t(tokenizer->vocabulary())));
            const std::string piece = stream.add(ids.back());
            EXPECT_TRUE(unicode::is_valid(piece)) << name;
            all += piece;
        }
        all += stream.finish();
        EXPECT_TRUE(unicode::is_valid(all)) << name;
        // where bytes are tokens of their own, those of no character change how earlier ones read
        if (std::string_view(name) != "llama-tiny" && std::string_view(name) != "phi3-tiny") {
            EXPECT_EQ(all, tokenizer->decode(ids, true)) << name;
        }
    }
}

std::string through(const std::vector<std::string>& stops, const std::string& text, std::size_t step, bool& stopped) {
    StopTexts stream(stops);
    std::string out;
    for (std::size_t at = 0; at < text.size(); at += step) out += stream.add(std::string_view(text).substr(at, step));
    out += stream.finish();
    stopped = stream.stopped();
    return out;
}

TEST(StopTexts, EndBeforeTheFirstStopHoweverTheTextIsCut) {
    for (const std::size_t step : {1u, 2u, 3u, 7u, 100u}) {
        bool stopped = false;
        EXPECT_EQ(through({"\n\nUser:", "END"}, "abc\n\n\nUser: x END", step, stopped), "abc\n") << step;
        EXPECT_TRUE(stopped);
        EXPECT_EQ(through({"aab"}, "aaab", step, stopped), "a") << step;
        EXPECT_TRUE(stopped);
        EXPECT_EQ(through({"xyz", "y"}, "axyz", step, stopped), "ax") << step;
        EXPECT_EQ(through({"END"}, "no such EN", step, stopped), "no such EN") << step;
        EXPECT_FALSE(stopped);
    }
}

TEST(StopTexts, HoldBackWhatMayBecomeAStopAlone) {
    StopTexts stream({"STOP"});
    EXPECT_EQ(stream.add("a ST"), "a ");
    EXPECT_EQ(stream.add("A ST"), "STA ");
    EXPECT_EQ(stream.add("OP more"), "");
    EXPECT_TRUE(stream.stopped());
    EXPECT_EQ(stream.add("more"), "");
    EXPECT_EQ(stream.finish(), "");
}

}  // namespace
}  // namespace kerf::core
