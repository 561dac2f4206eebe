// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::core {

/// Text to token ids and back, with the ids that Hugging Face's tokenizers give for the same folder.
class Tokenizer {
public:
    /// From tokenizer.json, else tokenizer.model (sentencepiece), else vocab.json + merges.txt; tokenizer_config.json
    /// decides on special tokens. A GGUF file has its tokenizer in its metadata. Error(input) names the file and what
    /// in it is wrong or not supported. Read as transformers 5 reads them: tokenizer.json decides itself about BOS and
    /// EOS; beside the other two, add_bos_token and add_eos_token do, and without them nothing is added.
    static std::unique_ptr<Tokenizer> open(const std::filesystem::path& folder);

    virtual ~Tokenizer() = default;
    /// add_special: with the BOS / EOS that the tokenizer's post-processor adds. Bytes that are no UTF-8 are read as
    /// U+FFFD. Safe to call from several threads at once.
    virtual std::vector<std::int64_t> encode(std::string_view text, bool add_special) const = 0;
    /// skip_special drops special tokens from the text. Ids without a token have no text.
    virtual std::string decode(std::span<const std::int64_t> ids, bool skip_special) const = 0;
    virtual std::int64_t vocabulary() const = 0;  ///< largest id + 1
    virtual std::optional<std::int64_t> bos() const = 0;
    virtual std::optional<std::int64_t> eos() const = 0;
};

}  // namespace kerf::core
