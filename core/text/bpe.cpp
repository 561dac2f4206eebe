// SPDX-License-Identifier: Apache-2.0
#include "core/text/bpe.hpp"

#include <algorithm>
#include <limits>

#include "core/support/error.hpp"
#include "core/text/unicode.hpp"

namespace kerf::core {
namespace {

constexpr std::string_view space_mark = "\u2581";

/// Where, behind `from`, a space mark follows another character.
std::size_t next_part(std::string_view word, std::size_t from) {
    for (auto at = word.find(space_mark, from + 1); at != std::string_view::npos; at = word.find(space_mark, at + 1))
        if (!word.substr(0, at).ends_with(space_mark)) return at;
    return word.size();
}

}  // namespace

Bpe::Bpe(Vocabulary vocabulary, const std::vector<MergeRule>& merges, Options options, const std::string& where)
    : vocabulary_(std::move(vocabulary)), options_(options), bytes_(vocabulary_) {
    merges_.reserve(merges.size());
    bool mark_inside = false;
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
        const auto& [left, right] = merges[rank];
        if (left.empty() || right.empty()) bad_input(where, ": merge ", rank + 1, " has an empty part");
        const std::string whole = left + right;
        const auto left_id = vocabulary_.find(left), right_id = vocabulary_.find(right),
                   product = vocabulary_.find(whole);
        if (!left_id || !right_id || !product)
            bad_input(where, ": merge ", rank + 1, " (\"", left, "\" \"", right, "\") is about \"",
                      !left_id    ? left
                      : !right_id ? right
                                  : whole,
                      "\", which the vocabulary lacks");
        merges_[pair(*left_id, *right_id)] = {static_cast<std::int32_t>(rank), static_cast<std::int32_t>(*product)};
        mark_inside = mark_inside || next_part(whole, 0) != whole.size();
    }
    parts_at_spaces_ = !mark_inside && !options_.ignore_merges && vocabulary_.find(space_mark).has_value();
    for (std::size_t code = 0; code < short_characters_.size(); ++code) {
        std::string character;
        unicode::append(character, static_cast<char32_t>(code));
        short_characters_[code] = vocabulary_.find(character).value_or(-1);
    }
}

std::optional<std::int64_t> Bpe::character(std::string_view bytes) const {
    if (bytes.size() > 2) return vocabulary_.find(bytes);
    const auto code = unicode::decode(bytes, 0).code;
    if (code >= short_characters_.size()) return vocabulary_.find(bytes);
    const auto id = short_characters_[code];
    return id < 0 ? std::nullopt : std::optional(id);
}

void Bpe::Session::encode(std::string_view word, std::vector<std::int64_t>& out) {
    if (!model_.parts_at_spaces_) return encode_part(word, out);
    // Text of sentencepiece's kind is one endless word. Cut where no merge can reach across, it gives the same ids, and
    // the pieces repeat.
    for (std::size_t begin = 0; begin < word.size();) {
        const std::size_t end = next_part(word, begin);
        encode_part(word.substr(begin, end - begin), out);
        begin = end;
    }
}

void Bpe::Session::encode_part(std::string_view part, std::vector<std::int64_t>& out) {
    if (part.empty()) return;
    if (const auto known = known_.find(part); known != known_.end()) {
        out.insert(out.end(), known->second.begin(), known->second.end());
        return;
    }
    const std::size_t before = out.size();
    const auto whole = model_.options_.ignore_merges ? model_.vocabulary_.find(part) : std::nullopt;
    if (whole) {
        out.push_back(*whole);
    } else {
        read_symbols(part);
        merge_all();
        for (const auto& symbol : symbols_)
            if (symbol.id >= 0) out.push_back(symbol.id);
    }
    constexpr std::size_t longest_known = 256, most_known = std::size_t{1} << 20;
    if (part.size() <= longest_known && known_.size() < most_known)
        known_.emplace(part, std::vector<std::int64_t>(out.begin() + static_cast<std::ptrdiff_t>(before), out.end()));
}

void Bpe::Session::add_symbol(std::int64_t id) {
    const auto position = static_cast<std::int32_t>(symbols_.size());
    if (position > 0) symbols_.back().next = position;
    symbols_.push_back({static_cast<std::int32_t>(id), position - 1, -1});
}

void Bpe::Session::read_symbols(std::string_view part) {
    if (part.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
        bad_input("a word of ", part.size(), " bytes is too long to tokenise; split the text into files below 2 GiB");
    symbols_.clear();
    const auto& options = model_.options_;
    bool in_unknown = false;
    for (std::size_t at = 0; at < part.size();) {
        const auto bytes = part.substr(at, unicode::decode(part, at).bytes);
        at += bytes.size();
        const auto id_of = [&](char byte) { return model_.bytes_[static_cast<unsigned char>(byte)]; };
        if (const auto id = model_.character(bytes)) {
            add_symbol(*id);
            in_unknown = false;
        } else if (options.byte_fallback &&
                   std::all_of(bytes.begin(), bytes.end(), [&](char byte) { return id_of(byte) >= 0; })) {
            for (const char byte : bytes) add_symbol(id_of(byte));
            in_unknown = false;
        } else if (options.unknown) {
            if (!in_unknown || !options.fuse_unknown) add_symbol(*options.unknown);
            in_unknown = true;
        }
    }
}

void Bpe::Session::propose(std::int32_t left) {
    if (left < 0) return;
    const auto& symbol = symbols_[static_cast<std::size_t>(left)];
    if (symbol.next < 0) return;
    ++lookups_;
    const auto found = model_.merges_.find(pair(symbol.id, symbols_[static_cast<std::size_t>(symbol.next)].id));
    if (found == model_.merges_.end()) return;
    heap_.push_back({found->second.rank, left, found->second.product});
    std::push_heap(heap_.begin(), heap_.end());
}

void Bpe::Session::merge_all() {
    heap_.clear();
    for (std::size_t i = 0; i + 1 < symbols_.size(); ++i) propose(static_cast<std::int32_t>(i));
    while (!heap_.empty()) {
        std::pop_heap(heap_.begin(), heap_.end());
        const Candidate best = heap_.back();
        heap_.pop_back();
        auto& left = symbols_[static_cast<std::size_t>(best.position)];
        if (left.id < 0 || left.next < 0) continue;
        auto& right = symbols_[static_cast<std::size_t>(left.next)];
        // Proposed before a neighbour changed? Then another pair stands here, unless it makes the same token.
        ++lookups_;
        const auto still = model_.merges_.find(pair(left.id, right.id));
        if (still == model_.merges_.end() || still->second.product != best.product) continue;
        left.id = best.product;
        left.next = right.next;
        right.id = -1;
        if (left.next >= 0) symbols_[static_cast<std::size_t>(left.next)].previous = best.position;
        propose(left.previous);
        propose(best.position);
    }
}

}  // namespace kerf::core
