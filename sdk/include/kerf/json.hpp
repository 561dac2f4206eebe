// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include "kerf/error.hpp"

namespace kerf::inline v1::detail {

/// Appends JSON values to a text: all that schemas and graph documents need.
inline void json(std::string& out, std::string_view text) {
    constexpr char hex[] = "0123456789abcdef";
    out += '"';
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (byte < 0x20) {
            out += "\\u00";
            out += hex[byte >> 4];
            out += hex[byte & 15];
        } else {
            out += c;
        }
    }
    out += '"';
}
inline void json(std::string& out, const std::string& text) {
    json(out, std::string_view(text));
}
inline void json(std::string& out, const char* text) {
    json(out, std::string_view(text));
}
inline void json(std::string& out, bool flag) {
    out += flag ? "true" : "false";
}

template <std::integral Integer>
requires(!std::same_as<Integer, bool>) void json(std::string& out, Integer number) {
    out += std::to_string(number);
}

/// The shortest text that reads back as the same number.
template <std::floating_point Real>
void json(std::string& out, Real number) {
    if (!std::isfinite(number)) throw Error(Code::argument, "a number that is not finite has no place in JSON");
    char digits[32];
    const auto end = std::to_chars(digits, digits + sizeof(digits), number).ptr;
    out.append(digits, end);
}

/// `"key":value`, with a comma in front unless it comes right after the brace.
template <class Value>
void member(std::string& out, std::string_view key, const Value& value) {
    if (out.empty() || out.back() != '{') out += ',';
    json(out, key);
    out += ':';
    json(out, value);
}

template <class List>
void member_list(std::string& out, std::string_view key, const List& values) {
    if (out.empty() || out.back() != '{') out += ',';
    json(out, key);
    out += ":[";
    bool first = true;
    for (const auto& value : values) {
        if (!first) out += ',';
        json(out, value);
        first = false;
    }
    out += ']';
}

}  // namespace kerf::inline v1::detail
