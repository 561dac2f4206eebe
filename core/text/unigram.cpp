// SPDX-License-Identifier: Apache-2.0
#include "core/text/unigram.hpp"

#include <algorithm>
#include <cmath>

#include "core/support/error.hpp"
#include "core/text/unicode.hpp"

namespace kerf::core {
namespace {

constexpr std::size_t longest_piece = 1024;  // bytes; trainers stop at 16 characters

Vocabulary checked(const std::vector<Unigram::Piece>& pieces, const std::string& where) {
    Vocabulary out;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        const auto& [text, score] = pieces[i];
        if (text.empty() || text.size() > longest_piece)
            bad_input(where, ": piece ", i, " has ", text.size(), " bytes, which is not between 1 and ", longest_piece);
        if (!std::isfinite(score)) bad_input(where, ": the score of the piece \"", text, "\" is no finite number");
        out.add(text, static_cast<std::int64_t>(i), where);
    }
    if (pieces.empty()) bad_input(where, ": the vocabulary is empty");
    return out;
}

}  // namespace

Unigram::Unigram(const std::vector<Piece>& pieces, Options options, const std::string& where)
    : vocabulary_(checked(pieces, where)), options_(options), bytes_(vocabulary_) {
    if (options_.unknown && (*options_.unknown < 0 || *options_.unknown >= vocabulary_.tokens()))
        bad_input(where, ": the unknown token has id ", *options_.unknown, ", but there are ", pieces.size(),
                  " pieces");
    scores_.reserve(pieces.size());
    for (const auto& piece : pieces) scores_.push_back(piece.second);
    constexpr double penalty = 10;  // of sentencepiece: an unknown character is this much worse than the worst piece
    unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - penalty;
    build_tree();
}

void Unigram::build_tree() {
    struct Open {
        std::size_t begin, end, depth;  // the pieces, sorted, that share their first `depth` bytes
        std::int32_t branch;
    };
    std::vector<std::int32_t> order(scores_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
    const auto text_of = [&](std::size_t i) -> const std::string& { return *vocabulary_.token(order[i]); };
    std::sort(order.begin(), order.end(),
              [&](std::int32_t a, std::int32_t b) { return *vocabulary_.token(a) < *vocabulary_.token(b); });
    branches_.emplace_back();
    std::vector<Open> open{{0, order.size(), 0, 0}};
    for (std::size_t next = 0; next < open.size(); ++next) {  // level by level: no recursion, whatever the pieces
        auto [begin, end, depth, branch] = open[next];
        if (begin < end && text_of(begin).size() == depth)
            branches_[static_cast<std::size_t>(branch)].piece = order[begin++];
        branches_[static_cast<std::size_t>(branch)].first = static_cast<std::int32_t>(edges_.size());
        while (begin < end) {
            const char byte = text_of(begin)[depth];
            std::size_t stop = begin + 1;
            while (stop < end && text_of(stop)[depth] == byte) ++stop;
            const auto child = static_cast<std::int32_t>(branches_.size());
            branches_.emplace_back();
            edges_.push_back({static_cast<unsigned char>(byte), child});
            ++branches_[static_cast<std::size_t>(branch)].children;
            open.push_back({begin, stop, depth + 1, child});
            begin = stop;
        }
    }
    roots_.fill(-1);
    for (std::int32_t i = 0; i < branches_[0].children; ++i) {
        const auto& edge = edges_[static_cast<std::size_t>(i)];
        roots_[edge.byte] = edge.branch;
    }
}

std::int32_t Unigram::child(std::int32_t branch, unsigned char byte) const {
    const auto& from = branches_[static_cast<std::size_t>(branch)];
    const auto begin = edges_.begin() + from.first, end = begin + from.children;
    const auto found = std::lower_bound(begin, end, byte, [](const Edge& e, unsigned char b) { return e.byte < b; });
    return found != end && found->byte == byte ? found->branch : -1;
}

/// From the best way to end at `begin` to every place that a piece from there leads to.
void Unigram::Session::extend(std::string_view word, std::size_t begin) {
    const double so_far = nodes_[begin].score;
    const auto reach = [&](std::size_t end, double score, std::int64_t id) {
        auto& node = nodes_[end];
        if (node.begin == none || score > node.score) node = {score, id, begin};
    };
    const std::size_t character = unicode::decode(word, begin).bytes;
    bool covered = false;
    std::int32_t branch = model_.roots_[static_cast<unsigned char>(word[begin])];
    for (std::size_t end = begin + 1; branch >= 0; ++end) {
        ++steps_;
        if (const auto piece = model_.branches_[static_cast<std::size_t>(branch)].piece; piece >= 0) {
            reach(end, model_.scores_[static_cast<std::size_t>(piece)] + so_far, piece);
            covered = covered || end - begin == character;
        }
        if (end == word.size()) break;
        branch = model_.child(branch, static_cast<unsigned char>(word[end]));
    }
    if (covered) return;
    if (!model_.options_.unknown)
        bad_input("the tokenizer has no piece for \"", word.substr(begin, character),
                  "\" and no token for unknown characters (unk_id)");
    reach(begin + character, model_.unknown_score_ + so_far, *model_.options_.unknown);
}

void Unigram::Session::emit(std::string_view text, std::vector<std::int64_t>& out) {
    if (const auto id = model_.vocabulary_.find(text))
        out.push_back(*id);
    else if (!model_.options_.byte_fallback || !model_.bytes_.spell(text, out))
        out.push_back(*model_.options_.unknown);
}

void Unigram::Session::encode(std::string_view word, std::vector<std::int64_t>& out) {
    if (word.empty()) return;
    nodes_.assign(word.size() + 1, {});
    for (std::size_t at = 0; at < word.size(); at += unicode::decode(word, at).bytes) extend(word, at);
    parts_.clear();
    std::size_t unknown_end = 0;  // of a run of unknown characters, which is one token; 0: none
    const auto flush = [&](std::size_t begin) {
        if (unknown_end != 0) parts_.push_back(word.substr(begin, unknown_end - begin));
        unknown_end = 0;
    };
    for (std::size_t end = word.size(); end > 0; end = nodes_[end].begin) {
        const auto& node = nodes_[end];
        if (node.id == model_.options_.unknown) {
            if (unknown_end == 0) unknown_end = end;
            continue;
        }
        flush(end);
        parts_.push_back(word.substr(node.begin, end - node.begin));
    }
    flush(0);
    for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) emit(*part, out);
}

}  // namespace kerf::core
