// SPDX-License-Identifier: Apache-2.0
// Generation with whole models: every folder of tests/data/models that has weights.
#include "core/eval/generate.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/eval/evaluate.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> models_with_weights() {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(test_data("models"))) {
        const bool described = fs::exists(entry.path() / "config.json");
        const bool weights = fs::exists(entry.path() / "model.safetensors") ||
                             fs::exists(entry.path() / "pytorch_model.bin") ||
                             fs::exists(entry.path() / "model.safetensors.index.json");
        if (described && weights) out.push_back(entry.path().filename().string());
    }
    std::sort(out.begin(), out.end());
    return out;
}

class Generating : public testing::TestWithParam<std::string> {
protected:
    Model model() const { return Model::open(test_data("models/" + GetParam()), components()); }
};

/// Logits [ids, vocabulary] of one full forward pass.
std::vector<float> full_forward(const Model& model, const std::vector<std::int64_t>& ids) {
    const ScratchFolder scratch;
    Windows windows;
    windows.samples = 1;
    windows.length = std::int64_t(ids.size());
    windows.ids = ids;
    return logits(model, windows, DType::f32, scratch.path());
}

std::vector<std::int64_t> some_ids(const Model& model, std::int64_t count) {
    std::vector<std::int64_t> out;
    for (std::int64_t i = 0; i < count; ++i) out.push_back((i * 7919 + 13) % model.graph().vocabulary);
    return out;
}

/// 1e-5 of the largest logit, the bound.
double largest_difference(std::span<const float> got, const float* expected) {
    double difference = 0, largest = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        difference = std::max(difference, std::abs(double(got[i]) - double(expected[i])));
        largest = std::max(largest, std::abs(double(expected[i])));
    }
    return difference / largest;
}

TEST_P(Generating, PrefillAndDecodeAgreeWithTheFullForwardPass) {
    const Model model = this->model();
    Decoder decoder(model.graph(), model.source(), DType::f32);
    const std::int64_t length = model.graph().positions > 0 ? std::min<std::int64_t>(48, model.graph().positions) : 48;
    const auto ids = some_ids(model, length);
    const auto expected = full_forward(model, ids);
    const std::int64_t vocabulary = model.graph().vocabulary, prompt = length * 2 / 3;
    Sequence sequence = decoder.start(length);
    // against the prompt alone: how far longrope turns a key depends on how long the text is
    const auto start = std::vector(ids.begin(), ids.begin() + prompt);
    const auto at_start = full_forward(model, start);
    EXPECT_LE(largest_difference(decoder.append(sequence, start), at_start.data() + (prompt - 1) * vocabulary), 1e-5);
    for (std::int64_t i = prompt; i < length; ++i)
        EXPECT_LE(largest_difference(decoder.append(sequence, std::span(ids).subspan(std::size_t(i), 1)),
                                     expected.data() + i * vocabulary),
                  1e-5)
            << "token " << i;
}

