// SPDX-License-Identifier: Apache-2.0
#include "loop.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace kerf::sparsegpt {
namespace {

std::int64_t rounded_up(std::int64_t value, std::int64_t step) {
    return (value + step - 1) / step * step;
}

/// Columns that correct each other one by one: about 16, whole strips and whole groups of the pattern.
std::int64_t step_of(Pattern pattern) {
    return rounded_up(16, std::lcm<std::int64_t>(strip_width, std::max<std::int64_t>(1, pattern.of)));
}
/// Columns that are swept at a time: about 128 of them.
std::int64_t piece_of_width(Pattern pattern) {
    const std::int64_t step = step_of(pattern);
    return std::max<std::int64_t>(1, 128 / step) * step;
}
/// Columns whose masks are chosen together; a pattern chooses on the way.
std::int64_t block_of(const Settings& settings, std::int64_t columns) {
    return settings.pattern.grouped() ? columns : std::min(settings.block_size, columns);
}

}  // namespace

WorkSizes work_sizes(const Settings& settings, Shape weight) {
    const std::int64_t columns = weight.columns, panels = Panels::count(weight);
    // Panels::quadratic packs 128 columns at a time.
    const std::int64_t widest = std::max<std::int64_t>(128, piece_of_width(settings.pattern));
    return {.panels = Panels::floats(weight),
            .packed = columns * std::min(widest, rounded_up(columns, strip_width)),
            .scores = settings.pattern.grouped() ? 0 : panels * block_of(settings, columns) * lanes,
            .masks = Panels::zero_words(weight),
            .grids = settings.quantise ? panels * ((columns + settings.group_size - 1) / settings.group_size) : 0};
}

PruningLoop::PruningLoop(const Kernel& kernel, const Settings& settings, const Problem& problem, const Work& work,
                         const Result& result, const Parallel& parallel)
    : kernel_(kernel),
      settings_(settings),
      problem_(problem),
      work_(work),
      result_(result),
      panels_({problem.weight, problem.order, problem.dead}, {work.panels, work.packed, work.masks}, kernel.subtract,
              parallel),
      loss_(static_cast<std::size_t>(panels_.count()), 0.0),
      residual_(loss_.size(), 0.0) {
    if (!settings_.quantise) return;
    group_of_.resize(static_cast<std::size_t>(columns()));
    for (std::int64_t c = 0; c < columns(); ++c)
        group_of_[static_cast<std::size_t>(c)] = static_cast<std::int32_t>(c / settings_.group_size);
}

Figures PruningLoop::run() {
    panels_.load_all(false, false);
    const double energy = panels_.quadratic(problem_.gram, false);
    if (settings_.quantise) fit_grids();
    const std::int64_t block = block_of(settings_, columns());
    for (std::int64_t first = 0; first < columns(); first += block) {
        const std::int64_t last = std::min(first + block, columns());
        if (!settings_.pattern.grouped()) {
            bring_up(first, last);
            choose_masks(first, last);
        }
        sweep_pieces(first, last, settings_.pattern.grouped() ? 0 : first);
    }
    if (settings_.quantise) store_grids();

    Figures figures;
    figures.loss = std::accumulate(loss_.begin(), loss_.end(), 0.0);
    // R = E U, so the loop has summed tr(R (H + λI) Rᵀ) already.
    const double residual = std::accumulate(residual_.begin(), residual_.end(), 0.0);
    if (energy > 0) figures.error = std::max(0.0, 2 * figures.loss - problem_.lambda * residual) / energy;
    return figures;
}

/// Columns [first, last) of panel p with nothing packed.
Piece PruningLoop::piece_of(std::int64_t p, std::int64_t first, std::int64_t last) const {
    return {.first = first,
            .last = last,
            .step = step_of(settings_.pattern),
            .panel = panels_.panel(p),
            .upper = problem_.upper.data(),
            .stride = problem_.upper.stride(),
            .packed = nullptr,
            .strip_stride = 0,
            .masks = panels_.zeros(p),
            .keep = settings_.pattern.keep,
            .of = settings_.pattern.of,
            .grid = settings_.quantise ? &settings_.grid : nullptr,
            .group_of = group_of_.data(),
            .grids = settings_.quantise ? work_.grids + p * groups() : nullptr,
            .codes = nullptr,
            .values = nullptr,
            .loss = nullptr};
}

/// All grids from the weights as they were, as the reference fits them.
void PruningLoop::fit_grids() const {
    panels_.parallel()(panels_.count(), [&](std::int64_t p) {
        for (std::int64_t g = 0; g < groups(); ++g) {
            const std::int64_t first = g * settings_.group_size,
                               last = std::min(first + settings_.group_size, columns());
            kernel_.fit(settings_.grid, panels_.panel(p) + first * lanes, last - first, work_.grids[p * groups() + g]);
        }
    });
}

