// SPDX-License-Identifier: Apache-2.0
#include "core/text/template_text.hpp"

#include <unicode/uchar.h>
#include <unicode/ustring.h>

#include <algorithm>

#include "core/text/unicode.hpp"

namespace kerf::core::jinja {
namespace {

/// Python's str.isspace: also the four separators of ASCII, which Unicode does not count.
bool is_space(char32_t code) {
    return unicode::is_white_space(code) || (code >= 0x1c && code <= 0x1f);
}
bool is_blank(std::string_view character) {
    return is_space(unicode::decode(character, 0).code);
}

/// The full case mapping of a whole text, in no language's own way.
template <class Map>
std::string mapped(std::string_view text, Map map) {
    std::u16string wide(text.size() + 1, u'\0');
    std::int32_t size = 0;
    UErrorCode status = U_ZERO_ERROR;
    u_strFromUTF8(wide.data(), std::int32_t(wide.size()), &size, text.data(), std::int32_t(text.size()), &status);
    if (U_FAILURE(status)) return std::string(text);
    std::u16string other(std::size_t(size) * 3 + 1, u'\0');
    status = U_ZERO_ERROR;
    const std::int32_t length = map(other.data(), std::int32_t(other.size()), wide.data(), size, &status);
    if (U_FAILURE(status)) return std::string(text);
    std::string out(std::size_t(length) * 3 + 1, '\0');
    std::int32_t bytes = 0;
    status = U_ZERO_ERROR;
    u_strToUTF8(out.data(), std::int32_t(out.size()), &bytes, other.data(), length, &status);
    out.resize(std::size_t(bytes));
    return out;
}

}  // namespace

std::vector<std::string> characters(std::string_view text) {
    std::vector<std::string> out;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t bytes = unicode::decode(text, at).bytes;
        out.emplace_back(text.substr(at, bytes));
        at += bytes;
    }
    return out;
}

std::size_t character_count(std::string_view text) {
    return std::size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string stripped(std::string_view text, std::string_view which, bool left, bool right) {
    const auto all = characters(text);
    const auto set = characters(which);
    const auto goes = [&](const std::string& c) {
        return which.empty() ? is_blank(c) : std::find(set.begin(), set.end(), c) != set.end();
    };
    std::size_t begin = 0, end = all.size();
    while (left && begin < end && goes(all[begin])) ++begin;
    while (right && begin < end && goes(all[end - 1])) --end;
    std::string out;
    for (std::size_t i = begin; i < end; ++i) out += all[i];
    return out;
}

namespace {

std::vector<std::string> split_at(std::string_view text, std::string_view separator, std::int64_t most,
                                  bool from_right) {
    std::vector<std::string> out;
    if (from_right) {
        while (most != 0) {
            const auto at = text.rfind(separator);
            if (at == std::string_view::npos) break;
            out.emplace_back(text.substr(at + separator.size()));
            text = text.substr(0, at);
            if (most > 0) --most;
        }
        out.emplace_back(text);
        std::reverse(out.begin(), out.end());
        return out;
    }
    while (most != 0) {
        const auto at = text.find(separator);
        if (at == std::string_view::npos) break;
        out.emplace_back(text.substr(0, at));
        text.remove_prefix(at + separator.size());
        if (most > 0) --most;
    }
    out.emplace_back(text);
    return out;
}

std::vector<std::string> split_at_space(std::string_view text, std::int64_t most, bool from_right) {
    auto all = characters(text);
    if (from_right) std::reverse(all.begin(), all.end());
    std::vector<std::string> out;
    std::size_t i = 0;
    const auto skip = [&] {
        while (i < all.size() && is_blank(all[i])) ++i;
    };
    const auto add = [&](std::string& word, const std::string& c) { word = from_right ? c + word : word + c; };
    for (skip(); i < all.size(); skip()) {
        std::string word;
        if (most == 0) {
            // the rest as it is, but for white space at its far end
            while (i < all.size()) add(word, all[i++]);
            out.push_back(stripped(word, "", from_right, !from_right));
            break;
        }
        while (i < all.size() && !is_blank(all[i])) add(word, all[i++]);
        out.push_back(word);
        if (most > 0) --most;
    }
    if (from_right) std::reverse(out.begin(), out.end());
    return out;
}

}  // namespace

std::vector<std::string> split(std::string_view text, const std::string* separator, std::int64_t most,
                               bool from_right) {
    return separator ? split_at(text, *separator, most, from_right) : split_at_space(text, most, from_right);
}

std::vector<std::string> split_lines(std::string_view text) {
    std::vector<std::string> out;
    while (!text.empty()) {
        const auto end = text.find_first_of("\n\r");
        out.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos) break;
        text.remove_prefix(end + (text.substr(end).starts_with("\r\n") ? 2 : 1));
    }
    return out;
}

std::string replaced(std::string_view text, std::string_view old, std::string_view with, std::int64_t most) {
    std::string out;
    if (old.empty()) {
        // between all characters, as Python does
        for (const auto& c : characters(text)) {
            if (most != 0) out += with;
            if (most > 0) --most;
            out += c;
        }
        if (most != 0) out += with;
        return out;
    }
    for (std::size_t at = 0;;) {
        const auto found = most == 0 ? std::string_view::npos : text.find(old, at);
        out += text.substr(at, found - at);
        if (found == std::string_view::npos) return out;
        out += with;
        at = found + old.size();
        if (most > 0) --most;
    }
}

std::string upper(std::string_view text) {
    return mapped(text, [](UChar* to, std::int32_t room, const UChar* from, std::int32_t size, UErrorCode* status) {
        return u_strToUpper(to, room, from, size, "", status);
    });
}

std::string lower(std::string_view text) {
    return mapped(text, [](UChar* to, std::int32_t room, const UChar* from, std::int32_t size, UErrorCode* status) {
        return u_strToLower(to, room, from, size, "", status);
    });
}

std::string capitalized(std::string_view text) {
    if (text.empty()) return {};
    std::string first;
    const auto [code, bytes] = unicode::decode(text, 0);
    unicode::append(first, char32_t(u_totitle(UChar32(code))));
    return first + lower(text.substr(bytes));
}

std::string titled(std::string_view text) {
    std::string out;
    bool inside = false;
    for (const auto& c : characters(text)) {
        const auto code = UChar32(unicode::decode(c, 0).code);
        unicode::append(out, char32_t(inside ? u_tolower(code) : u_totitle(code)));
        inside = u_isalpha(code);
    }
    return out;
}

}  // namespace kerf::core::jinja
