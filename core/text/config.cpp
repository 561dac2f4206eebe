// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "core/text/pipeline.hpp"

namespace kerf::core {
namespace {

constexpr std::array<const char*, 7> roles{"bos_token", "eos_token", "unk_token", "sep_token",
                                           "pad_token", "cls_token", "mask_token"};
constexpr std::array<const char*, 2> lists{"additional_special_tokens", "extra_special_tokens"};

void read_named(const JsonPart& file, TokenizerConfig& out) {
    for (const char* role : roles) {
        if (!file.has(role)) continue;
        auto token = read_added_token(file.at(role), true);
        token.special = true;
        const auto old =
            std::find_if(out.named.begin(), out.named.end(), [&](const auto& n) { return n.role == role; });
        if (old == out.named.end())
            out.named.push_back({role, std::move(token)});
        else
            old->token = std::move(token);
    }
}

/// {"32000": {"content": "<pad>", …}}: the tokens in the order of their ids.
void read_decoder_tokens(const JsonPart& part, TokenizerConfig& out) {
    if (!part.value().is_object()) part.fail("an object from ids to tokens is needed here");
    std::map<std::int64_t, AddedToken> tokens;
    for (const auto& [key, value] : part.value().items()) {
        std::int64_t id = -1;
        const auto [end, status] = std::from_chars(key.data(), key.data() + key.size(), id);
        if (status != std::errc() || end != key.data() + key.size() || id < 0 || id > Vocabulary::largest_id)
            part.fail("\"", key, "\" is no token id");
        tokens[id] = read_added_token(JsonPart(value, text(part.where(), ".", key)), false);
    }
    for (auto& [id, token] : tokens) out.others.push_back(std::move(token));
}

/// added_tokens.json: {"<pad>": 32000}
void read_legacy_tokens(const JsonPart& file, TokenizerConfig& out) {
    if (!file.value().is_object()) file.fail("an object from tokens to ids is needed here");
    std::map<std::int64_t, AddedToken> tokens;
    for (const auto& [content, id] : file.value().items()) {
        if (!id.is_number_integer()) file.fail("the token \"", content, "\" has no id");
        const bool special = std::any_of(out.named.begin(), out.named.end(),
                                         [&, &name = content](const auto& n) { return n.token.content == name; });
        AddedToken token;
        token.content = content;
        token.special = special;
        token.normalized = !special;
        tokens[id.get<std::int64_t>()] = token;
    }
    for (auto& [id, token] : tokens) out.others.push_back(std::move(token));
}

void read_extra(const JsonPart& file, TokenizerConfig& out) {
    for (const char* list : lists) {
        if (!file.has(list) || !file.at(list).value().is_array()) continue;
        for (const auto& token : file.list(list)) out.named.push_back({list, read_added_token(token, true)});
    }
}

}  // namespace

const AddedToken* TokenizerConfig::token(std::string_view role) const {
    for (const auto& entry : named)
        if (entry.role == role) return &entry.token;
    return nullptr;
}

void TokenizerConfig::set_default(const std::string& role, const std::string& content) {
    if (token(role) != nullptr) return;
    AddedToken chosen;
    chosen.content = content;
    named.push_back({role, chosen});
}

void TokenizerConfig::set_gemma_defaults() {
    for (const auto& [role, content] :
         {std::pair("bos_token", "<bos>"), std::pair("eos_token", "<eos>"), std::pair("unk_token", "<unk>"),
          std::pair("pad_token", "<pad>"), std::pair("mask_token", "<mask>")})
        set_default(role, content);
}

void read_tokenizer_config(const JsonPart& file, TokenizerConfig& out) {
    out.add_bos = file.flag("add_bos_token");
    out.add_eos = file.flag("add_eos_token");
    out.add_prefix_space = file.flag("add_prefix_space");
    out.legacy = file.flag("legacy");
    out.tokenizer_class = file.string_or("tokenizer_class", "");
    read_named(file, out);
    if (file.has("added_tokens_decoder")) read_decoder_tokens(file.at("added_tokens_decoder"), out);
    read_extra(file, out);
}

TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder) {
    TokenizerConfig out;
    const auto read = [&](const char* name, auto use) {
        const auto path = folder / name;
        if (!std::filesystem::exists(path)) return;
        const auto document = read_json(path);
        use(JsonPart(document, path.string()));
    };
    out.where = (folder / "tokenizer_config.json").string();
    bool complete = false;  // newer files say all there is to say about added tokens
    read("tokenizer_config.json", [&](const JsonPart& file) {
        read_tokenizer_config(file, out);
        complete = file.has("added_tokens_decoder");
    });
    read("config.json", [&](const JsonPart& file) {
        // An export for transformers (core/export) keeps the family's config apart.
        const auto kerf = file.find("kerf");
        const auto family = kerf ? kerf->find("family_config") : std::nullopt;
        out.model_type = family.value_or(file).string_or("model_type", "");
    });
    if (!complete) {
        read("special_tokens_map.json", [&](const JsonPart& file) {
            read_named(file, out);
            read_extra(file, out);
        });
        read("added_tokens.json", [&](const JsonPart& file) { read_legacy_tokens(file, out); });
    }
    return out;
}

}  // namespace kerf::core
