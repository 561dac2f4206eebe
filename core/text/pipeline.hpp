// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "core/text/added_tokens.hpp"
#include "core/text/bpe.hpp"
#include "core/text/stages.hpp"
#include "core/text/tokenizer.hpp"

namespace kerf::core {

/// tokenizer_config.json; where it has no added_tokens_decoder, also the older special_tokens_map.json and
/// added_tokens.json.
struct TokenizerConfig {
    struct Named {
        std::string role;  ///< "bos_token", …
        AddedToken token;
    };
    std::vector<Named> named;        ///< in the order in which new ids are given
    std::vector<AddedToken> others;  ///< added_tokens_decoder by id
    std::optional<bool> add_bos, add_eos, add_prefix_space;
    std::optional<bool> legacy;
    std::string tokenizer_class;  ///< as tokenizer_config.json names it
    std::string model_type;       ///< of config.json
    std::string where;

    const AddedToken* token(std::string_view role) const;
    /// Names `content` for the role unless the file names one.
    void set_default(const std::string& role, const std::string& content);
    /// transformers' GemmaTokenizer names these tokens, and finds them in the text, whether or not the file lists them.
    void set_gemma_defaults();
};
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder);
/// The content of a tokenizer_config.json alone.
void read_tokenizer_config(const JsonPart& file, TokenizerConfig& out);

/// The parts of any tokenizer that we read: the three file formats differ in nothing else.
struct TokenizerParts {
    AddedTokens added;
    Normalizer normalizer;  // each of these may be empty
    PreTokenizer pre_tokenizer;
    Decoder decoder;
    Surroundings surroundings;
    std::unique_ptr<const SubwordModel> model;
};
/// `file` is the whole tokenizer.json; `config` says which class transformers would read it with.
TokenizerParts read_tokenizer_json(const JsonPart& file, const TokenizerConfig& config = {});
TokenizerParts read_vocab_and_merges(const std::filesystem::path& vocab, const std::filesystem::path& merges,
                                     TokenizerConfig& config);
/// The merges of a sentencepiece model: each way to make a piece, `pieces` by rank, of two others of the vocabulary.
std::vector<Bpe::MergeRule> sentencepiece_merges(const Vocabulary& vocabulary, const std::vector<std::string>& pieces);
/// Normalizer, pre-tokenizer and decoder of transformers' LlamaTokenizer.
void use_llama_stages(const TokenizerConfig& config, TokenizerParts& out);
TokenizerParts read_sentencepiece(const std::filesystem::path& file, TokenizerConfig& config);

/// Adds what the configuration says to the parts.
std::unique_ptr<Tokenizer> assemble(TokenizerParts parts, const TokenizerConfig& config);

}  // namespace kerf::core
