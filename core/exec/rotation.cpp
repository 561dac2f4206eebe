// SPDX-License-Identifier: Apache-2.0
#include "core/exec/rotation.hpp"

#include <algorithm>
#include <cmath>

#include "core/exec/positions.hpp"

namespace kerf::core {

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
    table_.fill(inverse_frequencies(op, false), longrope ? std::min(length, scaling.original_positions) : length,
                scaling.attention_factor);
    if (longrope && length > scaling.original_positions)
        long_.fill(inverse_frequencies(op, true), length, scaling.attention_factor);
}

Rotation::Angles Rotation::angles(const Op& op, std::int64_t length) const {
    const bool beyond = op.scaling.kind == RopeScaling::Kind::longrope && length > op.scaling.original_positions;
    const Table& table = beyond ? long_ : table_;
    return {table.cosine, table.sine};
}

void Rotation::apply(const Op& op, Batch batch, float* values) const {
    const auto [cosine, sine] = angles(op, batch.length);
    const std::int64_t half = op.rotary_dim / 2;
    const std::int64_t step = op.interleaved ? 2 : 1, apart = op.interleaved ? 1 : half;
    for (std::int64_t token = 0; token < batch.tokens(); ++token) {
        const float* c = cosine.data() + token % batch.length * half;
        const float* s = sine.data() + token % batch.length * half;
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
