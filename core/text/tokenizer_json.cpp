// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>
#include <set>

#include "core/support/file.hpp"
#include "core/text/bpe.hpp"
#include "core/text/pipeline.hpp"
#include "core/text/unigram.hpp"

namespace kerf::core {
namespace {

Vocabulary read_vocabulary(const JsonPart& part) {
    if (!part.value().is_object()) part.fail("an object from tokens to ids is needed here");
    Vocabulary out;
    for (const auto& [token, id] : part.value().items()) {
        if (!id.is_number_integer()) part.fail("the token \"", token, "\" has ", id.dump(), " where its id should be");
        const bool huge = id.is_number_unsigned() && id.get<std::uint64_t>() > std::uint64_t(Vocabulary::largest_id);
        out.add(token, huge ? Vocabulary::largest_id + 1 : id.get<std::int64_t>(), part.where());
    }
    if (out.tokens() == 0) part.fail("the vocabulary is empty");
    return out;
}

/// "left right": exactly one space
Bpe::MergeRule split_merge(std::string_view line, const std::string& where, std::size_t number) {
    const auto space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos)
        bad_input(where, ": merge ", number, " (\"", line, "\") is not two tokens with a space between them");
    return {std::string(line.substr(0, space)), std::string(line.substr(space + 1))};
}

/// Either spelling: "a b", or ["a", "b"], which can hold tokens with spaces in them.
std::vector<Bpe::MergeRule> read_merges(const JsonPart& part) {
    if (!part.value().is_array()) part.fail("a list of merges is needed here");
    std::vector<Bpe::MergeRule> out;
    out.reserve(part.value().size());
    for (const auto& merge : part.value()) {
        if (merge.is_string()) {
            const auto& line = merge.get_ref<const std::string&>();
            if (line.starts_with("#version")) continue;
            out.push_back(split_merge(line, part.where(), out.size() + 1));
        } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
            out.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
        } else {
            part.fail("merge ", out.size() + 1, " is neither \"left right\" nor [\"left\", \"right\"]");
        }
    }
    return out;
}

void refuse_affix(const JsonPart& model, const char* key) {
    if (model.has(key) && !model.string(key).empty()) model.fail("\"", key, "\" is not supported");
}

std::unique_ptr<const SubwordModel> read_bpe(const JsonPart& part) {
    refuse_affix(part, "continuing_subword_prefix");
    refuse_affix(part, "end_of_word_suffix");
    if (part.has("dropout") && part.at("dropout").value() != 0) part.fail("a dropout other than 0 is not supported");
    Vocabulary vocabulary = read_vocabulary(part.at("vocab"));
    Bpe::Options options;
    options.fuse_unknown = part.flag_or("fuse_unk", false);
    options.byte_fallback = part.flag_or("byte_fallback", false);
    options.ignore_merges = part.flag_or("ignore_merges", false);
    if (part.has("unk_token")) {
        const std::string unknown = part.string("unk_token");
        options.unknown = vocabulary.find(unknown);
        if (!options.unknown) part.fail("the unk_token \"", unknown, "\" is not in the vocabulary");
    }
    return std::make_unique<Bpe>(std::move(vocabulary), read_merges(part.at("merges")), options, part.where());
}

/// {"vocab": [["<unk>", 0.0], ["▁the", -3.2], …], "unk_id": 0}
std::unique_ptr<const SubwordModel> read_unigram(const JsonPart& part) {
    const auto vocabulary = part.at("vocab");
    if (!vocabulary.value().is_array()) vocabulary.fail("a list of pieces and scores is needed here");
    std::vector<Unigram::Piece> pieces;
    pieces.reserve(vocabulary.value().size());
    for (const auto& entry : vocabulary.value()) {
        if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
            vocabulary.fail("piece ", pieces.size(), " is not [\"text\", score]");
        pieces.emplace_back(entry[0].get<std::string>(), entry[1].get<double>());
    }
    Unigram::Options options;
    if (part.has("unk_id")) options.unknown = part.integer("unk_id", 0, Vocabulary::largest_id);
    options.byte_fallback = part.flag_or("byte_fallback", false);
    return std::make_unique<Unigram>(pieces, options, vocabulary.where());
}

