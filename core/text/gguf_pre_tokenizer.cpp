// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/support/error.hpp"
#include "core/text/gguf_tokenizer.hpp"

namespace kerf::core::gguf {
namespace {

using Json = nlohmann::json;

// A run of letters takes one other character in front of it, of digits at most three (or one) are together, a run of
// signs takes a space in front and line ends behind.
constexpr auto llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr auto qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// These two also cut where lower case becomes upper case.
constexpr auto tekken_pattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr auto gpt4o_pattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr auto gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Json byte_level(bool use_regex) {
    return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}
Json split(const char* pattern) {
    return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}
Json sequence(std::initializer_list<Json> steps) {
    return {{"type", "Sequence"}, {"pretokenizers", Json::array_t(steps)}};
}

PreTokenizer words() {
    return {byte_level(true)};
}
PreTokenizer composed_words() {
    return {.steps = byte_level(true), .compose = true};
}
PreTokenizer single_digits() {
    return {sequence({{{"type", "Digits"}, {"individual_digits", true}}, byte_level(true)})};
}
/// SmolLM's own tokenizer cuts every numeral off. transformers, reading such a file, cuts none, which makes a
/// difference for numerals that are no decimal digits (a half, a square): there kerf follows transformers. Of decimal
/// digits the vocabulary has no token of two, so both agree.
PreTokenizer smollm() {
    return {sequence({split(R"(\p{Nd})"), byte_level(true)})};
}
PreTokenizer llama3() {
    return {.steps = sequence({split(llama3_pattern), byte_level(false)}), .ignore_merges = true, .add_bos = true};
}
PreTokenizer llama3_words() {
    return {sequence({split(llama3_pattern), byte_level(false)})};
}
PreTokenizer qwen2() {
    return {.steps = sequence({split(qwen2_pattern), byte_level(false)}), .compose = true};
}
PreTokenizer tekken() {
    return {.steps = sequence({split(tekken_pattern), byte_level(false)}), .ignore_merges = true, .add_bos = true};
}
PreTokenizer gpt4o() {
    return {sequence({split(gpt4o_pattern), byte_level(false)})};
}
PreTokenizer falcon() {
    return {sequence({{{"type", "Punctuation"}, {"behavior", "Contiguous"}},
                      byte_level(true),
                      {{"type", "Digits"}, {"individual_digits", false}},
                      split("[0-9][0-9][0-9]")})};
}
/// What the format's runtime does where a file names nothing.
PreTokenizer nameless() {
    return {sequence({split(R"([\p{P}\$\+<=>\^~\|]+)"), split(gpt2_pattern), split(R"(\p{N}+)"),
                      split("[0-9][0-9][0-9]"), byte_level(false)})};
}

struct Named {
    std::string_view name;
    PreTokenizer (*make)();
};
constexpr Named known[]{{"default", nameless},
                        {"gpt-2", words},
                        {"phi-2", words},
                        {"mpt", composed_words},
                        {"olmo", composed_words},
                        {"smollm", smollm},
                        {"starcoder", single_digits},
                        {"refact", single_digits},
                        {"codeshell", single_digits},
                        {"llama-bpe", llama3},
                        {"llama3", llama3},
                        {"llama-v3", llama3},
                        {"falcon3", llama3},
                        {"dbrx", llama3_words},
                        {"smaug-bpe", llama3_words},
                        {"qwen2", qwen2},
                        {"deepseek-r1-qwen", qwen2},
                        {"stablelm2", qwen2},
                        {"megrez", qwen2},
                        {"tekken", tekken},
                        {"gpt-4o", gpt4o},
                        {"falcon", falcon}};

}  // namespace

PreTokenizer pre_tokenizer_of(const GgufFile& file) {
    const std::string_view name = file.text("tokenizer.ggml.pre", "default");
    const auto* found =
        std::find_if(std::begin(known), std::end(known), [&](const Named& n) { return n.name == name; });
    if (found != std::end(known)) return found->make();
    std::string names;
    for (const auto& one : known) names += (names.empty() ? "" : ", ") + std::string(one.name);
    bad_input(file.path().string(), ": the pre-tokenizer ",
              Json(std::string(name)).dump(-1, ' ', false, Json::error_handler_t::replace),
              " (tokenizer.ggml.pre) is not supported; kerf knows ", names);
}

}  // namespace kerf::core::gguf
