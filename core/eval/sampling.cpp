// SPDX-License-Identifier: Apache-2.0
#include "core/eval/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

std::int64_t most_likely(std::span<const float> logits) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < logits.size(); ++i)
        if (logits[i] > logits[best]) best = i;
    return std::int64_t(best);
}

/// A logit that is no number means broken weights; text made from it would be noise.
void check_logits(std::span<const float> logits) {
    float sum = 0;
    for (const float value : logits) sum += value - value;  // NaN for NaN and for infinities of either sign
    if (sum == 0) return;
    for (std::size_t i = 0; i < logits.size(); ++i)
        if (std::isnan(logits[i]) || logits[i] == HUGE_VALF)
            throw Error(Fault::numeric, text("the logit of token ", i, " is ", logits[i],
                                             "; the model's weights overflow or are damaged"));
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
    // comparisons that are false for NaN
    if (!(options.temperature >= 0 && options.temperature <= 1e6))
        bad_input("temperature ", options.temperature, ": a number from 0 (greedy) to 1e6 is expected");
    if (options.top_k < 0) bad_input("top-k ", options.top_k, ": 0 (all tokens) or a number of tokens is expected");
    if (!(options.top_p > 0 && options.top_p <= 1))
        bad_input("top-p ", options.top_p, ": a number above 0 and at most 1 is expected");
    if (!(options.repetition_penalty > 0 && options.repetition_penalty <= 1e6))
        bad_input("repetition penalty ", options.repetition_penalty, ": a number above 0, at most 1e6, is expected");
}

void Sampler::penalise(std::span<const std::int64_t> seen) {
    const std::set<std::int64_t> once(seen.begin(), seen.end());
    for (const auto id : once) {
        if (id < 0 || id >= std::int64_t(candidates_.size())) continue;
        double& logit = candidates_[std::size_t(id)].logit;
        logit = logit < 0 ? logit * options_.repetition_penalty : logit / options_.repetition_penalty;
    }
}

std::int64_t Sampler::next(std::span<const float> logits, std::span<const std::int64_t> seen) {
    check_logits(logits);
    const bool greedy = options_.temperature == 0;
    if (greedy && options_.repetition_penalty == 1) return most_likely(logits);
    candidates_.resize(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) candidates_[i] = {double(logits[i]), std::int64_t(i)};
    if (options_.repetition_penalty != 1) penalise(seen);
    if (greedy)
        return std::min_element(candidates_.begin(), candidates_.end(),
                                [](const auto& a, const auto& b) {
                                    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
                                })
            ->id;
    for (auto& candidate : candidates_) candidate.logit /= options_.temperature;
    return draw();
}

std::int64_t Sampler::draw() {
    auto& all = candidates_;
    const auto likelier = [](const Candidate& a, const Candidate& b) {
        return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
    };
    // The first `sorted` are the likeliest, in order. As far as it takes: a few of a vocabulary hold what top-p asks
    // for.
    std::size_t sorted = 0;
    const auto sort_to = [&](std::size_t end) {
        const auto begin = all.begin() + std::ptrdiff_t(sorted), middle = all.begin() + std::ptrdiff_t(end);
        if (end < all.size()) std::nth_element(begin, middle, all.end(), likelier);
        std::sort(begin, middle, likelier);
        sorted = end;
    };
    if (options_.top_k > 0 && std::size_t(options_.top_k) < all.size()) {
        sort_to(std::size_t(options_.top_k));
        all.resize(sorted);
    }
    double largest = all[0].logit, total = 0;
    for (const auto& candidate : all) largest = std::max(largest, candidate.logit);
    const auto weight = [&](std::size_t i) { return std::exp(all[i].logit - largest); };
    for (std::size_t i = 0; i < all.size(); ++i) total += weight(i);
    std::size_t count = all.size();
    if (options_.top_p < 1) {
        constexpr std::size_t first = 64;
        double reached = 0;
        for (count = 0; count < all.size() && reached < options_.top_p * total; ++count) {
            if (count >= sorted) sort_to(std::min(all.size(), std::max(first, 4 * sorted)));
            reached += weight(count);
        }
        total = reached;
    }
    // 53 bits of one output: std::uniform_real_distribution differs between standard libraries.
    double point = double(random_() >> 11) * 0x1p-53 * total;
    for (std::size_t i = 0; i + 1 < count; ++i) {
        point -= weight(i);
        if (point < 0) return all[i].id;
    }
    return all[count - 1].id;
}

}  // namespace kerf::core
