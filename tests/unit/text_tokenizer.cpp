// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <ctime>
#include <random>

#include "core/text/bpe.hpp"
#include "tests/unit/text_fixture.hpp"

namespace kerf::test {
namespace {

using core::Bpe;
using core::Tokenizer;
using core::Vocabulary;

class Models : public testing::TestWithParam<const char*> {
protected:
    std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::open(data / "models" / GetParam());
};

std::string random_text(std::mt19937_64& random) {
    const std::vector<std::string> parts{"a",      "the ",   " of", "ing",  "  ",     "\n",      "\t",     "\r\n",
                                         "12",     ".",      ",",   "'s",   "\u00e9", "e\u0301", "\u4e2d", "\U0001F600",
                                         "\u2581", "\u00a0", "<s>", "</s>", "<unk",   "Z"};
    std::string out;
    for (auto n = random() % 40; n > 0; --n) out += parts[random() % parts.size()];
    return out;
}

TEST_P(Models, DecodingGivesTheTextBack) {
    std::mt19937_64 random(2);
    const bool pieces = std::string(GetParam()) == "llama-tiny" || std::string(GetParam()) == "phi3-tiny";
    for (int i = 0; i < 500; ++i) {
        std::string text = random_text(random);
        const auto back = tokenizer_->decode(tokenizer_->encode(text, false), false);
        // Sentencepiece writes spaces as U+2581: the two become one. LlamaTokenizer drops one space in front.
        if (pieces)
            for (auto at = text.find("\u2581"); at != std::string::npos; at = text.find("\u2581"))
                text.replace(at, 3, " ");
        EXPECT_TRUE(back == text || (pieces && " " + back == text)) << text;
    }
}

TEST_P(Models, EveryIdIsBelowTheVocabulary) {
    std::mt19937_64 random(3);
    for (int i = 0; i < 200; ++i)
        for (const auto id : tokenizer_->encode(random_text(random), true)) {
            EXPECT_GE(id, 0);
            EXPECT_LT(id, tokenizer_->vocabulary());
        }
}

TEST_P(Models, InvalidUtf8IsReadAsReplacementCharacters) {
    EXPECT_EQ(tokenizer_->encode("a\xFF\xE2\x82z", false), tokenizer_->encode("a\uFFFD\uFFFDz", false));
}

TEST_P(Models, IdsWithoutTextAreSkipped) {
    const Ids ids{-1, tokenizer_->vocabulary(), INT64_MAX, INT64_MIN};
    EXPECT_EQ(tokenizer_->decode(ids, false), "");
}

TEST_P(Models, EmptyTextHasNoTokens) {
    EXPECT_TRUE(tokenizer_->encode("", false).empty());
    EXPECT_EQ(tokenizer_->decode({}, false), "");
}

// Processor time, so that a busy machine does not matter; a quadratic merge would take hours instead of half a second.
TEST_P(Models, WordsOfAMegabyteTakeNoLongerThanAText) {
    std::mt19937_64 random(4);
    constexpr std::size_t megabyte = std::size_t{1} << 20;
    std::string letters(megabyte, ' ');
    for (auto& c : letters) c = static_cast<char>('a' + random() % 26);
    const auto begin = std::clock();
    for (const std::string& word :
         {letters, std::string(megabyte, 'a'), std::string(megabyte, ' '), std::string(megabyte, '<')})
        EXPECT_FALSE(tokenizer_->encode(word, false).empty());
    EXPECT_LT(std::clock() - begin, 120 * CLOCKS_PER_SEC);
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Models,
                         testing::Values("llama-tiny", "phi3-tiny", "opt-tiny", "falcon-tiny", "smollm2-135m"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::erase(name, '-');
                             return name;
                         });

TEST(Tokenizer, KnowsBeginAndEndOfSequence) {
    EXPECT_EQ(Tokenizer::open(data / "models" / "llama-tiny")->bos(), 1);
    EXPECT_EQ(Tokenizer::open(data / "models" / "llama-tiny")->eos(), 2);
    EXPECT_EQ(Tokenizer::open(data / "models" / "smollm2-135m")->eos(), 2);
    EXPECT_EQ(Tokenizer::open(data / "models" / "llama-tiny")->vocabulary(), 2048);
    EXPECT_EQ(open_json(R"({"model": {"vocab": {"a": 0}, "merges": []}})")->bos(), std::nullopt);
}

/// The definition of BPE: of all neighbours that a rule joins, the one of lowest rank, the leftmost of equals.
Ids merge_slowly(const std::string& word, const Vocabulary& vocabulary, const std::vector<Bpe::MergeRule>& rules) {
    std::vector<std::string> symbols;
    for (const char c : word) symbols.emplace_back(1, c);
    while (true) {
        std::size_t best_rank = rules.size(), best = 0;
        for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
            for (std::size_t rank = 0; rank < best_rank; ++rank)
                if (rules[rank].first == symbols[i] && rules[rank].second == symbols[i + 1]) best_rank = rank, best = i;
        if (best_rank == rules.size()) break;
        symbols[best] += symbols[best + 1];
        symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    Ids out;
    for (const auto& symbol : symbols) out.push_back(*vocabulary.find(symbol));
    return out;
}

TEST(Bpe, MergesAsItsDefinitionSays) {
    std::mt19937_64 random(5);
    for (int model = 0; model < 40; ++model) {
        // Rules as a trainer makes them: each joins two tokens that are there already.
        std::vector<std::string> tokens{"a", "b", "c"};
        std::vector<Bpe::MergeRule> rules;
        while (rules.size() < 25) {
            const auto& left = tokens[random() % tokens.size()];
            const auto& right = tokens[random() % tokens.size()];
            if (std::find(tokens.begin(), tokens.end(), left + right) != tokens.end()) continue;
            rules.emplace_back(left, right);
            tokens.push_back(rules.back().first + rules.back().second);
        }
        Vocabulary vocabulary, reference;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            vocabulary.add(tokens[i], static_cast<std::int64_t>(i), "here");
            reference.add(tokens[i], static_cast<std::int64_t>(i), "here");
        }
        const Bpe bpe(std::move(vocabulary), rules, {}, "here");
        Bpe::Session session(bpe);
        for (int i = 0; i < 50; ++i) {
            std::string word;
            for (auto n = random() % 30; n > 0; --n) word += static_cast<char>('a' + random() % 3);
            Ids ids;
            session.encode(word, ids);
            EXPECT_EQ(ids, merge_slowly(word, reference, rules)) << word;
        }
    }
}

// "▁a▁" joins across a space mark, so the text must not be cut at space marks.
TEST(Bpe, AMergeThatReachesAcrossASpaceIsHonoured) {
    const auto tokenizer = open_json(R"({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "model": {"type": "BPE", "vocab": {"a": 0, "▁": 1, "a▁": 2, "a▁a": 3}, "merges": ["a ▁", ["a▁", "a"]]}})");
    EXPECT_EQ(tokenizer->encode("a a a", false), (Ids{2, 3}));  // a▁ a▁ a, then the one place where a▁ stands before a
}

}  // namespace
}  // namespace kerf::test
