// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/exec/program.hpp"

namespace kerf::core {

/// cos and sin of a rope op for every position below `length`.
class Rotation {
public:
    Rotation(const Op& op, std::int64_t length);

    /// In place on float32 [samples · length, heads · head_dim].
    void apply(const Op& op, Batch batch, float* values) const;

    /// What windows of `length` turn by: float32 [at least length, rotary_dim / 2] each, valid as long as this.
    struct Angles {
        std::span<const float> cosine, sine;
    };
    Angles angles(const Op& op, std::int64_t length) const;

private:
    /// float32 [positions, rotary_dim / 2]
    struct Table {
        std::vector<float> cosine, sine;
        void fill(const std::vector<double>& frequencies, std::int64_t positions, double factor);
    };
    Table table_;
    Table long_;  ///< longrope: of sequences beyond the original length
};

}  // namespace kerf::core