/// Gives columns [first, last) what the errors of all columns before them do.
void PruningLoop::bring_up(std::int64_t first, std::int64_t last) const {
    const std::int64_t width = piece_of_width(settings_.pattern);
    for (std::int64_t c = first; c < last && first > 0; c += width) {
        const std::int64_t end = std::min(c + width, last);
        panels_.pack_upper(problem_.upper, 0, first, c, end);
        panels_.parallel()(panels_.count(),
                           [&](std::int64_t p) { panels_.subtract(p, first * strip_width, 0, first, c, end - c); });
    }
}

/// The share of the block's weights, of all rows, that costs least.
void PruningLoop::choose_masks(std::int64_t first, std::int64_t last) const {
    const std::int64_t floats = (last - first) * lanes, total = (last - first) * panels_.rows();
    const auto scores = [&](std::int64_t p) { return work_.scores + p * floats; };
    panels_.parallel()(panels_.count(), [&](std::int64_t p) {
        kernel_.score(piece_of(p, first, last), scores(p));
        for (std::int64_t i = 0; i < floats; ++i)  // no weight is there
            if (i % lanes >= panels_.rows_of(p)) scores(p)[i] = std::numeric_limits<float>::infinity();
    });
    const double share = settings_.sparsity * static_cast<double>(total);
    const std::int64_t removed = settings_.one_more ? std::min(total, static_cast<std::int64_t>(share) + 1)
                                                    : removed_of(settings_.sparsity, total);
    const Cut cut = cut_smallest(
        removed, panels_.count(),
        [&](std::int64_t p) { return std::span<const float>(scores(p), static_cast<std::size_t>(floats)); },
        panels_.parallel());
    panels_.parallel()(panels_.count(), [&](std::int64_t p) {
        std::int64_t ties = cut.ties[static_cast<std::size_t>(p)];
        for (std::int64_t i = 0; i < floats; ++i) {
            const auto rank = rank_of(scores(p)[i]);
            const bool goes = rank < cut.rank || (rank == cut.rank && ties-- > 0);
            panels_.zeros(p)[first + i / lanes] |= static_cast<std::uint32_t>(goes) << i % lanes;
        }
    });
}

/// [first, last) piece by piece; these columns have the updates of the columns before `from`.
void PruningLoop::sweep_pieces(std::int64_t first, std::int64_t last, std::int64_t from) {
    const std::int64_t width = piece_of_width(settings_.pattern);
    for (std::int64_t c = first; c < last; c += width) {
        const std::int64_t end = std::min(c + width, last);
        panels_.pack_upper(problem_.upper, from, end, c, end);
        panels_.parallel()(panels_.count(), [&](std::int64_t p) {
            panels_.subtract(p, (end - from) * strip_width, from, c - from, c, end - c);
            sweep(p, c, end, from);
        });
    }
}

void PruningLoop::sweep(std::int64_t p, std::int64_t first, std::int64_t last, std::int64_t from) {
    alignas(64) float values[widest_piece * lanes];
    alignas(64) std::uint8_t codes[widest_piece * lanes];
    alignas(64) float loss[lanes] = {};
    Piece piece = piece_of(p, first, last);
    piece.packed = work_.packed + (first - from) * strip_width;
    piece.strip_stride = (last - from) * strip_width;
    piece.codes = codes;
    piece.values = values;
    piece.loss = loss;
    kernel_.sweep(piece);
    loss_[static_cast<std::size_t>(p)] += std::accumulate(loss, loss + lanes, 0.0);
    residual_[static_cast<std::size_t>(p)] += store(p, first, last, values, codes);
}

/// A piece to its place in the result; returns Σ (w − ŵ)², columns without influence counting as weights of 0.
double PruningLoop::store(std::int64_t p, std::int64_t first, std::int64_t last, const float* values,
                          const std::uint8_t* codes) const {
    double sum = 0;
    for (std::int64_t l = 0; l < panels_.rows_of(p); ++l) {
        const std::int64_t r = p * lanes + l;
        for (std::int64_t c = first; c < last; ++c) {
            const std::int64_t at = (c - first) * lanes + l;
            const float w = problem_.dead[static_cast<std::size_t>(c)] ? 0.0f : problem_.weight(r, c);
            const double difference = static_cast<double>(w) - values[at];
            sum += difference * difference;
            if (settings_.quantise)
                result_.codes(r, c) = codes[at];
            else
                result_.values(r, c) = values[at];
        }
    }
    return sum;
}

void PruningLoop::store_grids() const {
    for (std::int64_t r = 0; r < panels_.rows(); ++r)
        for (std::int64_t g = 0; g < groups(); ++g) {
            const PanelGrid& grid = work_.grids[r / lanes * groups() + g];
            result_.scales(r, g) = grid.scale[r % lanes];
            result_.zeros(r, g) = grid.zero[r % lanes];
        }
}

}  // namespace kerf::sparsegpt
