// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/text/tokenizer.hpp"

namespace kerf::core {
namespace {

using Ids = std::vector<std::int64_t>;

const std::filesystem::path data = KERF_TEST_DATA;

nlohmann::json read(const std::filesystem::path& path) {
    std::ifstream in(path);
    return nlohmann::json::parse(in);
}

class TokenizerGolden : public testing::TestWithParam<const char*> {
protected:
    std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::open(data / "models" / GetParam());
    nlohmann::json golden_ = read(data / "golden" / ("tokenizer-" + std::string(GetParam()) + ".json"));
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

}  // namespace
}  // namespace kerf::core
