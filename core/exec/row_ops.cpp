// SPDX-License-Identifier: Apache-2.0
#include "core/exec/row_ops.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "core/support/error.hpp"
#include "kernels/cpu/matvec.hpp"

namespace kerf::core::row_ops {
namespace {

/// e^x = 2^n · e^r, n = round(x / ln 2), |r| ≤ ln 2 / 2: no branch and no call, so that compilers make vectors of it.
/// The polynomial is e^r's minimax of degree 6 (Cephes' expf).
inline float exponential(float x) {
    constexpr float lowest = -87.0f, highest = 88.0f, log2_e = 1.44269504088896341f;
    constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    constexpr float round = 12582912.0f;  // 1.5 · 2^23: adding it leaves the whole part in the low bits
    x = x < lowest ? lowest : x;
    x = x > highest ? highest : x;
    const float shifted = x * log2_e + round;
    const float n = shifted - round;
    const float r = (x - n * ln2_high) - n * ln2_low;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const std::uint32_t whole = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(round);
    return p * std::bit_cast<float>((whole + 127u) << 23);
}

template <class Function>
void each(std::span<const float> in, std::span<float> out, Function function) {
    const float* from = in.data();
    float* to = out.data();
    const std::size_t size = in.size();
    for (std::size_t i = 0; i < size; ++i) to[i] = function(from[i]);
}

/// Four partial sums: one chain of float64 additions would take longer than reading the row.
template <class Term>
double sum_of(std::int64_t size, Term term) {
    double sums[4] = {};
    std::int64_t i = 0;
    for (; i + 4 <= size; i += 4)
        for (std::int64_t l = 0; l < 4; ++l) sums[l] += term(i + l);
    for (; i < size; ++i) sums[0] += term(i);
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

/// Features that a norm takes its means over, of which pruning may have left fewer: those that are gone were zero.
double counted_features(const Op& op) {
    return double(op.divisor > 0 ? op.divisor : op.rows / op.heads);
}

}  // namespace

void exponentials(std::span<float> values) {
    each(values, values, exponential);
}

void softmax(std::span<float> values) {
    if (values.empty()) return;
    float largest = values[0];
    for (const float value : values) largest = std::max(largest, value);
    for (float& value : values) value -= largest;
    exponentials(values);
    const double sum =
        sum_of(std::int64_t(values.size()), [&](std::int64_t i) { return double(values[std::size_t(i)]); });
    const float share = float(1 / sum);
    for (float& value : values) value *= share;
}

void rms_norm(const Op& op, const float* weight, std::int64_t lo, std::int64_t hi, const float* in, float* out) {
    const std::int64_t size = op.rows / op.heads;
    for (std::int64_t slice = lo * op.heads; slice < hi * op.heads; ++slice) {
        const float* x = in + slice * size;
        float* y = out + slice * size;
        const double squares = sum_of(size, [&](std::int64_t i) { return double(x[i]) * double(x[i]); });
        const float inverse = float(1 / std::sqrt(squares / counted_features(op) + op.eps));
        if (weight)
            for (std::int64_t i = 0; i < size; ++i) y[i] = x[i] * inverse * weight[i];
        else
            for (std::int64_t i = 0; i < size; ++i) y[i] = x[i] * inverse;
    }
}

void layer_norm(const Op& op, const float* weight, const float* bias, std::int64_t lo, std::int64_t hi, const float* in,
                float* out) {
    const std::int64_t size = op.rows / op.heads;
    const double counted = counted_features(op);
    for (std::int64_t slice = lo * op.heads; slice < hi * op.heads; ++slice) {
        const float* x = in + slice * size;
        float* y = out + slice * size;
        const double mean = sum_of(size, [&](std::int64_t i) { return double(x[i]); }) / counted;
        const double spread =
            sum_of(size, [&](std::int64_t i) { return (double(x[i]) - mean) * (double(x[i]) - mean); });
        // A feature that is gone was zero and lay −mean from the mean.
        const double gone = (counted - double(size)) * mean * mean;
        const double inverse = 1 / std::sqrt((spread + gone) / counted + op.eps);
        for (std::int64_t i = 0; i < size; ++i) y[i] = float((double(x[i]) - mean) * inverse);
        if (weight != nullptr)
            for (std::int64_t i = 0; i < size; ++i) y[i] *= weight[i];
        if (bias != nullptr)
            for (std::int64_t i = 0; i < size; ++i) y[i] += bias[i];
    }
}

void rope(const Op& op, const float* cosine, const float* sine, std::int64_t lo, std::int64_t hi, const float* in,
          float* out) {
    const std::int64_t half = op.rotary_dim / 2;
    const std::int64_t step = op.interleaved ? 2 : 1, apart = op.interleaved ? 1 : half;
    for (std::int64_t row = lo; row < hi; ++row) {
        const float *c = cosine + row * half, *s = sine + row * half;
        for (std::int64_t head = 0; head < op.heads; ++head) {
            const float* x = in + (row * op.heads + head) * op.head_dim;
            float* y = out + (row * op.heads + head) * op.head_dim;
            for (std::int64_t i = 0; i < half; ++i) {
                const float a = x[i * step], b = x[i * step + apart];
                y[i * step] = a * c[i] - b * s[i];
                y[i * step + apart] = b * c[i] + a * s[i];
            }
            std::copy(x + op.rotary_dim, x + op.head_dim, y + op.rotary_dim);
        }
    }
}

void split(const Op& op, std::size_t index, std::int64_t lo, std::int64_t hi, const float* in, float* out) {
    const std::int64_t run = std::accumulate(op.sizes.begin(), op.sizes.end(), std::int64_t{0}) / op.groups;
    std::int64_t before = 0;
    for (std::size_t i = 0; i < index; ++i) before += op.sizes[i] / op.groups;
    const std::int64_t size = op.sizes[index] / op.groups;
    for (std::int64_t group = lo * op.groups; group < hi * op.groups; ++group)
        std::copy_n(in + group * run + before, size, out + group * size);
}

void route(const Op& op, std::int64_t lo, std::int64_t hi, const float* logits, float* routing) {
    std::vector<float> shares(std::size_t(op.experts));
    std::vector<std::int64_t> order(shares.size());
    for (std::int64_t row = lo; row < hi; ++row) {
        std::copy_n(logits + row * op.experts, op.experts, shares.begin());
        softmax(shares);
        std::iota(order.begin(), order.end(), std::int64_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](auto a, auto b) { return shares[std::size_t(a)] > shares[std::size_t(b)]; });
        order.resize(std::size_t(op.top_k));
        double chosen = 0;
        for (const auto expert : order) chosen += double(shares[std::size_t(expert)]);
        float* to = routing + row * op.experts;
        std::fill_n(to, op.experts, 0.0f);
        for (const auto expert : order)
            to[expert] =
                op.normalize ? float(double(shares[std::size_t(expert)]) / chosen) : shares[std::size_t(expert)];
        order.resize(shares.size());
    }
}

void activate(ActivationKind kind, std::span<const float> in, std::span<float> out) {
    switch (kind) {
        case ActivationKind::silu:
            each(in, out, [](float x) { return x / (1 + exponential(-x)); });
            return;
        case ActivationKind::gelu:
            each(in, out, [](float x) { return 0.5f * x * (1 + std::erf(x * 0.70710678118654752f)); });
            return;
        case ActivationKind::gelu_new:
        case ActivationKind::gelu_tanh:
            // 0.5 (1 + tanh u) = 1 / (1 + e^(−2u))
            each(in, out, [](float x) {
                const float u = 0.79788456080286536f * (x + 0.044715f * x * x * x);
                return x / (1 + exponential(-2 * u));
            });
            return;
        case ActivationKind::relu:
            each(in, out, [](float x) { return x < 0 ? 0 : x; });
            return;
        case ActivationKind::quick_gelu:
            each(in, out, [](float x) { return x / (1 + exponential(-1.702f * x)); });
            return;
    }
    internal_error("unknown activation");
}

void scale(double value, std::span<const float> in, std::span<float> out) {
    each(in, out, [factor = float(value)](float x) { return x * factor; });
}

void softcap(double value, std::span<const float> in, std::span<float> out) {
    // tanh u = 1 − 2 / (1 + e^(2u)): its error is one of the cap's last places, as the cap's own rounding is
    const float cap = float(value), twice = float(2 / value);
    each(in, out, [=](float x) { return cap * (1 - 2 / (1 + exponential(x * twice))); });
}

std::vector<std::int64_t> rows_of(const float* routing, std::int64_t rows, std::int64_t experts, std::int64_t expert) {
    std::vector<std::int64_t> out;
    for (std::int64_t row = 0; row < rows; ++row)
        if (routing[row * experts + expert] != 0) out.push_back(row);
    return out;
}

}  // namespace kerf::core::row_ops
