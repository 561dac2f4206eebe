// SPDX-License-Identifier: Apache-2.0
// Tokenizers in the metadata of GGUF files.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/text/gguf_tokenizer.hpp"
#include "core/text/stages.hpp"
#include "tests/unit/gguf_fixture.hpp"
#include "tests/unit/text_fixture.hpp"

namespace kerf::test {
namespace {

using core::Tokenizer;

/// What a converter puts into a file of a model with this tokenizer.json.
GgufBuilder byte_level_file(const nlohmann::json& document, const std::string& pre) {
    std::vector<std::string> tokens;
    for (const auto& [token, id] : document["model"]["vocab"].items()) {
        tokens.resize(std::max(tokens.size(), id.get<std::size_t>() + 1));
        tokens[id.get<std::size_t>()] = token;
    }
    std::vector<std::int32_t> kinds(tokens.size(), 1);
    for (const auto& added : document["added_tokens"]) {
        const auto id = added["id"].get<std::size_t>();
        tokens.resize(std::max(tokens.size(), id + 1));
        kinds.resize(tokens.size(), 1);
        tokens[id] = added["content"];
        kinds[id] = added["special"].get<bool>() ? 3 : 4;
    }
    std::vector<std::string> merges;
    for (const auto& merge : document["model"]["merges"])
        merges.push_back(merge.is_string() ? merge.get<std::string>()
                                           : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    GgufBuilder out;
    out.text("general.architecture", "llama")
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", tokens)
        .integers("tokenizer.ggml.token_type", kinds)
        .texts("tokenizer.ggml.merges", merges);
    return out;
}

/// Of a tokenizer.model, read by the sentencepiece library.
GgufBuilder sentencepiece_file(const std::filesystem::path& model) {
    sentencepiece::SentencePieceProcessor library;
    if (!library.Load(model.string()).ok()) throw std::runtime_error("no sentencepiece model");
    std::vector<std::string> tokens;
    std::vector<float> scores;
    std::vector<std::int32_t> kinds;
    for (int id = 0; id < library.GetPieceSize(); ++id) {
        tokens.push_back(library.IdToPiece(id));
        scores.push_back(library.GetScore(id));
        kinds.push_back(library.IsUnknown(id)   ? 2
                        : library.IsControl(id) ? 3
                        : library.IsByte(id)    ? 6
                        : library.IsUnused(id)  ? 5
                                                : 1);
    }
    GgufBuilder out;
    out.text("general.architecture", "llama")
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", tokens)
        .reals("tokenizer.ggml.scores", scores)
        .integers("tokenizer.ggml.token_type", kinds)
        .count("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(library.bos_id()))
        .count("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(library.eos_id()))
        .count("tokenizer.ggml.unknown_token_id", static_cast<std::uint32_t>(library.unk_id()));
    return out;
}

struct Golden {
    friend std::ostream& operator<<(std::ostream& out, const Golden& g) { return out << g.model; }
    const char *model, *pre;
};
class GgufTokenizerGolden : public testing::TestWithParam<Golden> {};

TEST_P(GgufTokenizerGolden, GivesTheIdsOfTransformers) {
    const std::string name = GetParam().model;
    const MemoryFile file(
        byte_level_file(read_json(data / "models" / name / "tokenizer.json"), GetParam().pre).build());
    const auto tokenizer = Tokenizer::open(file.path());
    const auto golden = read_json(data / "golden" / ("tokenizer-" + name + ".json"));
    ASSERT_GT(golden["cases"].size(), 100u);
    for (const auto& example : golden["cases"]) {
        const std::string text = example["text"];
        EXPECT_EQ(tokenizer->encode(text, false), example["ids_no_special"].get<Ids>()) << text;
        EXPECT_EQ(tokenizer->decode(example["ids_no_special"].get<Ids>(), false),
                  example["decoded"].get<std::string>());
    }
}

INSTANTIATE_TEST_SUITE_P(Models, GgufTokenizerGolden,
                         testing::Values(Golden{"smollm2-135m", "smollm"}, Golden{"falcon-tiny", "gpt-2"},
                                         Golden{"phi2-tiny", "phi-2"}),
                         [](const auto& info) {
                             std::string name = info.param.model;
                             std::erase(name, '-');
                             return name;
                         });

TEST(GgufSentencepiece, GivesTheIdsOfTheSentencepieceLibrary) {
    const auto model = data / "models/llama-tiny/tokenizer.model";
    const MemoryFile file(sentencepiece_file(model).build());
    const auto tokenizer = Tokenizer::open(file.path());
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.Load(model.string()).ok());
    int compared = 0;
    const auto golden = read_json(data / "golden/tokenizer-llama-tiny.json");
    for (const auto& example : golden["cases"]) {
        const std::string text = example["text"];
        // The library does not know special tokens, and gives an empty text no space in front.
        if (text.empty() || text.find('<') != std::string::npos) continue;
        std::vector<int> theirs;
        ASSERT_TRUE(library.Encode(text, &theirs).ok());
        Ids ids(theirs.begin(), theirs.end());
        EXPECT_EQ(tokenizer->encode(text, false), ids) << text;
        ids.insert(ids.begin(), library.bos_id());
        EXPECT_EQ(tokenizer->encode(text, true), ids) << "the start of text is the format's default: " << text;
        ++compared;
    }
    EXPECT_GT(compared, 50);
    EXPECT_EQ(tokenizer->bos(), library.bos_id());
    EXPECT_EQ(tokenizer->eos(), library.eos_id());
}

TEST(GgufSentencepiece, PutsNoSpaceInFrontWhereTheFileSaysSo) {
    const auto model = data / "models/llama-tiny/tokenizer.model";
    GgufBuilder with = sentencepiece_file(model), without = sentencepiece_file(model);
    without.flag("tokenizer.ggml.add_space_prefix", false).flag("tokenizer.ggml.add_bos_token", false);
    const MemoryFile one(with.build()), other(without.build());
    const auto prefixed = Tokenizer::open(one.path()), plain = Tokenizer::open(other.path());
    EXPECT_EQ(plain->encode(" the house", true), prefixed->encode("the house", false));
    EXPECT_EQ(plain->decode(plain->encode(" the house", false), true), " the house");
    EXPECT_EQ(prefixed->decode(prefixed->encode("the house", false), true), "the house");
}

/// The pieces that a named pre-tokenizer cuts a text into; "_" stands for a space.
std::vector<std::string> words(const std::string& pre, const std::string& text) {
    GgufBuilder builder;
    builder.text("general.architecture", "llama").text("tokenizer.ggml.pre", pre);
    const MemoryFile stored(builder.build());
    const core::GgufFile file(stored.path());
    const auto steps = core::gguf::pre_tokenizer_of(file).steps;
    core::Pieces pieces{{text, -1, true}};
    core::read_pre_tokenizer(core::JsonPart(steps, "steps"))(pieces);
    std::vector<std::string> out;
    for (const auto& piece : pieces) out.push_back(core::replace_all(piece.text, "\u0120", "_"));
    return out;
}
using Words = std::vector<std::string>;

TEST(GgufPreTokenizer, CutsAsEachFamilyDoes) {
    const std::string text = "It's 12345 iPhones!!";
    EXPECT_EQ(words("gpt-2", text), (Words{"It", "'s", "_12345", "_iPhones", "!!"}));
    EXPECT_EQ(words("smollm", text), (Words{"It", "'s", "_", "1", "2", "3", "4", "5", "_iPhones", "!!"}));
    EXPECT_EQ(words("llama-bpe", text), (Words{"It", "'s", "_", "123", "45", "_iPhones", "!!"}));
    EXPECT_EQ(words("qwen2", text), (Words{"It", "'s", "_", "1", "2", "3", "4", "5", "_iPhones", "!!"}));
    EXPECT_EQ(words("tekken", text), (Words{"It", "'s", "_", "1", "2", "3", "4", "5", "_i", "Phones", "!!"}));
    EXPECT_EQ(words("gpt-4o", text), (Words{"It's", "_", "123", "45", "_i", "Phones", "!!"}));
    EXPECT_EQ(words("falcon", text), (Words{"It", "'", "s", "_", "123", "45", "_iPhones", "!!"}));
    EXPECT_EQ(words("default", text), (Words{"It", "'", "s", "_", "123", "45", "_iPhones", "!!"}));
}

TEST(GgufTokenizerDocuments, KeepSpecialTokensAndTheChatTemplate) {
    const std::string chat = "{% for m in messages %}{{ m['content'] }}{% endfor %}";
    GgufBuilder builder = smallest_llama();
    builder.text("tokenizer.chat_template", chat).flag("tokenizer.ggml.add_bos_token", true);
    builder.flag("tokenizer.ggml.add_eos_token", true).count("tokenizer.ggml.padding_token_id", 5);
    const MemoryFile stored(builder.build());
    const core::GgufFile file(stored.path());
    const auto documents = core::read_gguf_tokenizer(file);
    ASSERT_TRUE(documents);
    EXPECT_EQ(documents->config["chat_template"], chat);
    EXPECT_EQ(documents->config["bos_token"], "<s>");
    EXPECT_EQ(documents->config["pad_token"], "d");
    EXPECT_EQ(documents->config["model_max_length"], 64);
    const auto tokenizer = Tokenizer::open(stored.path());
    EXPECT_EQ(tokenizer->encode("ab<s>c", true), (Ids{0, 3, 0, 4, 0}));
    EXPECT_EQ(tokenizer->encode("ab", false), (Ids{3}));
    EXPECT_EQ(tokenizer->decode(Ids{0, 3, 4}, true), "abc");
}

TEST(GgufTokenizerDocuments, LeaveOutWhatOnlyFillsTheVocabulary) {
    GgufBuilder builder;
    builder.text("general.architecture", "llama")
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", {"a", "", "[PAD2]", "[PAD2]"})
        .integers("tokenizer.ggml.token_type", {1, 1, 5, 5})
        .texts("tokenizer.ggml.merges", {});
    const MemoryFile stored(builder.build());
    EXPECT_EQ(Tokenizer::open(stored.path())->vocabulary(), 1);
}

TEST(GgufTokenizerDocuments, AreNotThereForAFileWithoutAVocabulary) {
    GgufBuilder builder;
    builder.text("general.architecture", "llama");
    const MemoryFile stored(builder.build());
    const core::GgufFile file(stored.path());
    EXPECT_FALSE(core::read_gguf_tokenizer(file));
    expect_refused([&] { Tokenizer::open(stored.path()); }, {"holds no tokenizer"});
}

struct Broken {
    friend std::ostream& operator<<(std::ostream& out, const Broken& b) { return out << b.name; }
    const char* name;
    std::function<void(GgufBuilder&)> make;
    const char* says;
};
class BrokenGgufTokenizer : public testing::TestWithParam<Broken> {};

TEST_P(BrokenGgufTokenizer, IsRefusedInOneSentence) {
    GgufBuilder builder;
    builder.text("general.architecture", "llama");
    GetParam().make(builder);
    const MemoryFile stored(builder.build());
    expect_refused([&] { Tokenizer::open(stored.path()); }, {stored.path().string() + ": ", GetParam().says});
}

GgufBuilder& gpt2(GgufBuilder& b, const std::vector<std::string>& tokens, const std::vector<std::string>& merges) {
    return b.text("tokenizer.ggml.model", "gpt2")
        .texts("tokenizer.ggml.tokens", tokens)
        .texts("tokenizer.ggml.merges", merges);
}

const std::vector<Broken> broken{
    {"UnknownKind", [](auto& b) { b.text("tokenizer.ggml.model", "t5"); }, "tokenizers of the kind \"t5\""},
    {"UnknownPreTokenizer", [](auto& b) { gpt2(b, {"a"}, {}).text("tokenizer.ggml.pre", "klingon"); },
     "pre-tokenizer \"klingon\" (tokenizer.ggml.pre) is not supported; kerf knows default, gpt-2"},
    {"NoTokens", [](auto& b) { b.text("tokenizer.ggml.model", "gpt2"); }, "lacks the metadata tokenizer.ggml.tokens"},
    {"EmptyVocabulary", [](auto& b) { gpt2(b, {}, {}); }, "vocabulary of 0 tokens"},
    {"TokenTwice",
     [](auto& b) {
         gpt2(b, {"a", "a"}, {});
     },
     "the token \"a\" twice"},
    {"TokenThatIsNoUtf8", [](auto& b) { gpt2(b, {"\xff"}, {}); }, "token 0 is not UTF-8"},
    {"MergeOfOne", [](auto& b) { gpt2(b, {"a"}, {"a"}); }, "merge, number 1"},
    {"MergeOfUnknownTokens",
     [](auto& b) {
         gpt2(b, {"a", "b"}, {"a b"});
     },
     "which the vocabulary lacks"},
    {"TooFewTypes",
     [](auto& b) {
         gpt2(b, {"a", "b"}, {}).integers("tokenizer.ggml.token_type", {1});
     },
     "2 tokens, but 1 token types"},
    {"SpecialTokenBeyondTheVocabulary", [](auto& b) { gpt2(b, {"a"}, {}).count("tokenizer.ggml.bos_token_id", 7); },
     "has no token 7"},
    {"NoScores", [](auto& b) { b.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", {"a"}); },
     "lacks the metadata tokenizer.ggml.scores"},
    {"ScoreThatIsNoNumber",
     [](auto& b) {
         b.text("tokenizer.ggml.model", "llama")
             .texts("tokenizer.ggml.tokens", {"a"})
             .reals("tokenizer.ggml.scores", {NAN});
     },
     "no finite score"}};

INSTANTIATE_TEST_SUITE_P(Files, BrokenGgufTokenizer, testing::ValuesIn(broken),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace kerf::test
