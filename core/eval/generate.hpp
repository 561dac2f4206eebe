// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/eval/sampling.hpp"
#include "core/exec/decoder.hpp"
#include "core/pipeline/model.hpp"
#include "core/text/tokenizer.hpp"

namespace kerf::core {

struct GenerateRequest {
    std::vector<std::vector<std::int64_t>> prompts;  ///< token ids
    std::int64_t tokens = 256;                       ///< at most so many new ones a prompt
    SamplingOptions sampling;                        ///< every prompt draws from a generator of its own, seeded alike
    std::vector<std::int64_t> stop_ids;              ///< end a text; are no part of it
    std::vector<std::string> stop_texts;             ///< likewise
};

enum class Finish : std::uint8_t { stop_token, stop_text, tokens, positions };
std::string_view finish_name(Finish finish);  ///< "stop token", "stop text", "length", "positions"

struct Generated {
    std::string text;
    std::vector<std::int64_t> ids;  ///< the new ones, a stop token at the end included
    Finish finish = Finish::tokens;
};

struct GenerateResult {
    std::vector<Generated> texts;  ///< one a prompt
    std::int64_t prompt_tokens = 0, new_tokens = 0;
    double prompt_seconds = 0, decode_seconds = 0;
    std::int64_t decoded_tokens = 0;  ///< those of decode_seconds: every new token but each text's first and last
};

struct GenerateEvents {
    std::function<void(std::size_t prompt, std::string_view text)> text;  ///< whole characters, as they come
    std::function<void(std::size_t prompt, const Generated&)> done;
    std::function<bool()> cancelled;  ///< asked before each token; true ends it (Fault::cancelled)
};

/// Error(input) for a prompt without tokens, for one longer than the model's positions, and for options out of range:
/// before any weight is read.
void check_prompts(const Model& model, const GenerateRequest& request);

/// Continues every prompt; up to Decoder::most_sequences of them are decoded together, and a text is the same as when
/// its prompt is the only one. Error(input) for a prompt without tokens, or one that leaves no position for a new
/// token.
GenerateResult generate(Decoder& decoder, const Model& model, const Tokenizer& tokenizer,
                        const GenerateRequest& request, const GenerateEvents& events);

/// The ids at which a model ends its text: eos_token_id of generation_config.json, else of config.json, else the
/// tokenizer's; with `chat` also the tokenizer's, which ends a turn in many models.
std::vector<std::int64_t> stop_ids_of(const Model& model, const Tokenizer& tokenizer, bool chat);

/// The type in which a checkpoint's linears are stored when it is bfloat16 or float16 for all of them, else float32:
/// holding them in it changes no weight.
DType stored_weight_type(const Model& model);

}  // namespace kerf::core
