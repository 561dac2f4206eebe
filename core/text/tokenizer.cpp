// SPDX-License-Identifier: Apache-2.0
#include "core/text/tokenizer.hpp"

#include <algorithm>

#include "core/text/gguf_tokenizer.hpp"
#include "core/text/pipeline.hpp"
#include "core/text/unicode.hpp"

namespace kerf::core {
namespace {

class PipelineTokenizer final : public Tokenizer {
public:
    PipelineTokenizer(TokenizerParts parts, std::optional<std::int64_t> bos, std::optional<std::int64_t> eos)
        : parts_(std::move(parts)), bos_(bos), eos_(eos) {}

    std::vector<std::int64_t> encode(std::string_view text, bool add_special) const override {
        std::string repaired;
        if (!unicode::is_valid(text)) text = repaired = unicode::repaired(text);
        Pieces pieces = parts_.added.split(text, parts_.normalizer);
        if (parts_.pre_tokenizer) parts_.pre_tokenizer(pieces);
        std::vector<std::int64_t> out;
        if (add_special) out = parts_.surroundings.before;
        const auto session = parts_.model->session();
        for (const auto& piece : pieces) {
            if (piece.id >= 0)
                out.push_back(piece.id);
            else
                session->encode(piece.text, out);
        }
        if (add_special) out.insert(out.end(), parts_.surroundings.after.begin(), parts_.surroundings.after.end());
        return out;
    }

    std::string decode(std::span<const std::int64_t> ids, bool skip_special) const override {
        std::vector<std::string> tokens;
        tokens.reserve(ids.size());
        for (const auto id : ids) {
            const std::string* token = parts_.added.text_of(id);
            if (token == nullptr) token = parts_.model->vocabulary().token(id);
            // An embedding often has more rows than the vocabulary has tokens; their ids have no text.
            if (token != nullptr && !(skip_special && parts_.added.is_special(*token))) tokens.push_back(*token);
        }
        if (parts_.decoder) parts_.decoder(tokens);
        std::string out;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            if (!parts_.decoder && i > 0) out += ' ';
            out += tokens[i];
        }
        return out;
    }

    std::int64_t vocabulary() const override {
        return std::max(parts_.model->vocabulary().past_largest_id(), parts_.added.largest_id() + 1);
    }
    std::optional<std::int64_t> bos() const override { return bos_; }
    std::optional<std::int64_t> eos() const override { return eos_; }

private:
    TokenizerParts parts_;
    std::optional<std::int64_t> bos_, eos_;
};

}  // namespace

std::unique_ptr<Tokenizer> assemble(TokenizerParts parts, const TokenizerConfig& config) {
    const auto& vocabulary = parts.model->vocabulary();
    for (const auto& token : config.others) parts.added.add(token, vocabulary, parts.normalizer, config.where);
    for (const auto& [role, token] : config.named)
        if (!parts.added.contains(token.content)) parts.added.add(token, vocabulary, parts.normalizer, config.where);
    const auto id_of = [&](std::string_view role) -> std::optional<std::int64_t> {
        const auto* token = config.token(role);
        return token == nullptr ? std::nullopt : parts.added.find(token->content);
    };
    const auto bos = id_of("bos_token"), eos = id_of("eos_token");
    if (config.add_bos.value_or(false) && bos) parts.surroundings.before.push_back(*bos);
    if (config.add_eos.value_or(false) && eos) parts.surroundings.after.push_back(*eos);
    return std::make_unique<PipelineTokenizer>(std::move(parts), bos, eos);
}

namespace {

std::unique_ptr<Tokenizer> open_gguf_tokenizer(const std::filesystem::path& path) {
    const auto documents = read_gguf_tokenizer(GgufFile(path));
    if (!documents) bad_input(path.string(), ": holds no tokenizer");
    TokenizerConfig config;
    config.where = path.string();
    const std::string where = path.string() + ": tokenizer";
    read_tokenizer_config(JsonPart(documents->config, where), config);
    return assemble(read_tokenizer_json(JsonPart(documents->tokenizer, where)), config);
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::open(const std::filesystem::path& folder) {
    namespace fs = std::filesystem;
    if (is_gguf(folder)) return open_gguf_tokenizer(folder);
    if (!fs::is_directory(folder))
        bad_input(folder.string(), ": no such folder; the model folder with its tokenizer is needed");
    auto config = read_tokenizer_config(folder);
    if (fs::exists(folder / "tokenizer.json")) {
        // Its own post-processor decides about BOS and EOS; transformers ignores the two keys beside such a file.
        config.add_bos = config.add_eos = std::nullopt;
        if (config.tokenizer_class.starts_with("GemmaTokenizer")) config.set_gemma_defaults();
        const auto document = read_json(folder / "tokenizer.json");
        return assemble(read_tokenizer_json(JsonPart(document, (folder / "tokenizer.json").string()), config), config);
    }
    if (fs::exists(folder / "tokenizer.model")) {
        auto parts = read_sentencepiece(folder / "tokenizer.model", config);
        return assemble(std::move(parts), config);
    }
    if (fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt")) {
        auto parts = read_vocab_and_merges(folder / "vocab.json", folder / "merges.txt", config);
        return assemble(std::move(parts), config);
    }
    bad_input(folder.string(),
              ": no tokenizer here; kerf looks for tokenizer.json, tokenizer.model, or vocab.json with merges.txt");
}

}  // namespace kerf::core
