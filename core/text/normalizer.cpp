// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "core/text/regex.hpp"
#include "core/text/stages.hpp"
#include "core/text/unicode.hpp"

namespace kerf::core {
namespace {

Normalizer to_form(unicode::Form form) {
    return [form](const std::string& text) { return unicode::normalized(text, form); };
}

Normalizer sequence(const JsonPart& part) {
    std::vector<Normalizer> steps;
    for (const auto& step : part.list("normalizers")) steps.push_back(read_normalizer(step));
    return [steps = std::move(steps)](std::string text) {
        for (const auto& step : steps) text = step(std::move(text));
        return text;
    };
}

std::string stripped(const std::string& text, bool left, bool right) {
    std::size_t begin = text.size(), end = 0;  // around what is no white space
    for (std::size_t at = 0; at < text.size();) {
        const auto [code, bytes] = unicode::decode(text, at);
        if (!unicode::is_white_space(code)) {
            begin = std::min(begin, at);
            end = at + bytes;
        }
        at += bytes;
    }
    if (!left) begin = 0;
    if (!right) end = text.size();
    return begin < end ? text.substr(begin, end - begin) : std::string();
}

Normalizer replace(const JsonPart& part) {
    const auto pattern = part.at("pattern");
    const std::string content = part.string("content");
    if (pattern.has("String")) {
        return [from = pattern.string("String"), content](const std::string& text) {
            return replace_all(text, from, content);
        };
    }
    return [regex = Regex(pattern.string("Regex"), pattern.where()), content](const std::string& text) {
        std::string out;
        std::size_t at = 0;
        for (const auto& match : regex.find_all(text)) {
            out.append(text, at, match.begin - at).append(content);
            at = match.end;
        }
        return out.append(text, at);
    };
}

}  // namespace

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
    if (from.empty()) return std::string(text);
    std::string out;
    out.reserve(text.size());
    std::size_t at = 0;
    for (auto found = text.find(from); found != std::string_view::npos; found = text.find(from, at)) {
        out += text.substr(at, found - at);
        out += to;
        at = found + from.size();
    }
    out += text.substr(at);
    return out;
}

Normalizer read_normalizer(const JsonPart& part) {
    const std::string type = part.type();
    if (type == "Sequence") return sequence(part);
    if (type == "NFC") return to_form(unicode::Form::nfc);
    if (type == "NFD") return to_form(unicode::Form::nfd);
    if (type == "NFKC") return to_form(unicode::Form::nfkc);
    if (type == "NFKD") return to_form(unicode::Form::nfkd);
    if (type == "Lowercase") return [](const std::string& text) { return unicode::lowercase(text); };
    if (type == "Replace") return replace(part);
    if (type == "Prepend") {
        return
            [prefix = part.string("prepend")](const std::string& text) { return text.empty() ? text : prefix + text; };
    }
    if (type == "Strip") {
        return [left = part.flag_or("strip_left", false), right = part.flag_or("strip_right", false)](
                   const std::string& text) { return stripped(text, left, right); };
    }
    part.fail("the normalizer type \"", type,
              "\" is not supported; kerf knows NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip and Sequence");
}

}  // namespace kerf::core
