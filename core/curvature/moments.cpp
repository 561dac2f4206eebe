// SPDX-License-Identifier: Apache-2.0
#include "core/curvature/moments.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "kerf/abi.h"
#include "kernels/cpu/gram_bf16.hpp"

namespace kerf::core {
namespace {

constexpr std::int64_t dense_chunk = 512;  ///< tokens that are widened to float64 at a time

std::vector<double> widened(const float* rows, std::int64_t count) {
    return {rows, rows + count};
}

std::vector<float> scaled(const std::vector<double>& sums, std::int64_t tokens) {
    std::vector<float> out(sums.size());
    for (std::size_t i = 0; i < sums.size(); ++i) out[i] = static_cast<float>(sums[i] / double(tokens));
    return out;
}

std::size_t square(std::int64_t n) {
    return std::size_t(n) * std::size_t(n);
}

}  // namespace

MomentAccumulator::MomentAccumulator(std::string input_name, std::int64_t features, std::uint64_t needs)
    : name_(std::move(input_name)), features_(features), needs_(needs) {
    if (wants(KERF_NEEDS_INPUT_GRAM))
        gram_.emplace(name_, features);
    else if (wants(KERF_NEEDS_INPUT_DIAGONAL))
        diagonal_.resize(std::size_t(features));
    if (wants(KERF_NEEDS_INPUT_MEAN)) mean_.resize(std::size_t(features));
    if (wants(KERF_NEEDS_DENSE_GRAM)) dense_gram_.resize(square(features));
}

bool MomentAccumulator::wants_rows() const {
    return !diagonal_.empty() || !mean_.empty() || !dense_gram_.empty();
}

void MomentAccumulator::add(const float* x, const float* dense, std::int64_t tokens) {
    if (gram_) gram_->add(x, tokens);
    add_rows(x, dense, tokens);
}

void MomentAccumulator::add_bf16(const std::uint16_t* x, const std::uint16_t* dense, std::int64_t tokens) {
    if (gram_) gram_->add_bf16(x, tokens);
    std::vector<float> rows, dense_rows;
    const auto widen = [&](const std::uint16_t* from, std::vector<float>& to) {
        to.resize(std::size_t(tokens * features_));
        kernels::widen_bf16(from, to.data(), tokens * features_);
    };
    if (wants_rows()) widen(x, rows);
    if (!dense_gram_.empty()) widen(dense, dense_rows);
    add_rows(rows.data(), dense_rows.data(), tokens);
}

void MomentAccumulator::add_rows(const float* x, const float* dense, std::int64_t tokens) {
    // 64 columns, a few cache lines of each row, are one thread's.
    parallel_for(wants_rows() ? features_ : 0, 64, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t t = 0; t < tokens; ++t)
            for (std::int64_t j = lo; j < hi; ++j) {
                const double value = double(x[t * features_ + j]);
                if (!diagonal_.empty()) diagonal_[std::size_t(j)] += value * value;
                if (!mean_.empty()) mean_[std::size_t(j)] += value;
            }
    });
    check_diagonal(x, tokens);
    for (std::int64_t first = 0; !dense_gram_.empty() && first < tokens; first += dense_chunk) {
        const std::int64_t here = std::min(dense_chunk, tokens - first), n = features_;
        const auto current = widened(x + first * n, here * n), uncompressed = widened(dense + first * n, here * n);
        linalg::gemm(true, false, n, n, here, 1.0, uncompressed.data(), n, current.data(), n, 1.0, dense_gram_.data(),
                     n);
    }
    tokens_ += tokens;
}

/// As in the Gram matrix, a value that is not finite makes the sum of its squares so.
void MomentAccumulator::check_diagonal(const float* x, std::int64_t tokens) const {
    for (std::size_t j = 0; j < diagonal_.size(); ++j) {
        if (std::isfinite(diagonal_[j])) continue;
        for (std::int64_t t = 0; t < tokens; ++t)
            if (const float value = x[t * features_ + std::int64_t(j)]; !std::isfinite(value))
                throw Error(Fault::numeric,
                            text(name_, ": the activation of calibration token ", tokens_ + t, ", feature ", j, " is ",
                                 value, "; look for NaN or very large weights in the layers before it"));
    }
}

double MomentAccumulator::flops_a_token(std::int64_t features, std::uint64_t needs) {
    const double n = double(features);
    double sum = 0;
    if (needs & KERF_NEEDS_INPUT_GRAM)
        sum += n * n;
    else if (needs & KERF_NEEDS_INPUT_DIAGONAL)
        sum += 2 * n;
    if (needs & KERF_NEEDS_INPUT_MEAN) sum += n;
    if (needs & KERF_NEEDS_DENSE_GRAM) sum += 2 * n * n;
    return sum;
}

std::uint64_t MomentAccumulator::memory(std::int64_t features, std::uint64_t needs) {
    const auto n = std::uint64_t(features);
    std::uint64_t sum = (needs & KERF_NEEDS_INPUT_GRAM) ? GramAccumulator::memory(features) : 8 * n;
    if (needs & KERF_NEEDS_INPUT_MEAN) sum += 8 * n;
    if (needs & KERF_NEEDS_DENSE_GRAM) sum += 8 * n * n + 24 * n * dense_chunk;
    return needs == 0 ? 0 : sum;
}

std::uint64_t MomentAccumulator::result_memory(std::int64_t features, std::uint64_t needs) {
    const auto n = std::uint64_t(features);
    return ((needs & KERF_NEEDS_INPUT_GRAM) ? 4 * n * n : 0) + ((needs & KERF_NEEDS_DENSE_GRAM) ? 4 * n * n : 0) +
           8 * n;
}

InputMoments MomentAccumulator::finish() {
    InputMoments out;
    if (gram_) out.gram = gram_->finish();
    if (tokens_ == 0)
        bad_input(name_,
                  ": no calibration token reached this input; check the samples and the length of [calibration]");
    gram_.reset();
    out.diagonal = scaled(std::exchange(diagonal_, {}), tokens_);
    out.mean = scaled(std::exchange(mean_, {}), tokens_);
    out.dense_gram = scaled(std::exchange(dense_gram_, {}), tokens_);
    return out;
}

InputMoments MomentAccumulator::unknown(std::int64_t features, std::uint64_t needs) {
    const auto n = std::size_t(features);
    std::vector<float> identity(square(features));
    for (std::size_t i = 0; i < n; ++i) identity[i * n + i] = 1;
    InputMoments out;
    if (needs & KERF_NEEDS_INPUT_GRAM) out.gram = identity;
    if (needs & KERF_NEEDS_DENSE_GRAM) out.dense_gram = identity;
    if (needs & KERF_NEEDS_INPUT_MEAN) out.mean.resize(n);
    out.diagonal.assign(n, 1.0f);
    return out;
}

}  // namespace kerf::core
