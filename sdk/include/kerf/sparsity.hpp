// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kerf/error.hpp"

/// What methods that remove single weights share: N:M patterns, counts, and the cut below the k smallest of many
/// scores.
namespace kerf::inline v1 {

/// Of each `of` consecutive columns of a row `keep` stay; of = 0: unstructured.
struct Pattern {
    std::int64_t keep = 0, of = 0;
    bool grouped() const { return of > 0; }
};
inline constexpr std::int64_t largest_pattern = 64;

/// "unstructured" or "N:M" with 0 < N < M <= 64; anything else is a bad_value.
inline Pattern pattern_of(std::string_view text) {
    if (text == "unstructured") return {};
    Pattern made;
    const auto colon = std::min(text.find(':'), text.size());
    const auto number = [](std::string_view digits, std::int64_t& out) {
        const char* end = digits.data() + digits.size();
        const auto [stop, status] = std::from_chars(digits.data(), end, out);
        return status == std::errc() && stop == end;
    };
    if (!number(text.substr(0, colon), made.keep) || colon == text.size() || !number(text.substr(colon + 1), made.of) ||
        made.keep < 1 || made.keep >= made.of || made.of > largest_pattern)
        bad_value("pattern = \"", text.substr(0, 64),
                  "\": \"unstructured\", or \"N:M\" with 0 < N < M <= ", largest_pattern, ", for example \"2:4\"");
    return made;
}
/// Refuses a weight that the pattern does not divide.
inline void check_width(Pattern pattern, std::int64_t columns) {
    if (pattern.grouped() && columns % pattern.of != 0)
        bad_value("pattern = \"", pattern.keep, ":", pattern.of, "\" needs a multiple of ", pattern.of,
                  " columns, this weight has ", columns, "; exclude it");
}
/// How many of `total` weights go: the nearest count, halves up.
inline std::int64_t removed_of(double sparsity, std::int64_t total) {
    return static_cast<std::int64_t>(std::floor(sparsity * static_cast<double>(total) + 0.5));
}

/// A score ≥ 0 as an integer of the same order.
inline std::uint32_t rank_of(float score) {
    return std::bit_cast<std::uint32_t>(score) & 0x7FFFFFFFu;
}
/// Scores whose rank is below `rank` go, and of those that are equal to it the first ties[shard] of each shard.
struct Cut {
    std::uint32_t rank = 0;
    std::vector<std::int64_t> ties;
};

/// The cut below the k smallest of the scores ≥ 0 in `shards` spans shard(i); ties go in the order of the shards.
/// Counts digits of ranks, three passes without a sort or a copy. parallel(n, body) as in panel.hpp.
template <class Shard, class Parallel>
Cut cut_smallest(std::int64_t k, std::int64_t shards, const Shard& shard, const Parallel& parallel) {
    Cut cut{0, std::vector<std::int64_t>(static_cast<std::size_t>(shards), 0)};
    if (k <= 0) return cut;
    constexpr int starts[] = {20, 9, 0}, widths[] = {11, 11, 9};  // 31 bits: the sign is 0
    constexpr std::size_t bins = 1u << 11;
    const std::int64_t pieces = std::min<std::int64_t>(shards, 16);
    std::vector<std::int64_t> counts(static_cast<std::size_t>(pieces) * bins);
    const auto is_candidate = [&](std::uint32_t rank, int digit) {
        const int above = starts[digit] + widths[digit];
        return rank >> above == cut.rank >> above;
    };
    for (int digit = 0; digit < 3; ++digit) {
        std::fill(counts.begin(), counts.end(), 0);
        parallel(pieces, [&](std::int64_t piece) {
            std::int64_t* count = counts.data() + static_cast<std::size_t>(piece) * bins;
            for (std::int64_t i = piece * shards / pieces; i < (piece + 1) * shards / pieces; ++i)
                for (const float score : shard(i))
                    if (const auto rank = rank_of(score); is_candidate(rank, digit))
                        ++count[rank >> starts[digit] & ((1u << widths[digit]) - 1)];
        });
        std::uint32_t bin = 0;
        for (;; ++bin) {
            std::int64_t here = 0;
            for (std::int64_t piece = 0; piece < pieces; ++piece)
                here += counts[static_cast<std::size_t>(piece) * bins + bin];
            if (k <= here || bin + 1 == 1u << widths[digit]) break;
            k -= here;
        }
        cut.rank |= bin << starts[digit];
    }
    parallel(shards, [&](std::int64_t i) {
        const auto scores = shard(i);
        cut.ties[static_cast<std::size_t>(i)] =
            std::count_if(scores.begin(), scores.end(), [&](float score) { return rank_of(score) == cut.rank; });
    });
    for (auto& ties : cut.ties) k -= ties = std::min(ties, k);
    return cut;
}

}  // namespace kerf::inline v1
