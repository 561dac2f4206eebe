// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kerf::core {

/// Where the units of an axis lie along one dimension of a tensor.
///
/// A unit is made of strips. In each strip, unit u has the `length` indices from
///   offset + (u / inner) · outer + (u mod inner) · stride,   and again `apart` further on, `repeat` times in all.
/// One strip says most of it: a head's rows are {offset 0, length head_dim, stride head_dim}; the gate and up rows of
/// one channel in a fused matrix of width I {length 1, stride 1, repeat 2, apart I}; a rotary pair over all heads two
/// strips with repeat = heads. `inner` is the number of units where units do not nest.
class Layout {
public:
    struct Strip {
        std::int64_t offset = 0, length = 1, stride = 1;
        std::int64_t inner = 1, outer = 0;
        std::int64_t repeat = 1, apart = 0;
    };

    Layout() = default;
    /// `unit_of[i]` is the unit that index i belongs to, or -1; every one of `units` units has an index.
    Layout(std::span<const std::int32_t> unit_of, std::int64_t units);

    /// The indices of a unit, ascending.
    std::vector<std::int64_t> indices(std::int64_t unit) const;
    /// Indices that the units have, the same number in each; 0 when they differ.
    std::int64_t per_unit() const noexcept { return per_unit_; }
    /// Empty when the units follow no such rule (nothing that kerf's own ops make); indices() knows them all the same.
    const std::vector<Strip>& strips() const noexcept { return strips_; }
    /// "64u+0…63", "u, 704+u": the unit's indices as a formula in u, for people.
    std::string formula() const;

private:
    bool fit(std::span<const std::int64_t> starts, std::span<const std::int64_t> lengths, std::int64_t units);
    void join_repeats();

    std::vector<Strip> strips_;
    std::vector<std::vector<std::int64_t>> irregular_;  // by unit, only when strips_ is empty
    std::int64_t per_unit_ = 0;
};

}  // namespace kerf::core
