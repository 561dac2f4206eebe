// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <utility>

#include "core/text/regex.hpp"
#include "core/text/stages.hpp"
#include "core/text/unicode.hpp"

namespace kerf::core {
namespace {

using Tokens = std::vector<std::string>;

void fuse(Tokens& tokens) {
    std::string all;
    for (const auto& token : tokens) all += token;
    tokens.assign(1, std::move(all));
}

/// The bytes that a token of a byte-level vocabulary stands for; a token with any other character stands for itself.
std::string from_byte_level(const std::string& token) {
    static const auto bytes_of = [] {
        std::unordered_map<char32_t, char> out;
        for (unsigned i = 0; i < 256; ++i)
            out[unicode::decode(byte_character(static_cast<unsigned char>(i)), 0).code] = static_cast<char>(i);
        return out;
    }();
    std::string out;
    for (std::size_t at = 0; at < token.size();) {
        const auto [code, bytes] = unicode::decode(token, at);
        const auto byte = bytes_of.find(code);
        if (byte == bytes_of.end()) return token;
        out += byte->second;
        at += bytes;
    }
    return out;
}

/// "<0x0A>" → the byte 0x0A
std::optional<char> byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    unsigned value = 0;
    const auto [end, status] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
    if (status != std::errc() || end != token.data() + 5) return std::nullopt;
    return static_cast<char>(value);
}

/// Runs of byte tokens become text where they are valid UTF-8, else one U+FFFD a byte.
void join_bytes(Tokens& tokens) {
    Tokens out;
    std::string run;
    const auto flush = [&] {
        if (run.empty()) return;
        if (unicode::is_valid(run))
            out.push_back(run);
        else
            out.insert(out.end(), run.size(), "\uFFFD");
        run.clear();
    };
    for (auto& token : tokens) {
        if (const auto byte = byte_of(token)) {
            run += *byte;
        } else {
            flush();
            out.push_back(std::move(token));
        }
    }
    flush();
    tokens = std::move(out);
}

Decoder metaspace(const JsonPart& part) {
    const bool prepended =
        part.string_or("prepend_scheme", part.flag_or("add_prefix_space", true) ? "always" : "never") != "never";
    return [mark = part.string("replacement"), prepended](Tokens& tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i)
            tokens[i] = replace_all(tokens[i], mark, i == 0 && prepended ? "" : " ");
    };
}

Decoder strip(const std::string& content, std::int64_t start, std::int64_t stop) {
    return [content, start, stop](Tokens& tokens) {
        for (auto& token : tokens) {
            std::string_view rest = token;
            for (std::int64_t i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
            for (std::int64_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
            token = std::string(rest);
        }
    };
}

Decoder read_strip(const JsonPart& part) {
    constexpr std::int64_t most = std::int64_t{1} << 20;
    const std::string content = part.string("content");
    if (content.empty()) part.fail("the content to strip is empty");
    return strip(content, part.integer("start", 0, most), part.integer("stop", 0, most));
}

Decoder replace(const JsonPart& part) {
    // The same rewriting as the normalizer of that name, token by token.
    return [rewrite = read_normalizer(part)](Tokens& tokens) {
        for (auto& token : tokens) token = rewrite(std::move(token));
    };
}

Decoder sequence(std::vector<Decoder> steps) {
    return [steps = std::move(steps)](Tokens& tokens) {
        for (const auto& step : steps) step(tokens);
    };
}

}  // namespace

Decoder byte_level_decoder() {
    return [](Tokens& tokens) {
        std::string bytes;
        for (const auto& token : tokens) bytes += from_byte_level(token);
        tokens.assign(1, unicode::repaired(bytes));
    };
}

Decoder sentencepiece_decoder(const std::string& mark, bool strip_space) {
    std::vector<Decoder> steps{[mark](Tokens& tokens) {
                                   for (auto& token : tokens) token = replace_all(token, mark, " ");
                               },
                               join_bytes, fuse};
    if (strip_space) steps.push_back(strip(" ", 1, 0));
    return sequence(std::move(steps));
}

Decoder read_decoder(const JsonPart& part) {
    const std::string type = part.type();
    if (type == "Sequence") {
        std::vector<Decoder> steps;
        for (const auto& step : part.list("decoders")) steps.push_back(read_decoder(step));
        return sequence(std::move(steps));
    }
    if (type == "ByteLevel") return byte_level_decoder();
    if (type == "ByteFallback") return join_bytes;
    if (type == "Fuse") return fuse;
    if (type == "Metaspace") return metaspace(part);
    if (type == "Strip") return read_strip(part);
    if (type == "Replace") return replace(part);
    part.fail("the decoder type \"", type,
              "\" is not supported; kerf knows ByteLevel, Metaspace, ByteFallback, Fuse, Replace, Strip and Sequence");
}

}  // namespace kerf::core
