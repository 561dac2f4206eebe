// SPDX-License-Identifier: Apache-2.0
#include "core/text/added_tokens.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text/unicode.hpp"

namespace kerf::core {
namespace {

/// Where the white space begins that ends at `end`, but not before `least`.
std::size_t space_before(std::string_view text, std::size_t end, std::size_t least) {
    while (end > least) {
        std::size_t at = end - 1;
        while (at > least && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
        if (!unicode::is_white_space(unicode::decode(text, at).code)) break;
        end = at;
    }
    return end;
}

std::size_t space_behind(std::string_view text, std::size_t at) {
    while (at < text.size()) {
        const auto [code, bytes] = unicode::decode(text, at);
        if (!unicode::is_white_space(code)) break;
        at += bytes;
    }
    return at;
}

bool word_before(std::string_view text, std::size_t at) {
    if (at == 0) return false;
    std::size_t begin = at - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    return unicode::is_word(unicode::decode(text, begin).code);
}

bool word_behind(std::string_view text, std::size_t at) {
    return at < text.size() && unicode::is_word(unicode::decode(text, at).code);
}

}  // namespace

AddedToken read_added_token(const JsonPart& part, bool special) {
    AddedToken out;
    if (part.value().is_string()) {
        out.content = part.value().get<std::string>();
        out.special = special;
        out.normalized = !special;
        return out;
    }
    out.content = part.string("content");
    out.single_word = part.flag_or("single_word", false);
    out.lstrip = part.flag_or("lstrip", false);
    out.rstrip = part.flag_or("rstrip", false);
    out.special = part.flag_or("special", special);
    out.normalized = part.flag_or("normalized", !out.special);
    return out;
}

void AddedTokens::Finder::add(const std::string& pattern, std::int64_t id) {
    if (pattern.empty()) return;
    ids[pattern] = id;
    auto& known = lengths[static_cast<unsigned char>(pattern[0])];
    const auto place = std::lower_bound(known.begin(), known.end(), pattern.size(), std::greater<>());
    if (place == known.end() || *place != pattern.size()) known.insert(place, pattern.size());
}

void AddedTokens::Finder::remove(const std::string& pattern) {
    ids.erase(pattern);
}

std::optional<std::pair<std::int64_t, std::size_t>> AddedTokens::Finder::longest_at(std::string_view text,
                                                                                    std::size_t at) const {
    for (const std::size_t length : lengths[static_cast<unsigned char>(text[at])]) {
        if (length > text.size() - at) continue;
        const auto found = ids.find(text.substr(at, length));
        if (found != ids.end()) return std::pair(found->second, length);
    }
    return std::nullopt;
}

void AddedTokens::add(const AddedToken& token, const Vocabulary& vocabulary, const Normalizer& normalizer,
                      const std::string& where) {
    constexpr std::size_t longest = 1024, most_bytes = std::size_t{4} << 20;
    if (token.content.empty()) return;
    bytes_ += token.content.size();
    if (token.content.size() > longest || bytes_ > most_bytes)
        bad_input(where, ": added tokens above ", longest, " bytes each or ", most_bytes,
                  " bytes together are refused");
    auto id = find(token.content);
    if (!id) id = vocabulary.find(token.content);
    if (!id) id = std::max(largest_id_ + 1, vocabulary.tokens());
    if (*id > Vocabulary::largest_id) bad_input(where, ": more than ", Vocabulary::largest_id, " tokens");
    if (const auto old = known_.find(*id); old != known_.end())
        (old->second.token.normalized ? normalized_ : raw_).remove(old->second.pattern);
    const bool rewritten = token.normalized && normalizer;
    const std::string pattern = rewritten ? normalizer(token.content) : token.content;
    (token.normalized ? normalized_ : raw_).add(pattern, *id);
    known_[*id] = {token, pattern};
    ids_[token.content] = *id;
    if (token.special) special_[token.content] = true;
    largest_id_ = std::max(largest_id_, *id);
}

std::optional<std::int64_t> AddedTokens::find(std::string_view content) const {
    const auto found = ids_.find(content);
    if (found == ids_.end()) return std::nullopt;
    return found->second;
}

const std::string* AddedTokens::text_of(std::int64_t id) const {
    const auto found = known_.find(id);
    return found == known_.end() ? nullptr : &found->second.pattern;
}

void AddedTokens::split_by(const Finder& finder, const Piece& piece, Pieces& out) const {
    const std::string_view text = piece.text;
    std::size_t done = 0;
    const auto plain_until = [&](std::size_t end) {
        if (done < end)
            out.push_back({std::string(text.substr(done, end - done)), -1, piece.at_beginning && done == 0});
    };
    for (std::size_t at = 0; at < text.size();) {
        const auto found = finder.longest_at(text, at);
        if (!found) {
            ++at;
            continue;
        }
        const auto [id, length] = *found;
        const auto& token = known_.at(id).token;
        std::size_t begin = at, end = at + length;
        at = end;
        if (token.single_word && (word_before(text, begin) || word_behind(text, end))) continue;
        begin = std::max(begin, done);  // behind the white space that the last one took
        end = std::max(end, done);
        if (token.lstrip) begin = space_before(text, begin, done);
        if (token.rstrip) end = space_behind(text, end);
        plain_until(begin);
        out.push_back({std::string(text.substr(begin, end - begin)), id, false});
        done = end;
    }
    plain_until(text.size());
}

Pieces AddedTokens::split(std::string_view text, const Normalizer& normalizer) const {
    Pieces raw, out;
    split_by(raw_, {std::string(text), -1, true}, raw);
    for (auto& piece : raw) {
        if (piece.id < 0 && normalizer) piece.text = normalizer(std::move(piece.text));
        if (piece.id >= 0)
            out.push_back(std::move(piece));
        else
            split_by(normalized_, piece, out);
    }
    return out;
}

}  // namespace kerf::core
