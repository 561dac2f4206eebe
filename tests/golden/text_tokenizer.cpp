// SPDX-License-Identifier: Apache-2.0
#include <sentencepiece_processor.h>

#include <cstring>

#include "core/weights/tensor_file.hpp"
#include "tests/unit/text_fixture.hpp"

namespace kerf::test {
namespace {

using core::Tokenizer;

class TokenizerGolden : public testing::TestWithParam<const char*> {
protected:
    std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::open(data / "models" / GetParam());
    nlohmann::json golden_ = read_json(data / "golden" / ("tokenizer-" + std::string(GetParam()) + ".json"));
};

TEST_P(TokenizerGolden, GivesTheIdsOfTransformers) {
    ASSERT_GT(golden_["cases"].size(), 100u);
    for (const auto& example : golden_["cases"]) {
        const std::string text = example["text"];
        EXPECT_EQ(tokenizer_->encode(text, true), example["ids"].get<Ids>()) << text;
        EXPECT_EQ(tokenizer_->encode(text, false), example["ids_no_special"].get<Ids>()) << text;
    }
}

TEST_P(TokenizerGolden, GivesTheDecodedTextOfTransformers) {
    for (const auto& example : golden_["cases"]) {
        const auto ids = example["ids_no_special"].get<Ids>();
        EXPECT_EQ(tokenizer_->decode(ids, false), example["decoded"].get<std::string>());
    }
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizerGolden,
                         testing::Values("llama-tiny", "phi3-tiny", "opt-tiny", "phi2-tiny", "falcon-tiny",
                                         "smollm2-135m"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::erase(name, '-');
                             return name;
                         });

/// What transformers makes of 300 texts, for each kind of tokenizer that tests/data/make_tokenizers.py trains.
class Kinds {
public:
    static const Kinds& golden() {
        static const Kinds kinds;
        return kinds;
    }
    const nlohmann::json& of(const std::string& kind) const { return golden_["tokenizers"][kind]; }
    std::vector<std::string> texts() const { return golden_["texts"].get<std::vector<std::string>>(); }
    std::vector<Ids> ids(const std::string& kind) const {
        const auto all = integers<std::int16_t>(kind);
        std::vector<Ids> out;
        std::size_t begin = 0;
        for (const auto end : integers<std::int32_t>(kind + ".ends")) {
            out.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(begin), all.begin() + end);
            begin = static_cast<std::size_t>(end);
        }
        return out;
    }
    /// The text of that number, where it is not as in `otherwise`.
    static std::string changed(const nlohmann::json& texts, std::size_t i, const std::string& otherwise) {
        const auto found = texts.find(std::to_string(i));
        return found == texts.end() ? otherwise : found->get<std::string>();
    }

private:
    template <class Integer>
    std::vector<Integer> integers(const std::string& name) const {
        const auto* tensor = ids_->find(name);
        if (tensor == nullptr) return {};
        std::vector<Integer> out(tensor->bytes.size() / sizeof(Integer));
        std::memcpy(out.data(), tensor->bytes.data(), tensor->bytes.size());
        return out;
    }
    nlohmann::json golden_ = read_json(data / "golden" / "tokenizers.json");
    std::unique_ptr<core::TensorFile> ids_ = core::open_safetensors(data / "golden" / "tokenizers.safetensors");
};

class TokenizerKind : public testing::TestWithParam<const char*> {
protected:
    std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::open(data / "tokenizers" / GetParam());
    const nlohmann::json& golden_ = Kinds::golden().of(GetParam());
    std::vector<std::string> texts_ = Kinds::golden().texts();
    std::vector<Ids> ids_ = Kinds::golden().ids(GetParam());
};

TEST_P(TokenizerKind, GivesTheIdsOfTransformers) {
    ASSERT_EQ(texts_.size(), 300u);
    ASSERT_EQ(ids_.size(), texts_.size());
    const auto before = golden_["before"].get<Ids>(), after = golden_["after"].get<Ids>();
    for (std::size_t i = 0; i < texts_.size(); ++i) {
        EXPECT_EQ(tokenizer_->encode(texts_[i], false), ids_[i]) << i << ": " << texts_[i];
        Ids whole = before;
        whole.insert(whole.end(), ids_[i].begin(), ids_[i].end());
        whole.insert(whole.end(), after.begin(), after.end());
        EXPECT_EQ(tokenizer_->encode(texts_[i], true), whole) << i << ": " << texts_[i];
    }
    EXPECT_EQ(tokenizer_->vocabulary(), golden_["vocabulary"].get<std::int64_t>());
}

TEST_P(TokenizerKind, GivesTheDecodedTextsOfTransformers) {
    for (std::size_t i = 0; i < ids_.size(); ++i) {
        const std::string decoded = Kinds::changed(golden_["decoded"], i, texts_[i]);
        EXPECT_EQ(tokenizer_->decode(ids_[i], false), decoded) << i;
        EXPECT_EQ(tokenizer_->decode(ids_[i], true), Kinds::changed(golden_["skipped"], i, decoded)) << i;
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerKind,
                         testing::Values("llama3", "qwen2", "gptneox", "falcon", "digits", "tekken", "gemma",
                                         "gemma-model", "mistral", "llama-legacy", "llama-json", "mixtral", "phi3",
                                         "unigram", "unigram-bytes", "unigram-model"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::erase(name, '-');
                             return name;
                         });

// Two readers of one file: ours without a dummy space, and the sentencepiece library, whose dummy space we put in the
// text. Texts without "<": the library does not know special tokens.
TEST(SentencepieceModel, GivesTheIdsOfTheSentencepieceLibrary) {
    const TemporaryFolder folder;
    copy_file(data / "models" / "llama-tiny", folder, "tokenizer.model");
    folder.write("tokenizer_config.json", R"({"add_prefix_space": false})");
    const auto ours = Tokenizer::open(folder.path());
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.Load((folder.path() / "tokenizer.model").string()).ok());
    const auto golden = read_json(data / "golden" / "tokenizer-llama-tiny.json");
    int compared = 0;
    for (std::size_t i = 0; i < golden["cases"].size(); ++i) {
        const std::string text = golden["cases"][i]["text"];
        if (text.empty() || text.find('<') != std::string::npos) continue;
        std::vector<int> theirs;
        ASSERT_TRUE(library.Encode(text, &theirs).ok());
        const Ids ids(theirs.begin(), theirs.end());
        EXPECT_EQ(ours->encode(" " + text, false), ids) << text;
        EXPECT_EQ(golden["sentencepiece_ids"][i].get<Ids>(), ids) << text;
        ++compared;
    }
    EXPECT_GT(compared, 50);
}

// Every stage of tokenizer.json, as the PyPI package `tokenizers` runs it. A null among the results means: equal to the
// one before it, or to the text.
TEST(TokenizerStages, GiveTheIdsAndTextsOfTheTokenizersPackage) {
    const auto golden = read_json(data / "golden" / "tokenizers-stages.json");
    ASSERT_GT(golden["tokenizers"].size(), 50u);
    for (const auto& stage : golden["tokenizers"]) {
        auto file = stage["parts"];
        file["model"] = golden["models"][stage["model"].get<std::string>()];
        file["model"].update(stage["options"]);
        if (!stage["merges"].is_null()) {
            auto& merges = file["model"]["merges"];
            merges.erase(merges.begin() + stage["merges"].get<int>(), merges.end());
        }
        const auto tokenizer = open_json(file.dump());
        for (std::size_t i = 0; i < golden["texts"].size(); ++i) {
            const std::string text = golden["texts"][i];
            const auto& expected = stage["results"][i];
            const auto with = expected[0].get<Ids>();
            const auto without = expected[1].is_null() ? with : expected[1].get<Ids>();
            const auto decoded = expected[2].is_null() ? text : expected[2].get<std::string>();
            const auto skipped = expected[3].is_null() ? decoded : expected[3].get<std::string>();
            const std::string which = stage["name"].get<std::string>() + ": " + text;
            EXPECT_EQ(tokenizer->encode(text, true), with) << which;
            EXPECT_EQ(tokenizer->encode(text, false), without) << which;
            EXPECT_EQ(tokenizer->decode(with, false), decoded) << which;
            EXPECT_EQ(tokenizer->decode(with, true), skipped) << which;
        }
    }
}

// What tokenizer_config.json and its older companions change, as transformers reads them.
TEST(TokenizerConfig, GivesTheIdsAndTextsOfTransformers) {
    const auto golden = read_json(data / "golden" / "tokenizer-config-cases.json");
    for (const auto& example : golden["cases"]) {
        const std::string name = example["name"];
        const TemporaryFolder folder;
        for (const auto& file : example["files"]) copy_file(data / "models" / example["model"], folder, file);
        folder.write("tokenizer_config.json", example["config"].dump());
        for (const auto& [file, content] : example["extra"].items()) folder.write(file, content.dump());
        const auto tokenizer = Tokenizer::open(folder.path());
        EXPECT_EQ(tokenizer->bos(), example["bos"].get<std::int64_t>()) << name;
        EXPECT_EQ(tokenizer->eos(), example["eos"].get<std::int64_t>()) << name;
        for (std::size_t i = 0; i < golden["texts"].size(); ++i) {
            const std::string text = golden["texts"][i];
            const auto& expected = example["results"][i];
            const auto ids = tokenizer->encode(text, true);
            EXPECT_EQ(ids, expected[0].get<Ids>()) << name << ": " << text;
            EXPECT_EQ(tokenizer->decode(ids, false), expected[1].get<std::string>()) << name << ": " << text;
            EXPECT_EQ(tokenizer->decode(ids, true), expected[2].get<std::string>()) << name << ": " << text;
        }
    }
}

}  // namespace
}  // namespace kerf::test
