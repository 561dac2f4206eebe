// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/support/error.hpp"
#include "core/support/json_text.hpp"

namespace kerf::core {

/// A part of a document that knows where it is, so that each complaint says so:
/// "tokenizer.json: pre_tokenizer.pretokenizers[1]: …". It refers to the document, which must outlive it.
class JsonPart {
public:
    JsonPart(const nlohmann::json& value, std::string where) : value_(&value), where_(std::move(where)) {}

    template <class... Pieces>
    [[noreturn]] void fail(const Pieces&... pieces) const {
        bad_input(where_, ": ", pieces...);
    }
    const nlohmann::json& value() const { return *value_; }
    const std::string& where() const { return where_; }

    bool has(const char* key) const;  ///< there, and not null
    JsonPart at(const char* key) const;
    std::optional<JsonPart> find(const char* key) const;  ///< empty where has() is false
    std::vector<JsonPart> list(const char* key) const;
    std::vector<JsonPart> elements() const;
    std::string string(const char* key) const;
    std::string string_or(const char* key, std::string_view otherwise) const;
    bool flag_or(const char* key, bool otherwise) const;
    std::optional<bool> flag(const char* key) const;
    std::int64_t integer(const char* key, std::int64_t least, std::int64_t most) const;
    std::string type() const { return string("type"); }

private:
    const nlohmann::json* value_;
    std::string where_;
};

}  // namespace kerf::core
