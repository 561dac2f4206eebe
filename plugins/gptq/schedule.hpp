// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernel.hpp"

namespace kerf::gptq {

/// One step of the column loop, the same for every panel. In this order: subtract what the errors of columns
/// [from, to) do to columns [first, last); fit the grids of the groups that start in [fit_first, fit_last); round
/// [first, last).
struct Phase {
    std::int64_t first = 0, last = 0;
    std::int64_t from = 0, to = 0;
    std::int64_t fit_first = 0, fit_last = 0;  ///< columns; equal: nothing to fit
    bool round = false;
};

/// The order of the work for `columns` columns.
/// fresh_group > 0: grids are fitted during the loop, one for each `fresh_group` columns; 0: they are there already.
/// block: columns whose updates become visible to grid fits together. With block = fresh_group (or 0) a group's grid
/// sees every update of the columns before it; with the reference's 128 and smaller groups only those of whole blocks.
/// Updates are lazy, so that each is done once, as late as possible and as part of the widest product.
class Schedule {
public:
    Schedule(std::int64_t columns, std::int64_t fresh_group, std::int64_t block)
        : columns_(columns), group_(fresh_group), applied_(static_cast<std::size_t>(columns), 0) {
        const std::int64_t width = block > 0 ? block : fresh_group > 0 ? fresh_group : piece_width;
        for (std::int64_t first = 0; first < columns; first += width)
            add_block(first, std::min(first + width, columns));
    }
    const std::vector<Phase>& phases() const { return phases_; }

private:
    void add_block(std::int64_t first, std::int64_t last) {
        const std::int64_t group_first = group_ > 0 ? (first + group_ - 1) / group_ * group_ : last;
        if (group_first < last) {
            const std::int64_t group_last = std::min(columns_, (last + group_ - 1) / group_ * group_);
            const bool one_piece = group_first == first && group_last == last && last - first <= piece_width;
            if (one_piece && uniform(first, last)) {
                phases_.push_back({first, last, at(first), first, first, last, true});
                std::fill(applied_.begin() + first, applied_.begin() + last, last);
                return;
            }
            update(first, group_last, first);
            phases_.push_back({first, first, 0, 0, group_first, last, false});
        }
        for (std::int64_t c = first; c < last;) {
            const std::int64_t end = same_until(c, last);
            phases_.push_back({c, end, at(c), c, 0, 0, true});
            c = end;
        }
    }
    /// Brings [first, last) up to the errors of all columns before `upto`.
    void update(std::int64_t first, std::int64_t last, std::int64_t upto) {
        for (std::int64_t c = first; c < last;) {
            const std::int64_t end = same_until(c, last);
            if (at(c) < upto) phases_.push_back({c, end, at(c), upto, 0, 0, false});
            std::fill(applied_.begin() + c, applied_.begin() + end, upto);
            c = end;
        }
    }
    std::int64_t at(std::int64_t c) const { return applied_[static_cast<std::size_t>(c)]; }
    bool uniform(std::int64_t first, std::int64_t last) const { return same_until(first, last) == last; }
    /// The end of the piece that starts at `first`: columns that have seen the same updates, at most piece_width.
    std::int64_t same_until(std::int64_t first, std::int64_t last) const {
        std::int64_t end = first + 1;
        while (end < last && end - first < piece_width && at(end) == at(first)) ++end;
        return end;
    }

    std::int64_t columns_, group_;
    std::vector<std::int64_t> applied_;  ///< by column: it has the updates of all columns before this one
    std::vector<Phase> phases_;
};

}  // namespace kerf::gptq
