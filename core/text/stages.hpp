// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/json_part.hpp"
#include "core/text/regex.hpp"

/// The stages of a tokenizer.json around its model, each read from its part of the file into a function. An unknown
/// type is Error(input) that names the file, the place and the type.
namespace kerf::core {

/// A piece of the text on its way to the model.
struct Piece {
    std::string text;
    std::int64_t id = -1;       ///< at least 0: an added token, found already
    bool at_beginning = false;  ///< it starts where the whole text does
};
using Pieces = std::vector<Piece>;

/// Text to text, before anything is split.
using Normalizer = std::function<std::string(std::string)>;
Normalizer read_normalizer(const JsonPart& part);

/// Splits (and may rewrite) every piece that is no added token.
using PreTokenizer = std::function<void(Pieces&)>;
PreTokenizer read_pre_tokenizer(const JsonPart& part);
PreTokenizer byte_level_pre_tokenizer(bool add_prefix_space, bool use_regex);

enum class Prepend { always, first, never };
/// `mark` is one character.
PreTokenizer metaspace_pre_tokenizer(const std::string& mark, Prepend prepend, bool split);

/// Each match of the pattern becomes a piece of its own.
PreTokenizer isolating_pre_tokenizer(Regex pattern);

/// Rewrites the list of tokens; the text is what they are in the end, joined.
using Decoder = std::function<void(std::vector<std::string>&)>;
Decoder read_decoder(const JsonPart& part);
Decoder byte_level_decoder();
/// What turns sentencepiece tokens into text; strip_space drops the one space that the pre-tokenizer had put in front.
Decoder sentencepiece_decoder(const std::string& mark, bool strip_space);

/// What goes around the ids of a text.
struct Surroundings {
    std::vector<std::int64_t> before, after;
};
Surroundings read_post_processor(const JsonPart& part);

/// The printable character that stands for a byte in byte-level vocabularies (GPT-2), in UTF-8.
const std::string& byte_character(unsigned char byte);

/// Every `from` becomes `to`.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace kerf::core
