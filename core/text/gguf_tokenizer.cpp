// SPDX-License-Identifier: Apache-2.0
#include "core/text/gguf_tokenizer.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/text/pipeline.hpp"
#include "core/text/unicode.hpp"

namespace kerf::core {
namespace {

using Json = nlohmann::json;

constexpr std::string_view space_mark = "\u2581";

enum class Kind : int { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

/// Vocabulary and special tokens, checked.
class Metadata {
public:
    explicit Metadata(const GgufFile& file) : file_(file), tokens_(file.texts("tokenizer.ggml.tokens")) {
        if (tokens_.empty() || tokens_.size() > static_cast<std::size_t>(Vocabulary::largest_id))
            refuse("has a vocabulary of ", tokens_.size(), " tokens");
        read_kinds();
        TextMap<bool> seen;
        for (std::size_t i = 0; i < tokens_.size(); ++i) {
            if (!unicode::is_valid(tokens_[i])) refuse("token ", i, " is not UTF-8");
            if (is_there(i) && !seen.try_emplace(std::string(tokens_[i]), true).second)
                refuse("has the token \"", tokens_[i], "\" twice");
        }
    }

    template <class... Pieces>
    [[noreturn]] void refuse(const Pieces&... pieces) const {
        bad_input(file_.path().string(), ": the tokenizer ", pieces...);
    }

    const GgufFile& file() const { return file_; }
    std::size_t size() const { return tokens_.size(); }
    std::string token(std::size_t id) const { return std::string(tokens_[id]); }
    Kind kind(std::size_t id) const { return kinds_[id]; }
    /// Converters fill a vocabulary up to the rows of the embedding with unused tokens.
    bool is_there(std::size_t id) const { return !tokens_[id].empty() && kinds_[id] != Kind::unused; }

    /// The token of a role, "bos" of tokenizer.ggml.bos_token_id.
    std::optional<std::size_t> role(std::string_view name) const {
        const std::string key = text("tokenizer.ggml.", name, "_token_id");
        constexpr std::uint64_t none = 0xFFFFFFFF;  // -1, as some writers have it
        if (!file_.has(key) || file_.count(key) == none) return std::nullopt;
        const auto id = file_.count(key);
        if (id >= tokens_.size() || tokens_[id].empty()) refuse("has no token ", id, ", which ", key, " names");
        return static_cast<std::size_t>(id);
    }

    Json vocabulary() const {
        Json out = Json::object();
        for (std::size_t i = 0; i < tokens_.size(); ++i)
            if (is_there(i)) out[token(i)] = i;
        return out;
    }

    Json added_tokens() const {
        Json out = Json::array();
        for (std::size_t i = 0; i < tokens_.size(); ++i) {
            if (!is_there(i)) continue;
            const bool special = kinds_[i] == Kind::control || kinds_[i] == Kind::unknown;
            if (special || kinds_[i] == Kind::user_defined)
                out.push_back({{"id", i},
                               {"content", token(i)},
                               {"single_word", false},
                               {"lstrip", false},
                               {"rstrip", false},
                               {"normalized", false},
                               {"special", special}});
        }
        return out;
    }

    /// What goes before and behind a text; null when nothing does.
    Json surroundings(bool add_bos_else, bool add_eos_else) const {
        const bool bos = file_.flag("tokenizer.ggml.add_bos_token", add_bos_else) && role("bos");
        const bool eos = file_.flag("tokenizer.ggml.add_eos_token", add_eos_else) && role("eos");
        if (!bos && !eos) return nullptr;
        Json specials = Json::object(), single = Json::array(), pair = Json::array();
        const auto put = [&](Json& list, const char* name, int type) {
            const std::size_t id = *role(name);
            specials[token(id)] = {{"id", token(id)}, {"ids", {id}}, {"tokens", {token(id)}}};
            list.push_back({{"SpecialToken", {{"id", token(id)}, {"type_id", type}}}});
        };
        for (const auto& [sequence, type] : {std::pair("A", 0), std::pair("B", 1)}) {
            Json part = Json::array();
            if (bos) put(part, "bos", type);
            part.push_back({{"Sequence", {{"id", sequence}, {"type_id", type}}}});
            if (eos) put(part, "eos", type);
            if (type == 0) single = part;
            pair.insert(pair.end(), part.begin(), part.end());
        }
        return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
    }

private:
    void read_kinds() {
        kinds_.assign(tokens_.size(), Kind::normal);
        if (!file_.has("tokenizer.ggml.token_type")) return;
        const auto types = file_.numbers("tokenizer.ggml.token_type");
        if (types.size() != tokens_.size())
            refuse("has ", tokens_.size(), " tokens, but ", types.size(), " token types");
        for (std::size_t i = 0; i < types.size(); ++i)
            if (types[i] >= 1 && types[i] <= 6) kinds_[i] = static_cast<Kind>(static_cast<int>(types[i]));
    }

