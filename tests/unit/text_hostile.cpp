// SPDX-License-Identifier: Apache-2.0
#include <random>

#include "tests/unit/text_fixture.hpp"

namespace kerf::test {
namespace {

using core::Tokenizer;

const std::string small_model = R"("model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]})";

std::string with(const std::string& parts) {
    return "{" + parts + (parts.empty() ? "" : ", ") + small_model + "}";
}
std::string model(const std::string& inside) {
    return R"({"model": {"type": "BPE", )" + inside + "}}";
}

TEST(HostileTokenizer, TheUndamagedFileIsRead) {
    EXPECT_EQ(open_json(with(""))->encode("abba", false), (Ids{2, 1, 0}));
    EXPECT_EQ(open_json(with(R"("normalizer": null, "pre_tokenizer": null)"))->encode("ab", true), (Ids{2}));
}

TEST(HostileTokenizer, AFolderWithoutTokenizerSaysWhatIsLookedFor) {
    const TemporaryFolder folder;
    expect_refused([&] { Tokenizer::open(folder.path()); },
                   {folder.path().string(), "tokenizer.json", "tokenizer.model"});
    expect_refused([&] { Tokenizer::open(folder.path() / "none"); }, {"no such folder"});
}

TEST(HostileTokenizer, UnsupportedTypesAreNamedWithTheirPlace) {
    const std::vector<std::pair<std::string, std::vector<std::string>>> cases{
        {R"("normalizer": {"type": "Precompiled"})", {"tokenizer.json", "normalizer", "Precompiled"}},
        {R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]})",
         {"normalizers[1]", "Nmt"}},
        {R"("pre_tokenizer": {"type": "BertPreTokenizer"})", {"pre_tokenizer", "BertPreTokenizer"}},
        {R"("decoder": {"type": "CTC"})", {"decoder", "CTC"}},
        {R"("post_processor": {"type": "Odd"})", {"post_processor", "Odd"}},
        {R"("pre_tokenizer": {"type": "Punctuation", "behavior": "Odd"})", {"Odd"}},
        {R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[a&&b]"}, "behavior": "Isolated"})",
         {"pattern", "[a&&b]"}},
    };
    for (const auto& [parts, words] : cases) expect_refused([&, &file = parts] { open_json(with(file)); }, words);
    expect_refused([] { open_json(R"({"model": {"type": "WordPiece", "vocab": {"a": 0}}})"); },
                   {"model type", "WordPiece", "BPE and Unigram"});
    expect_refused([] { open_json(R"({"model": {"type": "WordLevel", "vocab": {"a": 0}}})"); }, {"WordLevel"});
    expect_refused([] { open_json(model(R"("vocab": {"a": 0}, "merges": [], "dropout": 0.1)")); }, {"dropout"});
    expect_refused([] { open_json(model(R"("vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>")")); },
                   {"suffix"});
}

TEST(HostileTokenizer, AbsurdVocabulariesAreRefused) {
    const std::vector<std::pair<std::string, std::vector<std::string>>> cases{
        {R"("vocab": {"a": 0, "b": 0}, "merges": [])", {"same id"}},
        {R"("vocab": {"a": -1}, "merges": [])", {"-1"}},
        {R"("vocab": {"a": 18446744073709551615}, "merges": [])", {"not between"}},
        {R"("vocab": {"a": 4194304}, "merges": [])", {"4194304"}},
        {R"("vocab": {"a": 1.5}, "merges": [])", {"1.5"}},
        {R"("vocab": {}, "merges": [])", {"empty"}},
        {R"("vocab": [], "merges": [])", {"vocab"}},
        {R"("vocab": {"a": 0}, "merges": ["a c"])", {"merge 1", "\"c\""}},
        {R"("vocab": {"a": 0, "b": 1}, "merges": ["a b"])", {"\"ab\""}},
        {R"("vocab": {"a": 0}, "merges": ["a"])", {"merge 1"}},
        {R"("vocab": {"a": 0}, "merges": ["a a a"])", {"merge 1"}},
        {R"("vocab": {"a": 0}, "merges": [["a"]])", {"merge 1"}},
        {R"("vocab": {"a": 0}, "merges": [7])", {"merge 1"}},
        {R"("vocab": {"a": 0}, "merges": [], "unk_token": "u")", {"unk_token", "\"u\""}},
        {R"("vocab": {"a": 0})", {"merges"}},
    };
    for (const auto& [inside, words] : cases) expect_refused([&, &file = inside] { open_json(model(file)); }, words);
}

