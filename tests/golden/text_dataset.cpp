// SPDX-License-Identifier: Apache-2.0
#include "core/calibration/dataset.hpp"
#include "tests/unit/text_fixture.hpp"

namespace kerf::test {
namespace {

struct Golden {
    const char* model;
    const char* sha256;  // of the `eval` windows that the reference made, 64 × 256 int64
};

class EvaluationText : public testing::TestWithParam<Golden> {};

// The text in the repository is the beginning of the reference's: the windows that it fills are the same.
TEST_P(EvaluationText, GivesTheWindowsOfTheReference) {
    const auto tokenizer = core::Tokenizer::open(data / "models" / GetParam().model);
    core::TextSource source;
    source.path = data / "text" / "wikitext2-test-128k.txt";
    source.samples = 64;
    source.length = 256;
    EXPECT_EQ(core::evaluation_windows(source, tokenizer.get(), 2048).sha256, GetParam().sha256);
}

INSTANTIATE_TEST_SUITE_P(
    Models, EvaluationText,
    testing::Values(Golden{"opt-tiny", "dce0365bad233a2db7a8f1cbfd959d4f780f2c0e1b5b531fac06b3cd601c9f26"},
                    Golden{"phi2-tiny", "28ad17147ff4c5c3d11640b248ca687318ebd527eccc770bb73a0b2bd84a1f06"},
                    Golden{"falcon-tiny", "28ad17147ff4c5c3d11640b248ca687318ebd527eccc770bb73a0b2bd84a1f06"}),
    [](const auto& info) {
        std::string name = info.param.model;
        std::erase(name, '-');
        return name;
    });

TEST(ReferenceText, WholeGivesTheWindowsOfTheReference) {
    const std::filesystem::path shared = KERF_SHARED;
    if (!std::filesystem::exists(shared / "data" / "wikitext2-test.txt"))
        GTEST_SKIP() << "no ../shared beside this clone";
    for (const std::string model : {"opt-tiny", "phi2-tiny", "falcon-tiny"}) {
        const auto tokenizer = core::Tokenizer::open(data / "models" / model);
        core::TextSource text, stored;
        text.path = shared / "data" / "wikitext2-test.txt";
        stored.path = shared / "golden" / ("tokens-" + model + ".safetensors");
        stored.source = "tokens";
        stored.tensor = "eval";
        text.samples = stored.samples = 64;
        text.length = stored.length = 256;
        EXPECT_EQ(core::evaluation_windows(text, tokenizer.get(), 2048).ids,
                  core::evaluation_windows(stored, nullptr, 2048).ids);
    }
}

}  // namespace
}  // namespace kerf::test
