// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

/// What tokenizers need of Unicode: UTF-8, character classes, normal forms. Classes and forms come from ICU.
namespace kerf::core::unicode {

struct CodePoint {
    char32_t code = 0;
    std::size_t bytes = 1;
};

/// The code point that begins at byte `at` of valid UTF-8.
CodePoint decode(std::string_view text, std::size_t at);
void append(std::string& out, char32_t code);

/// The bytes as valid UTF-8: each maximal ill-formed part becomes one U+FFFD, as Python's errors="replace" has it.
std::string repaired(std::string_view bytes);
bool is_valid(std::string_view bytes);

bool is_white_space(char32_t code);  ///< property White_Space
bool is_number(char32_t code);       ///< categories Nd, Nl, No
bool is_punctuation(char32_t code);  ///< categories P*, and the ASCII symbols $+<=>^`|~
bool is_word(char32_t code);         ///< \w of UTS #18: Alphabetic, M, Nd, Pc, Join_Control

enum class Form { nfc, nfd, nfkc, nfkd };
std::string normalized(std::string_view text, Form form);

/// Character by character, without context: a final sigma stays an ordinary one.
std::string lowercase(std::string_view text);

}  // namespace kerf::core::unicode