TEST(HostileTokenizer, AbsurdUnigramVocabulariesAreRefused) {
    const std::vector<std::pair<std::string, std::vector<std::string>>> cases{
        {R"("vocab": [])", {"empty"}},
        {R"("vocab": {"a": -1})", {"list of pieces"}},
        {R"("vocab": [["a"]])", {"piece 0"}},
        {R"("vocab": [["a", -1], ["b", "c"]])", {"piece 1"}},
        {R"("vocab": [["a", -1], ["a", -2]])", {"\"a\"", "twice"}},
        {R"("vocab": [["a", -1], ["", -2]])", {"piece 1", "0 bytes"}},
        {R"("vocab": [["a", -1]], "unk_id": 1)", {"id 1", "1 pieces"}},
        {R"("vocab": [["a", -1]], "unk_id": -1)", {"unk_id", "-1"}},
        {R"("vocab": [["a", -1]], "unk_id": 1e30)", {"unk_id"}},
        {R"("vocab": [["a", 1e999]])", {"tokenizer.json"}},
        {R"("vocab": [[")" + std::string(1025, 'a') + R"(", 0]])", {"piece 0", "1025 bytes"}},
    };
    for (const auto& [inside, words] : cases)
        expect_refused([&, &file = inside] { open_json(R"({"model": {"type": "Unigram", )" + file + "}}"); }, words);
    // Without a token for the unknown, such a character has none: said when one comes.
    const auto tokenizer = open_json(R"({"model": {"type": "Unigram", "vocab": [["a", -1], ["b", -5], ["bc", -2]]}})");
    EXPECT_EQ(tokenizer->encode("abba", false), (Ids{0, 1, 1, 0}));
    expect_refused([&] { tokenizer->encode("ac", false); }, {"no piece for \"c\"", "unk_id"});
}

// Tokens that make each other in turn, the longest first: no merge leads back, since each product is longer.
TEST(HostileTokenizer, MergesInACircleEnd) {
    const auto tokenizer = open_json(model(
        R"("vocab": {"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4, "bab": 5, "abab": 6},
           "merges": ["ab ab", "ab a", "b ab", "a b", "b a", "a ba", "ba b"])"));
    EXPECT_EQ(tokenizer->encode("abab", false), (Ids{4, 1}));
    EXPECT_EQ(tokenizer->encode("bababa", false), (Ids{1, 4, 3}));
}

TEST(HostileTokenizer, MergesThatMakeEachOtherOfNothingAreRefused) {
    // An empty part would give back the token that it joins: the one way to a real cycle.
    for (const std::string merges : {R"([["a", ""]])", R"([["", "a"]])", R"([["", ""]])"})
        expect_refused([&] { open_json(model(R"("vocab": {"a": 0, "": 1}, "merges": )" + merges)); },
                       {"merge 1", "empty"});
}

TEST(HostileTokenizer, APatternThatBacktracksWithoutEndIsGivenUp) {
    const auto tokenizer = open_json(
        with(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?:a|aa)+$"}, "behavior": "Isolated"})"));
    expect_refused([&] { tokenizer->encode(std::string(60, 'a') + "b", false); },
                   {"pre_tokenizer.pattern", "(?:a|aa)+$", "61 bytes", "limit"});
    // And one that only looks so: possessive, it is linear.
    const auto fine = open_json(
        with(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?:a|b)++"}, "behavior": "Isolated"})"));
    EXPECT_EQ(fine->encode(std::string(2, 'a') + "b", false), (Ids{0, 2}));
}

