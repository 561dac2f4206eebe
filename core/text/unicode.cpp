// SPDX-License-Identifier: Apache-2.0
#include "core/text/unicode.hpp"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <limits>

#include "core/support/error.hpp"

namespace kerf::core::unicode {
namespace {

struct Sequence {
    std::size_t bytes;  // of the well-formed character, or of the ill-formed part that one U+FFFD replaces
    bool valid;
};

/// Table 3-7 of the Unicode standard: which bytes may follow a lead byte.
Sequence sequence_at(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(at);
    if (lead < 0x80) return {1, true};
    if (lead < 0xC2 || lead > 0xF4) return {1, false};
    const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    unsigned char low = 0x80, high = 0xBF;  // of the second byte: neither overlong forms nor surrogates
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (std::size_t i = 1; i < length; ++i) {
        if (at + i == text.size() || byte(at + i) < low || byte(at + i) > high) return {i, false};
        low = 0x80;
        high = 0xBF;
    }
    return {length, true};
}

const icu::Normalizer2& instance(Form form) {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* found = nullptr;
    switch (form) {
        case Form::nfc:
            found = icu::Normalizer2::getNFCInstance(status);
            break;
        case Form::nfd:
            found = icu::Normalizer2::getNFDInstance(status);
            break;
        case Form::nfkc:
            found = icu::Normalizer2::getNFKCInstance(status);
            break;
        case Form::nfkd:
            found = icu::Normalizer2::getNFKDInstance(status);
            break;
    }
    if (U_FAILURE(status) || found == nullptr)
        bad_environment("ICU has no data for Unicode normalisation (", u_errorName(status), "); reinstall libicu");
    return *found;
}

}  // namespace

CodePoint decode(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
    const char32_t lead = byte(0);
    if (lead < 0x80) return {lead, 1};
    if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
    if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
    return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

void append(std::string& out, char32_t code) {
    const auto put = [&](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) {
        put(code);
    } else if (code < 0x800) {
        put(0xC0 | code >> 6);
        put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        put(0xE0 | code >> 12);
        put(0x80 | (code >> 6 & 0x3F));
        put(0x80 | (code & 0x3F));
    } else {
        put(0xF0 | code >> 18);
        put(0x80 | (code >> 12 & 0x3F));
        put(0x80 | (code >> 6 & 0x3F));
        put(0x80 | (code & 0x3F));
    }
}

bool is_valid(std::string_view bytes) {
    for (std::size_t at = 0; at < bytes.size();) {
        const auto [length, valid] = sequence_at(bytes, at);
        if (!valid) return false;
        at += length;
    }
    return true;
}

std::string repaired(std::string_view bytes) {
    std::string out;
    out.reserve(bytes.size());
    for (std::size_t at = 0; at < bytes.size();) {
        const auto [length, valid] = sequence_at(bytes, at);
        if (valid)
            out += bytes.substr(at, length);
        else
            append(out, 0xFFFD);
        at += length;
    }
    return out;
}

bool is_white_space(char32_t code) {
    return u_isUWhiteSpace(static_cast<UChar32>(code)) != 0;
}

bool is_number(char32_t code) {
    return (U_GET_GC_MASK(static_cast<UChar32>(code)) & U_GC_N_MASK) != 0;
}

bool is_punctuation(char32_t code) {
    constexpr std::u32string_view ascii_symbols = U"$+<=>^`|~";
    return ascii_symbols.find(code) != std::u32string_view::npos ||
           (U_GET_GC_MASK(static_cast<UChar32>(code)) & U_GC_P_MASK) != 0;
}

bool is_word(char32_t code) {
    const auto point = static_cast<UChar32>(code);
    return (U_GET_GC_MASK(point) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
           u_hasBinaryProperty(point, UCHAR_ALPHABETIC) != 0 || u_hasBinaryProperty(point, UCHAR_JOIN_CONTROL) != 0;
}

std::string normalized(std::string_view text, Form form) {
    if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
        bad_input("a text of ", text.size(), " bytes is too long to normalise; split it into files below 2 GiB");
    std::string out;
    out.reserve(text.size());
    icu::StringByteSink<std::string> sink(&out);
    UErrorCode status = U_ZERO_ERROR;
    const icu::StringPiece piece(text.data(), static_cast<std::int32_t>(text.size()));
    instance(form).normalizeUTF8(0, piece, sink, nullptr, status);
    if (U_FAILURE(status)) bad_environment("ICU could not normalise a text (", u_errorName(status), ")");
    return out;
}

std::string lowercase(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const auto [code, bytes] = decode(text, at);
        at += bytes;
        if (code == 0x130)  // the one character whose lower case is two: i and a dot above
            out += "i\u0307";
        else
            append(out, static_cast<char32_t>(u_tolower(static_cast<UChar32>(code))));
    }
    return out;
}

}  // namespace kerf::core::unicode