std::unique_ptr<const SubwordModel> read_model(const JsonPart& part) {
    const std::string type = part.string_or("type", "BPE");  // the oldest files leave it out
    if (type == "BPE") return read_bpe(part);
    if (type == "Unigram") return read_unigram(part);
    part.fail("the model type \"", type, "\" is not supported; kerf knows BPE and Unigram");
}

/// transformers takes vocabulary, merges and added tokens of such a file, and for the rest LlamaTokenizer's own stages:
/// the space in front is put before the whole text (with `legacy`, before each part between special tokens) whatever
/// the file says. Its class does not read byte-level files.
bool rebuilt_as_llama(const JsonPart& file, const TokenizerConfig& config) {
    if (config.tokenizer_class != "LlamaTokenizer" && config.tokenizer_class != "LlamaTokenizerFast") return false;
    if (config.model_type != "llama" || file.at("model").string_or("type", "BPE") != "BPE") return false;
    const auto byte_level = [&](const char* stage) {
        return file.has(stage) && file.at(stage)
                                          .value()
                                          .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                                          .find("\"ByteLevel\"") != std::string::npos;
    };
    return !byte_level("pre_tokenizer") && !byte_level("decoder");
}

void read_added_tokens(const JsonPart& file, const Normalizer& normalizer, const Vocabulary& vocabulary,
                       AddedTokens& out) {
    if (!file.has("added_tokens")) return;
    std::set<std::int64_t> ids;
    for (const auto& part : file.list("added_tokens")) {
        const auto id = part.integer("id", 0, Vocabulary::largest_id);
        if (!ids.insert(id).second) part.fail("the id ", id, " is there twice");
        out.add(read_added_token(part, false), vocabulary, normalizer, part.where());
    }
}

}  // namespace

TokenizerParts read_tokenizer_json(const JsonPart& file, const TokenizerConfig& config) {
    TokenizerParts out;
    if (const auto part = file.find("normalizer")) out.normalizer = read_normalizer(*part);
    if (const auto part = file.find("pre_tokenizer")) out.pre_tokenizer = read_pre_tokenizer(*part);
    if (const auto part = file.find("decoder")) out.decoder = read_decoder(*part);
    if (const auto part = file.find("post_processor")) out.surroundings = read_post_processor(*part);
    if (rebuilt_as_llama(file, config)) use_llama_stages(config, out);
    out.model = read_model(file.at("model"));
    read_added_tokens(file, out.normalizer, out.model->vocabulary(), out.added);
    return out;
}

TokenizerParts read_vocab_and_merges(const std::filesystem::path& vocab, const std::filesystem::path& merges,
                                     TokenizerConfig& config) {
    const auto document = read_json(vocab);
    Vocabulary vocabulary = read_vocabulary(JsonPart(document, vocab.string()));
    const std::string lines = read_text(merges);
    std::vector<Bpe::MergeRule> rules;
    for (std::size_t begin = 0; begin < lines.size();) {
        const std::size_t end = std::min(lines.find('\n', begin), lines.size());
        std::string_view line = std::string_view(lines).substr(begin, end - begin);
        begin = end + 1;
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (!line.empty() && !line.starts_with("#version"))
            rules.push_back(split_merge(line, merges.string(), rules.size() + 1));
    }
    for (const char* role : {"bos_token", "eos_token", "unk_token"}) config.set_default(role, "<|endoftext|>");
    TokenizerParts out;
    out.pre_tokenizer = byte_level_pre_tokenizer(config.add_prefix_space.value_or(false), true);
    out.decoder = byte_level_decoder();
    out.model = std::make_unique<Bpe>(std::move(vocabulary), rules, Bpe::Options(), merges.string());
    return out;
}

}  // namespace kerf::core