INSTANTIATE_TEST_SUITE_P(Models, Generating, testing::ValuesIn(models_with_weights()), [](const auto& info) {
    std::string name = info.param;
    std::replace_if(
        name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
    return name;
});

struct Tiny {
    Model model = Model::open(test_data("models/llama-tiny"), components());
    std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(model.folder());
    Decoder decoder{model.graph(), model.source(), stored_weight_type(model)};

    GenerateRequest request(const std::vector<std::string>& prompts, std::int64_t tokens) const {
        GenerateRequest out;
        for (const auto& prompt : prompts) out.prompts.push_back(tokenizer->encode(prompt, true));
        out.tokens = tokens;
        return out;
    }
    GenerateResult run(const GenerateRequest& request, const GenerateEvents& events = {}) {
        return generate(decoder, model, *tokenizer, request, events);
    }
};

const std::vector<std::string> prompts{"The city of", "In 1945 ,", "A",         "It was the first time that the",
                                       "He",          "She said",  "The river", "There are many",
                                       "When the",    "Music is",  "One day"};

TEST(Generate, APromptGivesTheSameTextAloneAndInAFileAtAnyNumberOfThreads) {
    Tiny tiny;
    for (const double temperature : {0.0, 0.9}) {
        GenerateRequest all = tiny.request(prompts, 20);
        all.sampling.temperature = temperature;
        all.sampling.seed = 3;
        const auto together = tiny.run(all);
        std::int64_t tokens = 0;
        for (const int threads : {1, 3}) {
            set_threads(threads);
            for (std::size_t i = 0; i < prompts.size(); i += 3) {
                GenerateRequest one = tiny.request({prompts[i]}, 20);
                one.sampling = all.sampling;
                const auto alone = tiny.run(one);
                EXPECT_EQ(alone.texts[0].ids, together.texts[i].ids) << prompts[i];
                EXPECT_EQ(alone.texts[0].text, together.texts[i].text) << prompts[i];
            }
        }
        set_threads(0);
        for (const auto& text : together.texts) tokens += std::int64_t(text.ids.size());
        EXPECT_EQ(together.new_tokens, tokens);
        EXPECT_EQ(together.decoded_tokens, tokens - std::int64_t(prompts.size()));
    }
}

TEST(Generate, GreedyTakesTheArgmaxOfTheFullForwardPass) {
    Tiny tiny;
    const auto result = tiny.run(tiny.request({prompts[0]}, 16));
    auto ids = tiny.request({prompts[0]}, 1).prompts[0];
    for (const auto id : result.texts[0].ids) {
        const auto logits = full_forward(tiny.model, ids);
        const auto last = std::span(logits).last(std::size_t(tiny.model.graph().vocabulary));
        EXPECT_EQ(std::max_element(last.begin(), last.end()) - last.begin(), id);
        ids.push_back(id);
    }
}

TEST(Generate, StreamsExactlyTheTextThatItReturns) {
    Tiny tiny;
    GenerateRequest request = tiny.request(prompts, 24);
    request.sampling.temperature = 1.5;
    std::vector<std::string> streamed(prompts.size());
    std::set<std::size_t> done;
    const auto result = tiny.run(request, {.text = [&](std::size_t i, std::string_view text) { streamed[i] += text; },
                                           .done = [&](std::size_t i, const Generated&) { done.insert(i); },
                                           .cancelled = {}});
    EXPECT_EQ(done.size(), prompts.size());
    for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(streamed[i], result.texts[i].text);
}

TEST(Generate, EndsAtStopTokensStopTextsAndPositions) {
    Tiny tiny;
    const auto free = tiny.run(tiny.request({prompts[0]}, 16)).texts[0];
    EXPECT_EQ(free.finish, Finish::tokens);
    ASSERT_EQ(free.ids.size(), 16u);

    GenerateRequest request = tiny.request({prompts[0]}, 16);
    request.stop_ids = {free.ids[5]};
    const auto first = std::size_t(std::find(free.ids.begin(), free.ids.end(), free.ids[5]) - free.ids.begin());
    auto stopped = tiny.run(request).texts[0];
    EXPECT_EQ(stopped.finish, Finish::stop_token);
    EXPECT_EQ(stopped.ids.size(), first + 1);
    EXPECT_TRUE(free.text.starts_with(stopped.text));

    request = tiny.request({prompts[0]}, 16);
    const std::string stop = free.text.substr(free.text.size() / 2, 4);
    request.stop_texts = {stop};
    stopped = tiny.run(request).texts[0];
    EXPECT_EQ(stopped.finish, Finish::stop_text);
    EXPECT_EQ(stopped.text, free.text.substr(0, free.text.find(stop)));

    const std::int64_t positions = tiny.model.graph().positions;
    request.stop_texts.clear();
    request.prompts[0] = some_ids(tiny.model, positions - 2);
    const auto full = tiny.run(request).texts[0];
    EXPECT_EQ(full.finish, Finish::positions);
    EXPECT_EQ(full.ids.size(), 3u) << "two more fit, and the last is never fed back";
    request.prompts[0] = some_ids(tiny.model, positions + 1);
    EXPECT_THROW(tiny.run(request), Error);
    request.prompts[0].clear();
    EXPECT_THROW(tiny.run(request), Error);
}

TEST(Generate, StopsWhenItIsToldTo) {
    Tiny tiny;
    int asked = 0;
    const GenerateEvents events{.text = {}, .done = {}, .cancelled = [&] { return ++asked > 3; }};
    try {
        tiny.run(tiny.request({prompts[0]}, 100), events);
        ADD_FAILURE() << "it went on";
    } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::cancelled);
    }
}

TEST(Generate, TakesStopIdsFromTheModelsFiles) {
    Tiny tiny;
    const auto ids = stop_ids_of(tiny.model, *tiny.tokenizer, false);
    EXPECT_FALSE(ids.empty());
    for (const auto id : ids) EXPECT_LT(id, tiny.model.graph().vocabulary);
}

}  // namespace
}  // namespace kerf::core
