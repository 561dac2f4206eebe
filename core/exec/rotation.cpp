// SPDX-License-Identifier: Apache-2.0
#include "core/exec/rotation.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kerf::core {
namespace {

/// Inverse frequencies of a rope op, [rotary_dim / 2]; "llama3" scaling as in Llama 3.1's reference: long wavelengths
/// are divided by the factor, short ones kept, those between interpolated; "longrope" divides each by its own of
/// `factors`.
std::vector<double> inverse_frequencies(const Op& op, const std::vector<double>& factors) {
    const std::int64_t pairs = op.pairs.empty() ? op.rotary_dim / 2 : op.pairs_of;
    std::vector<double> out(static_cast<std::size_t>(pairs));
    for (std::size_t i = 0; i < out.size(); ++i) {
        double frequency = std::pow(op.theta, -double(i) / double(pairs));
        if (op.scaling.kind == RopeScaling::Kind::longrope) frequency /= factors[i];
        if (op.scaling.kind == RopeScaling::Kind::linear) frequency /= op.scaling.factor;
        if (op.scaling.kind == RopeScaling::Kind::llama3) {
            const double wavelength = 2 * std::numbers::pi / frequency;
            const double turns = double(op.scaling.original_positions) / wavelength;
            const double blend = std::clamp(
                (turns - op.scaling.low_freq_factor) / (op.scaling.high_freq_factor - op.scaling.low_freq_factor), 0.0,
                1.0);
            frequency = (1 - blend) * frequency / op.scaling.factor + blend * frequency;
        }
        out[i] = frequency;
    }
    if (op.pairs.empty()) return out;
    std::vector<double> kept;
    for (const auto pair : op.pairs) kept.push_back(out[std::size_t(pair)]);
    return kept;
}

}  // namespace

void Rotation::Table::fill(const std::vector<double>& frequencies, std::int64_t positions, double factor) {
    for (std::int64_t position = 0; position < positions; ++position) {
        for (const double frequency : frequencies) {
            // float32 angles, as the models were trained with
            const float angle = static_cast<float>(position) * static_cast<float>(frequency);
            cosine.push_back(std::cos(angle) * static_cast<float>(factor));
            sine.push_back(std::sin(angle) * static_cast<float>(factor));
        }
    }
}

Rotation::Rotation(const Op& op, std::int64_t length) {
    const RopeScaling& scaling = op.scaling;
    const bool longrope = scaling.kind == RopeScaling::Kind::longrope;
    table_.fill(inverse_frequencies(op, scaling.short_factors),
                longrope ? std::min(length, scaling.original_positions) : length, scaling.attention_factor);
    if (longrope && length > scaling.original_positions)
        long_.fill(inverse_frequencies(op, scaling.long_factors), length, scaling.attention_factor);
}

void Rotation::apply(const Op& op, Batch batch, float* values) const {
    const bool beyond = op.scaling.kind == RopeScaling::Kind::longrope && batch.length > op.scaling.original_positions;
    const Table& table = beyond ? long_ : table_;
    const std::int64_t half = op.rotary_dim / 2;
    const std::int64_t step = op.interleaved ? 2 : 1, apart = op.interleaved ? 1 : half;
    for (std::int64_t token = 0; token < batch.tokens(); ++token) {
        const float* c = table.cosine.data() + token % batch.length * half;
        const float* s = table.sine.data() + token % batch.length * half;
        for (std::int64_t head = 0; head < op.heads; ++head) {
            float* at = values + (token * op.heads + head) * op.head_dim;
            for (std::int64_t i = 0; i < half; ++i) {
                const float a = at[i * step], b = at[i * step + apart];
                at[i * step] = a * c[i] - b * s[i];
                at[i * step + apart] = b * c[i] + a * s[i];
            }
        }
    }
}

}  // namespace kerf::core
