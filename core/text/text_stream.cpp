// SPDX-License-Identifier: Apache-2.0
#include "core/text/text_stream.hpp"

#include <algorithm>
#include <utility>

namespace kerf::core {
namespace {

constexpr std::string_view replacement = "\uFFFD";

/// Enough for every decoder's look at the tokens before, few enough to decode again with each new token.
constexpr std::size_t context_ids = 8;

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const std::int64_t> prompt)
    : tokenizer_(tokenizer), ids_(prompt.begin(), prompt.end()), told_(prompt.size()) {
    // special tokens have no text: as far back as it takes to have some
    std::size_t context = std::min(ids_.size(), context_ids);
    while (context < ids_.size() && decoded(ids_.size() - context, ids_.size()).empty())
        context = std::min(ids_.size(), 2 * context);
    from_ = ids_.size() - context;
}

std::string TextStream::decoded(std::size_t first, std::size_t last) const {
    return tokenizer_.decode(std::span(ids_).subspan(first, last - first), true);
}

std::string TextStream::told() {
    const std::string before = decoded(from_, told_), all = decoded(from_, ids_.size());
    std::string alone = decoded(told_, ids_.size());
    if (!alone.empty()) from_ = told_;  // else it is no context to the next
    told_ = ids_.size();
    // Bytes of no character may change how those before them read, which are told already.
    return all.starts_with(before) ? all.substr(before.size()) : alone;
}

std::string TextStream::add(std::int64_t id) {
    ids_.push_back(id);
    // U+FFFD at the end: bytes of a character that is not whole yet (or of none; then what follows shows it)
    if (decoded(from_, ids_.size()).ends_with(replacement)) return {};
    return told();
}

std::string TextStream::finish() {
    return told_ < ids_.size() ? told() : std::string();
}

std::string StopTexts::add(std::string_view piece) {
    if (stopped_) return {};
    held_ += piece;
    // the one that is complete first, as if the text came byte by byte; of several the longest
    std::size_t end = std::string::npos, begin = 0;
    for (const auto& stop : stops_) {
        const std::size_t at = held_.find(stop);
        if (at == std::string::npos || at + stop.size() > end) continue;
        begin = at + stop.size() < end ? at : std::min(begin, at);
        end = at + stop.size();
    }
    if (end != std::string::npos) {
        stopped_ = true;
        return held_.substr(0, begin);
    }
    // the longest end of the text that begins a stop text
    std::size_t keep = 0;
    for (const auto& stop : stops_)
        for (std::size_t size = std::min(held_.size(), stop.size() - 1); size > keep; --size)
            if (held_.ends_with(std::string_view(stop).substr(0, size))) keep = size;
    std::string out = held_.substr(0, held_.size() - keep);
    held_.erase(0, out.size());
    return out;
}

std::string StopTexts::finish() {
    return stopped_ ? std::string() : std::exchange(held_, {});
}

}  // namespace kerf::core