TEST(HostileTokenizer, TextThatIsNotUtf8IsRefusedWhereverItStands) {
    for (const std::string& parts :
         {std::string("\"normalizer\": {\"type\": \"Prepend\", \"prepend\": \"\xff\"}"),
          std::string("\"added_tokens\": [{\"id\": 3, \"content\": \"\xc3\"}]"),
          std::string("\"pre_tokenizer\": {\"type\": \"\xed\xa0\x80\"}"), std::string("\"\x80\": 0"),
          std::string(R"("added_tokens": [{"id": 3, "content": "\ud800"}])")})
        expect_refused([&] { open_json(with(parts)); }, {"tokenizer.json", "not valid JSON"});
    const TemporaryFolder folder;
    folder.write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
    folder.write("merges.txt", "a b\na \xff\n");
    expect_refused([&] { Tokenizer::open(folder.path()); }, {"merges.txt", "merge 2"});
}

TEST(HostileTokenizer, AbsurdStagesAreRefused) {
    const std::vector<std::string> cases{
        R"("normalizer": [])",
        R"("normalizer": {"type": 3})",
        R"("normalizer": {"type": "Sequence", "normalizers": [null]})",
        R"("normalizer": {"type": "Replace", "pattern": {}, "content": "x"})",
        R"("pre_tokenizer": {"type": "Sequence", "pretokenizers": [null]})",
        R"("pre_tokenizer": {"type": "Metaspace", "replacement": "ab"})",
        R"("pre_tokenizer": {"type": "Metaspace", "replacement": ""})",
        R"("decoder": {"type": "Strip", "content": "", "start": 1, "stop": 0})",
        R"("decoder": {"type": "Strip", "content": "x", "start": -1, "stop": 0})",
        R"("decoder": {"type": "Sequence", "decoders": [null]})",
        R"("post_processor": {"type": "TemplateProcessing", "single": []})",
        R"("post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}],)"
        R"("special_tokens": {}})",
        R"("post_processor": {"type": "RobertaProcessing", "cls": ["a"], "sep": ["b", 1]})",
        R"("post_processor": {"type": "RobertaProcessing", "cls": ["a", 1e30], "sep": ["b", 1]})",
        R"("added_tokens": {})",
        R"("added_tokens": [{"id": 3}])",
        R"("added_tokens": [{"id": -3, "content": "x"}])",
        R"("added_tokens": [{"id": 3, "content": "x"}, {"id": 3, "content": "y"}])",
        R"("added_tokens": [{"id": 3, "content": ")" + std::string(2000, 'x') + R"("}])",
    };
    for (const auto& parts : cases) expect_refused([&] { open_json(with(parts)); }, {"tokenizer.json"});
}

TEST(HostileTokenizer, DeepNestingIsRefusedBeforeAnyRecursion) {
    std::string deep = "null";
    for (int i = 0; i < 100; ++i) deep = R"({"type": "Sequence", "normalizers": [)" + deep + "]}";
    expect_refused([&] { open_json(with("\"normalizer\": " + deep)); }, {"nested deeper than 64"});
    expect_refused([&] { open_json(std::string(1'000'000, '[')); }, {"nested deeper than 64"});
}

TEST(HostileTokenizer, AFileAboveSixtyFourMebibytesIsRefused) {
    const TemporaryFolder folder;
    folder.write("tokenizer.json", "");
    std::filesystem::resize_file(folder.path() / "tokenizer.json", (std::uint64_t{64} << 20) + 1);
    expect_refused([&] { Tokenizer::open(folder.path()); }, {"tokenizer.json"});
}

TEST(HostileTokenizer, BrokenConfigurationsAreRefused) {
    for (const std::string config :
         {"[]", "{", R"({"bos_token": 5})", R"({"add_bos_token": "yes"})",
          R"({"added_tokens_decoder": {"x": {"content": "y"}}})",
          R"({"added_tokens_decoder": {"99999999999": {"content": "y"}}})", R"({"added_tokens_decoder": []})"}) {
        const TemporaryFolder folder;
        folder.write("tokenizer.json", with(""));
        folder.write("tokenizer_config.json", config);
        expect_refused([&] { Tokenizer::open(folder.path()); }, {"tokenizer_config.json"});
    }
}

