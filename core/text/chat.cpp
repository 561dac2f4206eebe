// SPDX-License-Identifier: Apache-2.0
#include "core/text/chat.hpp"

#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "core/support/json_text.hpp"
#include "core/text/gguf_tokenizer.hpp"
#include "core/text/pipeline.hpp"
#include "core/weights/gguf.hpp"

namespace kerf::core {
namespace {

namespace fs = std::filesystem;

/// "…", or [{"name": "default", "template": "…"}, …]
std::optional<std::string> template_in(const nlohmann::json& config, const std::string& where) {
    if (!config.is_object() || !config.contains("chat_template") || config["chat_template"].is_null())
        return std::nullopt;
    const auto& value = config["chat_template"];
    if (value.is_string()) return value.get<std::string>();
    std::string names;
    if (value.is_array())
        for (const auto& entry : value) {
            const bool sound = entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
                               entry.contains("template") && entry["template"].is_string();
            if (!sound) bad_input(where, ": chat_template: every entry needs a text \"name\" and a text \"template\"");
            if (entry["name"] == "default") return entry["template"].get<std::string>();
            names += (names.empty() ? "" : ", ") + entry["name"].get<std::string>();
        }
    if (names.empty()) bad_input(where, ": chat_template is no text and no list of templates");
    bad_input(where, ": chat_template has no template named \"default\", only ", names);
}

}  // namespace

ChatTemplate ChatTemplate::open(const fs::path& model) {
    std::optional<std::string> source;
    std::string where = (model / "chat_template.jinja").string();
    TokenizerConfig config;
    if (is_gguf(model)) {
        where = model.string() + ": tokenizer.chat_template";
        if (const auto documents = read_gguf_tokenizer(GgufFile(model))) {
            source = template_in(documents->config, model.string());
            read_tokenizer_config(JsonPart(documents->config, model.string()), config);
        }
    } else {
        if (fs::is_regular_file(where)) source = read_text(where);
        for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
            if (source || !fs::is_regular_file(model / name)) continue;
            const std::string file = (model / name).string();
            source = template_in(read_json(file), file);
            where = file + ": chat_template";
        }
        config = read_tokenizer_config(model);
    }
    if (!source)
        bad_input(model.string(),
                  ": the model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
                  "generate without --chat");
    nlohmann::ordered_json tokens = nlohmann::ordered_json::object();
    for (const auto& [role, token] : config.named)
        if (role.ends_with("_token")) tokens[role] = token.content;
    return {Template::parse(*source, where), std::move(tokens)};
}

std::string ChatTemplate::render(const nlohmann::ordered_json& messages) const {
    nlohmann::ordered_json variables = tokens_;
    variables["messages"] = messages;
    variables["tools"] = nullptr;
    variables["documents"] = nullptr;
    variables["add_generation_prompt"] = true;
    return template_.render(variables);
}

}  // namespace kerf::core
