// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace kerf::core {

/// How the next token is chosen from logits. In this order, as transformers does: repetition penalty, temperature,
/// top-k, top-p, one draw.
struct SamplingOptions {
    double temperature = 0;         ///< 0: always the most likely token, the one with the lowest id of equals
    std::int64_t top_k = 0;         ///< only the k most likely; 0: all
    double top_p = 1;               ///< only the most likely whose probabilities reach this sum (arXiv:1904.09751)
    double repetition_penalty = 1;  ///< logits of tokens seen before: divided by it, or multiplied when negative
                                    ///< (arXiv:1909.05858)
    std::uint64_t seed = 0;
};

/// One text's stream of choices. The same options, logits and tokens give the same choices on any machine.
class Sampler {
public:
    /// Error(input) for options out of range.
    explicit Sampler(const SamplingOptions& options);

    /// The next token; `seen`: all tokens before it, the prompt's too. Error(numeric) when a logit is NaN.
    std::int64_t next(std::span<const float> logits, std::span<const std::int64_t> seen);

private:
    struct Candidate {
        double logit;
        std::int64_t id;
    };
    void penalise(std::span<const std::int64_t> seen);
    std::int64_t draw();

    SamplingOptions options_;
    std::mt19937_64 random_;
    std::vector<Candidate> candidates_;
};

}  // namespace kerf::core
