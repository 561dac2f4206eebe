// SPDX-License-Identifier: Apache-2.0
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/plugin_api/tables.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

const json* step_into(const json* at, std::string_view key) {
    if (at->is_object()) {
        const auto found = at->find(key);
        return found == at->end() ? nullptr : &*found;
    }
    if (!at->is_array()) return nullptr;
    std::size_t index = 0;
    const auto [end, status] = std::from_chars(key.data(), key.data() + key.size(), index);
    if (status != std::errc() || end != key.data() + key.size() || index >= at->size()) return nullptr;
    return &(*at)[index];
}

/// The value at a dotted path, or NULL. The empty path is the whole tree.
const json* find(const kerf_values* values, kerf_text path) {
    const auto* at = reinterpret_cast<const json*>(values);
    auto rest = view_of(path);
    while (at && !rest.empty()) {
        const auto dot = rest.find('.');
        at = step_into(at, rest.substr(0, dot));
        rest = dot == std::string_view::npos ? std::string_view{} : rest.substr(dot + 1);
    }
    return at;
}

const char* kind_in_words(const json& value) {
    switch (value.type()) {
        case json::value_t::null:
            return "null";
        case json::value_t::boolean:
            return "true or false";
        case json::value_t::number_integer:
        case json::value_t::number_unsigned:
            return "a whole number";
        case json::value_t::number_float:
            return "a number with a fraction";
        case json::value_t::string:
            return "a text";
        case json::value_t::array:
            return "a list";
        case json::value_t::object:
            return "a table";
        default:
            return "something else";
    }
}

const json& needed(const kerf_values* values, kerf_text path, const void* out) {
    if (!out) bad_input(view_of(path), ": no place for the result");
    const json* found = values ? find(values, path) : nullptr;
    if (!found) bad_input(view_of(path), " is missing");
    return *found;
}

[[noreturn]] void wrong_kind(kerf_text path, const json& value, std::string_view wanted) {
    bad_input(view_of(path), " is ", kind_in_words(value), ", but ", wanted, " is needed");
}

std::int32_t kind(const kerf_values* values, kerf_text path) {
    const json* found = values ? find(values, path) : nullptr;
    if (!found) return KERF_VALUE_ABSENT;
    switch (found->type()) {
        case json::value_t::boolean:
            return KERF_VALUE_FLAG;
        case json::value_t::number_integer:
        case json::value_t::number_unsigned:
            return KERF_VALUE_INTEGER;
        case json::value_t::number_float:
            return KERF_VALUE_REAL;
        case json::value_t::string:
            return KERF_VALUE_TEXT;
        case json::value_t::array:
            return KERF_VALUE_LIST;
        case json::value_t::object:
            return KERF_VALUE_TABLE;
        default:
            return KERF_VALUE_NULL;
    }
}

std::int64_t size(const kerf_values* values, kerf_text path) {
    const json* found = values ? find(values, path) : nullptr;
    return found && found->is_structured() ? static_cast<std::int64_t>(found->size()) : 0;
}

kerf_code flag(const kerf_values* values, kerf_text path, std::int32_t* out, kerf_error* error) {
    return host_call(error, [&] {
        const json& value = needed(values, path, out);
        if (!value.is_boolean()) wrong_kind(path, value, "true or false");
        *out = value.get<bool>() ? 1 : 0;
    });
}

kerf_code integer(const kerf_values* values, kerf_text path, std::int64_t* out, kerf_error* error) {
    return host_call(error, [&] {
        const json& value = needed(values, path, out);
        if (!value.is_number_integer()) wrong_kind(path, value, "a whole number");
        if (value.is_number_unsigned() &&
            value.get<std::uint64_t>() > std::uint64_t(std::numeric_limits<std::int64_t>::max()))
            bad_input(view_of(path), " = ", value.get<std::uint64_t>(), " is too large");
        *out = value.get<std::int64_t>();
    });
}

kerf_code real(const kerf_values* values, kerf_text path, double* out, kerf_error* error) {
    return host_call(error, [&] {
        const json& value = needed(values, path, out);
        if (!value.is_number()) wrong_kind(path, value, "a number");
        *out = value.get<double>();
    });
}

kerf_code text_value(const kerf_values* values, kerf_text path, kerf_text* out, kerf_error* error) {
    return host_call(error, [&] {
        const json& value = needed(values, path, out);
        if (!value.is_string()) wrong_kind(path, value, "a text");
        *out = text_of(value.get_ref<const std::string&>());
    });
}

}  // namespace

const kerf_values_1 values_table{sizeof(kerf_values_1), 0, kind, size, flag, integer, real, text_value};

const kerf_values* as_values(const json& value) {
    return reinterpret_cast<const kerf_values*>(&value);
}

}  // namespace kerf::core
