// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/text/regex.hpp"
#include "core/text/stages.hpp"
#include "core/text/unicode.hpp"

namespace kerf::core {
namespace {

/// A text as what a pattern matches and what lies between, in order, without holes.
struct Part {
    Range range;
    bool match;
};
using Parts = std::vector<Part>;

/// What becomes of the matches; the names are those of the file format.
enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

Behavior read_behavior(const JsonPart& part, std::string_view otherwise) {
    constexpr std::array<std::pair<std::string_view, Behavior>, 5> names{
        {{"Isolated", Behavior::isolated},
         {"Removed", Behavior::removed},
         {"MergedWithPrevious", Behavior::merged_with_previous},
         {"MergedWithNext", Behavior::merged_with_next},
         {"Contiguous", Behavior::contiguous}}};
    const std::string name = part.string_or("behavior", otherwise);
    for (const auto& [known, behavior] : names)
        if (known == name) return behavior;
    part.fail("the behavior \"", name, "\" is not known");
}

Parts with_gaps(const std::vector<Range>& matches, std::size_t size, bool invert) {
    Parts out;
    out.reserve(2 * matches.size() + 1);
    std::size_t at = 0;
    for (const auto& match : matches) {
        if (at != match.begin) out.push_back({{at, match.begin}, invert});
        out.push_back({match, !invert});
        at = match.end;
    }
    if (at != size) out.push_back({{at, size}, invert});
    return out;
}

template <class Test>
Parts each_character(std::string_view text, Test test) {
    std::vector<Range> matches;
    for (std::size_t at = 0; at < text.size();) {
        const auto [code, bytes] = unicode::decode(text, at);
        if (test(code)) matches.push_back({at, at + bytes});
        at += bytes;
    }
    return with_gaps(matches, text.size(), false);
}

std::vector<Range> merged_with_next(const Parts& parts) {
    std::vector<Range> out;
    bool previous = false;
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
        if (part->match && !previous && !out.empty())
            out.back().begin = part->range.begin;
        else
            out.push_back(part->range);
        previous = part->match;
    }
    return {out.rbegin(), out.rend()};
}

std::vector<Range> parts_by(Behavior behavior, const Parts& parts) {
    if (behavior == Behavior::merged_with_next) return merged_with_next(parts);
    std::vector<Range> out;
    out.reserve(parts.size());
    bool previous = false;
    for (const auto& part : parts) {
        const bool joins = (behavior == Behavior::merged_with_previous && part.match && !previous) ||
                           (behavior == Behavior::contiguous && part.match == previous);
        if (joins && !out.empty())
            out.back().end = part.range.end;
        else if (behavior != Behavior::removed || !part.match)
            out.push_back(part.range);
        previous = part.match;
    }
    return out;
}

/// Replaces each piece that is no added token by those of its parts that `ranges_of(text)` gives.
template <class RangesOf>
void split_each(Pieces& pieces, RangesOf ranges_of) {
    Pieces out;
    out.reserve(pieces.size());
    for (auto& piece : pieces) {
        if (piece.id >= 0) {
            out.push_back(std::move(piece));
            continue;
        }
        for (const Range& range : ranges_of(std::string_view(piece.text)))
            if (range.begin < range.end)
                out.push_back({piece.text.substr(range.begin, range.end - range.begin), -1,
                               piece.at_beginning && range.begin == 0});
    }
    pieces = std::move(out);
}

template <class Test>
PreTokenizer split_at_characters(Test test, Behavior behavior) {
    return [test, behavior](Pieces& pieces) {
        split_each(pieces, [&](std::string_view text) { return parts_by(behavior, each_character(text, test)); });
    };
}

/// Runs of word characters and runs of everything else; white space goes.
PreTokenizer split_words() {
    return [](Pieces& pieces) {
        split_each(pieces, [](std::string_view text) {
            enum class Kind { space, word, other } previous = Kind::space;
            std::vector<Range> out;
            for (std::size_t at = 0; at < text.size();) {
                const auto [code, bytes] = unicode::decode(text, at);
                const Kind kind = unicode::is_word(code)          ? Kind::word
                                  : unicode::is_white_space(code) ? Kind::space
                                                                  : Kind::other;
                if (kind != Kind::space && kind == previous)
                    out.back().end = at + bytes;
                else if (kind != Kind::space)
                    out.push_back({at, at + bytes});
                previous = kind;
                at += bytes;
            }
            return out;
        });
    };
}

PreTokenizer split(const JsonPart& part) {
    const auto pattern = part.at("pattern");
    const bool invert = part.flag_or("invert", false);
    const Behavior behavior = read_behavior(part, "");
    if (pattern.has("String")) {
        return [literal = pattern.string("String"), invert, behavior](Pieces& pieces) {
            split_each(pieces, [&](std::string_view text) {
                std::vector<Range> matches;
                for (auto at = text.find(literal); at != std::string_view::npos && !literal.empty();
                     at = text.find(literal, at + literal.size()))
                    matches.push_back({at, at + literal.size()});
                return parts_by(behavior, with_gaps(matches, text.size(), invert));
            });
        };
    }
    return [regex = Regex(pattern.string("Regex"), pattern.where()), invert, behavior](Pieces& pieces) {
        split_each(pieces, [&](std::string_view text) {
            return parts_by(behavior, with_gaps(regex.find_all(text), text.size(), invert));
        });
    };
}

PreTokenizer sequence(const JsonPart& part) {
    std::vector<PreTokenizer> steps;
    for (const auto& step : part.list("pretokenizers")) steps.push_back(read_pre_tokenizer(step));
    return [steps = std::move(steps)](Pieces& pieces) {
        for (const auto& step : steps) step(pieces);
    };
}

PreTokenizer metaspace(const JsonPart& part) {
    const std::string scheme = part.string_or("prepend_scheme", "always");
    Prepend prepend = Prepend::always;
    if (scheme == "first")
        prepend = Prepend::first;
    else if (scheme == "never" || !part.flag_or("add_prefix_space", true))
        prepend = Prepend::never;
    else if (scheme != "always")
        part.fail("the prepend_scheme \"", scheme, "\" is not known");
    const std::string mark = part.string("replacement");
    if (mark.empty() || unicode::decode(mark, 0).bytes != mark.size())
        part.fail("the replacement must be one character");
    return metaspace_pre_tokenizer(mark, prepend, part.flag_or("split", true));
}

}  // namespace

