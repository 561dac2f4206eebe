// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/text/template.hpp"

namespace kerf::core {

/// How a chat model wants a conversation written: the template that comes with its tokenizer.
class ChatTemplate {
public:
    /// Of a model folder: chat_template.jinja, else tokenizer_config.json's chat_template (of several, the one named
    /// "default"); of a GGUF file: its own. Error(input) when there is none, or when it is not one that kerf reads.
    static ChatTemplate open(const std::filesystem::path& model);

    /// The text of a conversation, ready for the assistant's turn: to be tokenised without further special tokens.
    /// messages: a list of {"role": "user", "content": "…", …}. Error(input) when the template raises an exception.
    std::string render(const nlohmann::ordered_json& messages) const;

private:
    ChatTemplate(Template parsed, nlohmann::ordered_json tokens)
        : template_(std::move(parsed)), tokens_(std::move(tokens)) {}
    Template template_;
    nlohmann::ordered_json tokens_;  ///< bos_token, eos_token, …
};

}  // namespace kerf::core
