// SPDX-License-Identifier: Apache-2.0
#include "core/exec/positions.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/weights/tensor.hpp"

namespace kerf::core {

std::vector<double> inverse_frequencies(const Op& op, bool beyond) {
    const RopeScaling& scaling = op.scaling;
    std::vector<double> out(std::size_t(op.rotary_dim / 2));
    for (std::size_t i = 0; i < out.size(); ++i) {
        double frequency = std::pow(op.theta, -2.0 * double(i) / double(op.rotary_dim));
        if (scaling.kind == RopeScaling::Kind::longrope)
            frequency /= (beyond ? scaling.long_factors : scaling.short_factors)[i];
        if (scaling.kind == RopeScaling::Kind::linear) frequency /= scaling.factor;
        if (scaling.kind == RopeScaling::Kind::llama3) {
            const double wavelength = 2 * std::numbers::pi / frequency;
            const double turns = double(scaling.original_positions) / wavelength;
            const double blend = std::clamp(
                (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0);
            frequency = (1 - blend) * frequency / scaling.factor + blend * frequency;
        }
        out[i] = frequency;
    }
    return out;
}

std::vector<float> alibi_slopes(std::int64_t heads) {
    const double below = std::floor(std::log2(double(heads)));
    const auto slope = [](double power, double i) { return float(std::exp2(-8 * i / std::exp2(power))); };
    std::vector<float> out;
    for (std::int64_t i = 0; i < std::min(heads, std::int64_t(std::exp2(below))); ++i)
        out.push_back(slope(below, double(i + 1)));
    for (std::int64_t i = 0; std::int64_t(out.size()) < heads; ++i) out.push_back(slope(below + 1, double(2 * i + 1)));
    return out;
}

float alibi_bias(float slope, std::int64_t position) {
    float terms[2] = {slope, float(position)};
    round_to(DType::bf16, terms);
    float product[1] = {terms[0] * terms[1]};
    round_to(DType::bf16, product);
    return product[0];
}

}  // namespace kerf::core