PreTokenizer metaspace_pre_tokenizer(const std::string& mark, Prepend prepend, bool split) {
    return [mark, prepend, split](Pieces& pieces) {
        for (auto& piece : pieces) {
            if (piece.id >= 0) continue;
            piece.text = replace_all(piece.text, " ", mark);
            const bool wanted = prepend == Prepend::always || (prepend == Prepend::first && piece.at_beginning);
            if (wanted && !piece.text.starts_with(mark)) piece.text.insert(0, mark);
        }
        if (!split) return;
        const char32_t code = unicode::decode(mark, 0).code;
        split_each(pieces, [code](std::string_view text) {
            return merged_with_next(each_character(text, [code](char32_t c) { return c == code; }));
        });
    };
}

const std::string& byte_character(unsigned char byte) {
    static const auto table = [] {
        std::array<std::string, 256> out;
        char32_t next = 256;  // bytes that are not printable in Latin-1 get the characters from U+0100 on
        for (unsigned i = 0; i < 256; ++i) {
            const bool printable = (i >= 0x21 && i <= 0x7E) || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
            unicode::append(out[i], printable ? i : next++);
        }
        return out;
    }();
    return table[byte];
}

PreTokenizer byte_level_pre_tokenizer(bool add_prefix_space, bool use_regex) {
    // GPT-2: English contractions; a run of letters, digits or other signs, each with one space in front; white space.
    static const Regex words(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
                             "ByteLevel");
    return [add_prefix_space, use_regex](Pieces& pieces) {
        for (auto& piece : pieces)
            if (piece.id < 0 && add_prefix_space && !piece.text.starts_with(' '))
                piece.text.insert(piece.text.begin(), ' ');
        if (use_regex) {
            split_each(pieces, [](std::string_view text) {
                return parts_by(Behavior::isolated, with_gaps(words.find_all(text), text.size(), false));
            });
        }
        for (auto& piece : pieces) {
            if (piece.id >= 0) continue;
            std::string mapped;
            mapped.reserve(piece.text.size() + piece.text.size() / 4);
            for (const char byte : piece.text) mapped += byte_character(static_cast<unsigned char>(byte));
            piece.text = std::move(mapped);
        }
    };
}

PreTokenizer isolating_pre_tokenizer(Regex pattern) {
    return [pattern = std::move(pattern)](Pieces& pieces) {
        split_each(pieces, [&](std::string_view text) {
            return parts_by(Behavior::isolated, with_gaps(pattern.find_all(text), text.size(), false));
        });
    };
}

PreTokenizer read_pre_tokenizer(const JsonPart& part) {
    const std::string type = part.type();
    if (type == "Sequence") return sequence(part);
    if (type == "Split") return split(part);
    if (type == "Metaspace") return metaspace(part);
    if (type == "ByteLevel")
        return byte_level_pre_tokenizer(part.flag_or("add_prefix_space", true), part.flag_or("use_regex", true));
    if (type == "Digits") {
        const bool single = part.flag_or("individual_digits", false);
        return split_at_characters(unicode::is_number, single ? Behavior::isolated : Behavior::contiguous);
    }
    if (type == "Punctuation") return split_at_characters(unicode::is_punctuation, read_behavior(part, "Isolated"));
    if (type == "WhitespaceSplit") return split_at_characters(unicode::is_white_space, Behavior::removed);
    if (type == "Whitespace") return split_words();
    part.fail("the pre-tokenizer type \"", type,
              "\" is not supported; kerf knows ByteLevel, Split, Digits, Punctuation, Metaspace, Whitespace, "
              "WhitespaceSplit and Sequence");
}

}  // namespace kerf::core