    const GgufFile& file_;
    std::vector<std::string_view> tokens_;
    std::vector<Kind> kinds_;
};

Json model_of(const Metadata& metadata, Json merges) {
    return {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", metadata.vocabulary()},
            {"merges", std::move(merges)}};
}

Json document_of(const Metadata& metadata, Json model) {
    return {{"version", "1.0"},          {"truncation", nullptr},
            {"padding", nullptr},        {"added_tokens", metadata.added_tokens()},
            {"normalizer", nullptr},     {"pre_tokenizer", nullptr},
            {"post_processor", nullptr}, {"decoder", nullptr},
            {"model", std::move(model)}};
}

Json byte_level_tokenizer(const Metadata& metadata) {
    const auto pre = gguf::pre_tokenizer_of(metadata.file());
    Json merges = Json::array();
    for (const std::string_view merge : metadata.file().texts("tokenizer.ggml.merges")) {
        // The first part may begin with a space only where a vocabulary is not byte-level.
        const auto space = merge.find(' ', 1);
        if (!unicode::is_valid(merge) || space == std::string_view::npos || space + 1 == merge.size())
            metadata.refuse("has a merge, number ", merges.size() + 1, ", that is not two tokens with a space between");
        merges.push_back({std::string(merge.substr(0, space)), std::string(merge.substr(space + 1))});
    }
    Json out = document_of(metadata, model_of(metadata, std::move(merges)));
    const Json byte_level{
        {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
    if (pre.compose) out["normalizer"] = {{"type", "NFC"}};
    out["pre_tokenizer"] = pre.steps;
    out["post_processor"] = metadata.surroundings(pre.add_bos, false);
    if (out["post_processor"].is_null()) out["post_processor"] = byte_level;
    out["decoder"] = byte_level;
    out["model"]["ignore_merges"] = pre.ignore_merges;
    return out;
}

Json replacement(std::string_view from, std::string_view to) {
    return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

/// A piece of better score was learnt earlier, so the merge that makes it comes first.
std::vector<std::string> pieces_by_score(const Metadata& metadata) {
    const auto scores = metadata.file().numbers("tokenizer.ggml.scores");
    if (scores.size() != metadata.size())
        metadata.refuse("has ", metadata.size(), " tokens, but ", scores.size(), " scores");
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < metadata.size(); ++i) {
        if (!(std::abs(scores[i]) <= 1e30)) metadata.refuse("has no finite score for token ", i);
        const Kind kind = metadata.kind(i);
        if (metadata.is_there(i) && (kind == Kind::normal || kind == Kind::user_defined)) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    std::vector<std::string> out;
    for (const std::size_t id : order) out.push_back(metadata.token(id));
    return out;
}

Json sentencepiece_tokenizer(const Metadata& metadata) {
    Vocabulary vocabulary;
    for (std::size_t i = 0; i < metadata.size(); ++i)
        if (metadata.is_there(i))
            vocabulary.add(metadata.token(i), static_cast<std::int64_t>(i), metadata.file().path().string());
    Json merges = Json::array();
    for (auto& [left, right] : sentencepiece_merges(vocabulary, pieces_by_score(metadata)))
        merges.push_back({std::move(left), std::move(right)});
    Json out = document_of(metadata, model_of(metadata, std::move(merges)));
    const bool prefix = metadata.file().flag("tokenizer.ggml.add_space_prefix", true);
    const Json marked = replacement(" ", space_mark);
    if (prefix)
        out["normalizer"] = {{"type", "Sequence"},
                             {"normalizers", {{{"type", "Prepend"}, {"prepend", space_mark}}, marked}}};
    else
        out["normalizer"] = marked;
    out["post_processor"] = metadata.surroundings(true, false);
    Json decoders{replacement(space_mark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
    if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    out["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
    out["model"]["fuse_unk"] = true;
    out["model"]["byte_fallback"] = true;
    for (std::size_t i = metadata.size(); i-- > 0;)
        if (metadata.kind(i) == Kind::unknown && metadata.is_there(i)) out["model"]["unk_token"] = metadata.token(i);
    return out;
}

Json config_of(const Metadata& metadata, const GgufFile& file) {
    Json out{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
    // The format spells "separator" so.
    constexpr std::array<std::pair<const char*, const char*>, 7> roles{{{"bos", "bos_token"},
                                                                        {"eos", "eos_token"},
                                                                        {"unknown", "unk_token"},
                                                                        {"padding", "pad_token"},
                                                                        {"seperator", "sep_token"},
                                                                        {"cls", "cls_token"},
                                                                        {"mask", "mask_token"}}};
    for (const auto& [role, name] : roles)
        if (const auto id = metadata.role(role)) out[name] = metadata.token(*id);
    const std::string context = std::string(file.text("general.architecture", "")) + ".context_length";
    if (file.has(context)) out["model_max_length"] = file.count(context);
    if (file.has("tokenizer.chat_template")) {
        const std::string_view chat = file.text("tokenizer.chat_template");
        if (!unicode::is_valid(chat)) metadata.refuse("has a chat template that is not UTF-8");
        out["chat_template"] = std::string(chat);
    }
    return out;
}

}  // namespace

std::optional<GgufTokenizer> read_gguf_tokenizer(const GgufFile& file) {
    const std::string_view model = file.text("tokenizer.ggml.model", "none");
    if (model == "none" || model == "no_vocab") return std::nullopt;
    if (model != "gpt2" && model != "llama")
        bad_input(
            file.path().string(), ": tokenizers of the kind ",
            Json(std::string(model)).dump(-1, ' ', false, Json::error_handler_t::replace),
            " (tokenizer.ggml.model) are not supported; kerf reads gpt2 (byte-level BPE) and llama (sentencepiece)");
    const Metadata metadata(file);
    return GgufTokenizer{model == "gpt2" ? byte_level_tokenizer(metadata) : sentencepiece_tokenizer(metadata),
                         config_of(metadata, file)};
}

}  // namespace kerf::core
