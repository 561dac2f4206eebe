// SPDX-License-Identifier: Apache-2.0
#include "core/text/json_part.hpp"

#include <nlohmann/json.hpp>

#include "core/support/file.hpp"

namespace kerf::core {

bool JsonPart::has(const char* key) const {
    if (!value_->is_object()) fail("an object is needed here");
    const auto found = value_->find(key);
    return found != value_->end() && !found->is_null();
}

JsonPart JsonPart::at(const char* key) const {
    if (!has(key)) fail("the key \"", key, "\" is missing");
    return {(*value_)[key], text(where_, where_.ends_with(".json") ? ": " : ".", key)};
}

std::optional<JsonPart> JsonPart::find(const char* key) const {
    if (!has(key)) return std::nullopt;
    return at(key);
}

std::vector<JsonPart> JsonPart::elements() const {
    if (!value_->is_array()) fail("a list is needed here");
    std::vector<JsonPart> out;
    out.reserve(value_->size());
    for (const auto& element : *value_) out.emplace_back(element, text(where_, "[", out.size(), "]"));
    return out;
}

std::vector<JsonPart> JsonPart::list(const char* key) const {
    return at(key).elements();
}

std::string JsonPart::string(const char* key) const {
    const auto part = at(key);
    if (!part.value().is_string()) part.fail("a text is needed here");
    return part.value().get<std::string>();
}

std::string JsonPart::string_or(const char* key, std::string_view otherwise) const {
    return has(key) ? string(key) : std::string(otherwise);
}

std::optional<bool> JsonPart::flag(const char* key) const {
    if (!has(key)) return std::nullopt;
    const auto part = at(key);
    if (!part.value().is_boolean()) part.fail("true or false is needed here");
    return part.value().get<bool>();
}

bool JsonPart::flag_or(const char* key, bool otherwise) const {
    return flag(key).value_or(otherwise);
}

std::int64_t JsonPart::integer(const char* key, std::int64_t least, std::int64_t most) const {
    const auto part = at(key);
    if (!part.value().is_number_integer()) part.fail("a whole number is needed here");
    const bool huge = part.value().is_number_unsigned() && part.value().get<std::uint64_t>() > std::uint64_t(INT64_MAX);
    const auto number = huge ? INT64_MAX : part.value().get<std::int64_t>();
    if (number < least || number > most) part.fail(part.value().dump(), " is not between ", least, " and ", most);
    return number;
}

}  // namespace kerf::core
