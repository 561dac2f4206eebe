// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "core/support/json_text.hpp"
#include "core/weights/gguf.hpp"

namespace kerf::core {

/// The tokenizer of a GGUF file, as the two documents that transformers (and Tokenizer::open) read.
struct GgufTokenizer {
    nlohmann::json tokenizer;  ///< tokenizer.json
    nlohmann::json config;     ///< tokenizer_config.json: special tokens, chat template
};

/// Byte-level BPE ("gpt2") and sentencepiece BPE ("llama") vocabularies. Nothing for a file without a vocabulary.
/// Error(input) names the file and what is missing, damaged or not supported: another kind of model, a pre-tokenizer
/// that kerf does not know, tokens that are there twice or are no UTF-8, ids beyond the vocabulary.
std::optional<GgufTokenizer> read_gguf_tokenizer(const GgufFile& file);

namespace gguf {

/// How one name of tokenizer.ggml.pre splits text, before the merges.
struct PreTokenizer {
    nlohmann::json steps;        ///< the pre_tokenizer of a tokenizer.json
    bool compose = false;        ///< text is brought to Unicode's form NFC first
    bool ignore_merges = false;  ///< a word that is a token is that token
    bool add_bos = false;        ///< where the file does not say
};
/// Error(input) with the known names.
PreTokenizer pre_tokenizer_of(const GgufFile& file);

}  // namespace gguf
}  // namespace kerf::core