TEST(HostileTokenizer, BrokenMergesFilesAreRefused) {
    const TemporaryFolder folder;
    folder.write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
    folder.write("merges.txt", "#version: 0.2\r\na b\r\n\r\n");
    EXPECT_EQ(Tokenizer::open(folder.path())->encode("ab", false), (Ids{2}));
    folder.write("merges.txt", "#version: 0.2\na b c\n");
    expect_refused([&] { Tokenizer::open(folder.path()); }, {"merges.txt", "a b c"});
}

/// Some changes to some bytes; what comes out is mostly still half a file of its kind.
std::string damaged(std::string bytes, std::mt19937_64& random) {
    for (auto n = 1 + random() % 4; n > 0 && !bytes.empty(); --n) {
        const auto at = random() % bytes.size();
        switch (random() % 4) {
            case 0:
                bytes[at] = static_cast<char>(random());
                break;
            case 1:
                bytes.erase(at, random() % 20);
                break;
            case 2:
                bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 20));
                break;
            default:
                bytes.resize(at + 1);
                break;
        }
    }
    return bytes;
}

/// Opens and uses what can be opened.
void use(const TemporaryFolder& folder) {
    const auto tokenizer = Tokenizer::open(folder.path());
    const auto ids = tokenizer->encode("Hello  <s> world\xFF 123\n\u2581x", true);
    tokenizer->decode(ids, true);
}

TEST(HostileTokenizer, ADamagedSentencepieceModelNeverCrashes) {
    const std::string whole = read_file(data / "models" / "llama-tiny" / "tokenizer.model");
    std::mt19937_64 random(6);
    for (int i = 0; i < 300; ++i) {
        const TemporaryFolder folder;
        folder.write("tokenizer.model", damaged(whole, random));
        EXPECT_TRUE(ends_well([&] { use(folder); }));
    }
}

TEST(HostileTokenizer, ADamagedTokenizerJsonNeverCrashes) {
    // The small stages of every kind, in one file each.
    const auto golden = read_json(data / "golden" / "tokenizers-stages.json");
    std::mt19937_64 random(7);
    for (const auto& stage : golden["tokenizers"]) {
        const std::string parts = stage["parts"].dump();
        const std::string whole = parts.substr(0, parts.size() - 1) + "," + small_model + "}";
        for (int i = 0; i < 20; ++i) {
            const TemporaryFolder folder;
            folder.write("tokenizer.json", damaged(whole, random));
            EXPECT_TRUE(ends_well([&] { use(folder); }));
        }
    }
}

TEST(HostileTokenizer, SentencepieceModelsOfOtherKindsAreNamed) {
    const TemporaryFolder folder;
    const std::string piece = std::string("\x0a\x03\x0a\x01") + "a";  // pieces: {piece: "a"}
    folder.write("tokenizer.model", piece + "\x12\x02\x18\x03");      // trainer_spec: {model_type: WORD}
    expect_refused([&] { Tokenizer::open(folder.path()); }, {"tokenizer.model", "word model", "BPE and unigram"});
    folder.write("tokenizer.model", piece + "\x12\x02\x18\x02");  // BPE
    EXPECT_EQ(Tokenizer::open(folder.path())->vocabulary(), 4);   // with <s>, </s> and <unk>, which LlamaTokenizer adds
    folder.write("tokenizer.model", piece + piece + "\x12\x02\x18\x02");
    expect_refused([&] { Tokenizer::open(folder.path()); }, {"tokenizer.model", "twice"});
    folder.write("tokenizer.model", piece + piece);  // unigram, which is what a file is that does not say
    expect_refused([&] { Tokenizer::open(folder.path()); }, {"tokenizer.model", "twice"});
    folder.write("tokenizer.model", "");
    expect_refused([&] { Tokenizer::open(folder.path()); }, {"tokenizer.model", "no pieces"});
}

TEST(HostileTokenizer, ASentencepieceScoreThatIsNoNumberIsRefused) {
    const TemporaryFolder folder;
    const std::string piece = std::string("\x0a\x08\x0a\x01") + "a" + std::string("\x15\x00\x00\xc0\x7f", 5);  // NaN
    folder.write("tokenizer.model", piece);
    expect_refused([&] { Tokenizer::open(folder.path()); }, {"tokenizer.model", "\"a\"", "no finite number"});
}

}  // namespace
}  // namespace kerf::test
