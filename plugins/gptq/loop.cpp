// SPDX-License-Identifier: Apache-2.0
#include "loop.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "kerf/error.hpp"

namespace kerf::gptq {
namespace {

std::int64_t rounded_up(std::int64_t value, std::int64_t step) {
    return (value + step - 1) / step * step;
}

}  // namespace

WorkSizes work_sizes(const Settings& settings, Shape weight) {
    const std::int64_t groups = (weight.columns + settings.group_size - 1) / settings.group_size;
    const std::int64_t piece = std::min(piece_width, rounded_up(weight.columns, strip_width));
    return {.panels = Panels::floats(weight),
            .packed = weight.columns * piece,
            .grids = Panels::count(weight) * groups,
            .block = settings.refine > 0 ? piece * piece : 0,
            .zeros = settings.keep_zeros ? Panels::zero_words(weight) : 0};
}

ColumnLoop::ColumnLoop(const Kernel& kernel, const Settings& settings, const Problem& problem, const Work& work,
                       const Result& result, Parallel parallel)
    : kernel_(kernel),
      settings_(settings),
      problem_(problem),
      work_(work),
      result_(result),
      parallel_(std::move(parallel)),
      panels_({problem.weight, problem.order, problem.dead},
              {work.panels, work.packed, settings.keep_zeros ? work.zeros : nullptr}, kernel.subtract, parallel_),
      loss_(static_cast<std::size_t>(panels()), 0.0) {
    in_order_ = true;
    for (std::int64_t k = 0; k < columns(); ++k) in_order_ = in_order_ && original(k) == k;
    if (settings_.weighted) {
        importance_.resize(static_cast<std::size_t>(columns()));
        for (std::int64_t k = 0; k < columns(); ++k) {
            const float u = problem_.upper(k, k);
            importance_[static_cast<std::size_t>(k)] = 1.0f / (u * u);
        }
    }
    number_groups();
}

/// A run of group_size places is one group when grids are fitted in the loop. Where every such run is a group of the
/// storage order too (no ordering, or a group-aware one), it gets that group's number: then group_index is c /
/// group_size.
void ColumnLoop::number_groups() {
    const std::int64_t size = settings_.group_size;
    bool by_storage = true;
    for (std::int64_t k = 0; k < columns() && !fixed_grids(); ++k)
        by_storage = by_storage && original(k) / size == original(k / size * size) / size;
    group_of_.resize(static_cast<std::size_t>(columns()));
    group_from_.resize(static_cast<std::size_t>(columns()));
    for (std::int64_t k = 0; k < columns(); ++k) {
        const auto group = static_cast<std::int32_t>((by_storage ? original(k) : k) / size);
        group_of_[static_cast<std::size_t>(k)] = group;
        group_from_[static_cast<std::size_t>(original(k))] = group;
    }
}

/// Grids that do not wait for the loop; the panels hold the weights in storage order.
void ColumnLoop::fit_fixed_grids() const {
    std::vector<float> importance(importance_.size());
    for (std::size_t k = 0; k < importance.size(); ++k)
        importance[static_cast<std::size_t>(problem_.order[k])] = importance_[k];
    for (std::int64_t g = 0; g < groups(); ++g) {
        const std::int64_t first = g * settings_.group_size, last = std::min(first + settings_.group_size, columns());
        fit(first, last, g, importance.empty() ? nullptr : importance.data() + first);
    }
}

void ColumnLoop::fit(std::int64_t first, std::int64_t last, std::int64_t group, const float* importance) const {
    if (!settings_.per_channel) return fit_over_rows(first, last, group, importance);
    parallel_(panels(), [&](std::int64_t p) {
        kernel_.fit(settings_.grid, panel(p) + first * lanes, last - first, importance, grids(p)[group]);
    });
}

/// One grid for all rows: the same range in every lane, errors summed over panels.
void ColumnLoop::fit_over_rows(std::int64_t first, std::int64_t last, std::int64_t group,
                               const float* importance) const {
    PanelExtent all{};
    for (std::int64_t p = 0; p < panels(); ++p) widen<lanes>(panel(p) + first * lanes, last - first, all);
    std::fill_n(all.low, lanes, *std::min_element(all.low, all.low + lanes));
    std::fill_n(all.high, lanes, *std::max_element(all.high, all.high + lanes));
    settle<lanes>(settings_.grid, all);

    PanelGrid best;
    grid_over<lanes>(settings_.grid, all, 1.0f, best);
    const int steps = settings_.grid.ternary ? 0 : settings_.grid.search_steps;
    double least = INFINITY;
    for (int step = 0; step < steps; ++step) {
        PanelGrid grid;
        grid_over<lanes>(settings_.grid, all, shrink_of(settings_.grid, step), grid);
        std::vector<double> errors(static_cast<std::size_t>(panels()));
        parallel_(panels(), [&](std::int64_t p) {
            float error[lanes];
            kernel_.error_of(settings_.grid, grid, panel(p) + first * lanes, last - first, importance, error);
            errors[static_cast<std::size_t>(p)] = std::accumulate(error, error + lanes, 0.0);
        });
        const double error = std::accumulate(errors.begin(), errors.end(), 0.0);
        if (error >= least) continue;
        least = error;
        best = grid;
    }
    for (std::int64_t p = 0; p < panels(); ++p) grids(p)[group] = best;
}

void ColumnLoop::run_phase(const Phase& phase) {
    const std::int64_t depth = phase.to - phase.from, width = phase.last - phase.first;
    const std::int64_t stride = ((phase.round ? phase.last : phase.to) - phase.from) * strip_width;
    if (width > 0)
        panels_.pack_upper(problem_.upper, phase.from, phase.round ? phase.last : phase.to, phase.first, phase.last);
    const auto update = [&](std::int64_t p) { panels_.subtract(p, stride, phase.from, depth, phase.first, width); };
    const auto fit_groups = [&](const auto& fit_one) {
        for (std::int64_t c = phase.fit_first; c < phase.fit_last; c += settings_.group_size)
            fit_one(c, std::min(c + settings_.group_size, columns()), group_of_[static_cast<std::size_t>(c)],
                    importance_.empty() ? nullptr : importance_.data() + c);
    };
    if (!settings_.per_channel && phase.fit_first < phase.fit_last) {
        parallel_(panels(), update);
        fit_groups([&](auto first, auto last, auto group, const float* weight) { fit(first, last, group, weight); });
        if (phase.round) parallel_(panels(), [&](std::int64_t p) { round(phase, p); });
        return;
    }
    parallel_(panels(), [&](std::int64_t p) {
        update(p);
        fit_groups([&](auto first, auto last, auto group, const float* weight) {
            kernel_.fit(settings_.grid, panel(p) + first * lanes, last - first, weight, grids(p)[group]);
        });
        if (phase.round) round(phase, p);
    });
}

void ColumnLoop::round(const Phase& phase, std::int64_t p) {
    alignas(64) std::uint8_t codes[piece_width * lanes];
    alignas(64) float loss[lanes] = {};
    const Piece piece{.first = phase.first,
                      .last = phase.last,
                      .panel = panel(p),
                      .upper = problem_.upper.data(),
                      .stride = problem_.upper.stride(),
                      .packed = work_.packed + (phase.first - phase.from) * strip_width,
                      .strip_stride = (phase.last - phase.from) * strip_width,
                      .group_of = group_of_.data(),
                      .grids = grids(p),
                      .codes = codes,
                      .loss = loss,
                      .zeros = panels_.zeros(p)};
    kernel_.round_piece(settings_.grid, piece);
    loss_[static_cast<std::size_t>(p)] += std::accumulate(loss, loss + lanes, 0.0);
    keep(phase.first, phase.last, codes, p);
}

/// Codes [last − first][lanes] of panel p to their place in the result.
void ColumnLoop::keep(std::int64_t first, std::int64_t last, const std::uint8_t* codes, std::int64_t p) const {
    const std::int64_t top = p * lanes, count = std::min<std::int64_t>(lanes, rows() - top);
    for (std::int64_t l = 0; l < count; ++l) {
        std::uint8_t* row = result_.codes.row(top + l).data();
        for (std::int64_t k = first; k < last; ++k) row[original(k)] = codes[(k - first) * lanes + l];
    }
}

float ColumnLoop::value_of(const PanelGrid& grid, int lane, std::uint8_t code) const {
    if (settings_.grid.ternary) return code == 2 ? grid.scale[lane] : code == 0 ? grid.zero[lane] : 0.0f;
    return grid.scale[lane] * (static_cast<float>(code) - grid.zero[lane]);
}

/// ‖W − Ŵ‖² of the rows of panel p. Columns without influence count as weights of 0.
double ColumnLoop::residual(std::int64_t p) const {
    const std::int64_t top = p * lanes, count = std::min<std::int64_t>(lanes, rows() - top);
    double sum = 0;
    for (std::int64_t l = 0; l < count; ++l) {
        const float* w = problem_.weight.row(top + l).data();
        const std::uint8_t* codes = result_.codes.row(top + l).data();
        for (std::int64_t c = 0; c < columns(); ++c) {
            const auto at = static_cast<std::size_t>(c);
            const float value = value_of(grids(p)[group_from_[at]], static_cast<int>(l), codes[c]);
            const double r = static_cast<double>(problem_.dead[at] ? 0.0f : w[c]) - value;
            sum += r * r;
        }
    }
    return sum;
}

Figures ColumnLoop::run() {
    Figures figures;
    const bool whole_rows = groups() == 1 && !settings_.static_groups;
    const bool keep_dead = settings_.fit_dead && whole_rows;
    const bool has_gram = problem_.gram.data() != nullptr;
    panels_.load_all(false, keep_dead);
    if (has_gram) figures.energy = panels_.quadratic(problem_.gram, false);
    if (fixed_grids()) fit_fixed_grids();
    if (!in_order_ || keep_dead) panels_.load_all(true, false);

    const Schedule schedule(columns(), fixed_grids() ? 0 : settings_.group_size, settings_.stale_block);
    for (const Phase& phase : schedule.phases()) run_phase(phase);
    if (settings_.refine > 0) refine();

    std::vector<double> residuals(static_cast<std::size_t>(panels()));
    parallel_(panels(), [&](std::int64_t p) { residuals[static_cast<std::size_t>(p)] = residual(p); });
    figures.residual = std::accumulate(residuals.begin(), residuals.end(), 0.0);
    if (settings_.refine > 0) {
        const double undamped = panels_.quadratic(problem_.gram, true);  // the panels hold W − Ŵ
        figures.loss = 0.5 * (undamped + problem_.lambda * figures.residual);
    } else {
        figures.loss = std::accumulate(loss_.begin(), loss_.end(), 0.0);
    }
    // R = E U (§3.5), so the loop has already summed tr(R (H + λI) Rᵀ): no product with H is needed.
    const double undamped = std::max(0.0, 2 * figures.loss - problem_.lambda * figures.residual);
    if (figures.energy > 0) figures.error = undamped / figures.energy;
    store_grids();
    return figures;
}

/// The panel of W − Ŵ, in the order of the loop.
void ColumnLoop::load_residual(std::int64_t p) const {
    panels_.load(p, true, false);
    const std::int64_t top = p * lanes, count = std::min<std::int64_t>(lanes, rows() - top);
    for (std::int64_t k = 0; k < columns(); ++k) {
        const PanelGrid& grid = grids(p)[group_of_[static_cast<std::size_t>(k)]];
        float* w = panel(p) + k * lanes;
        for (std::int64_t l = 0; l < count; ++l)
            w[l] -= value_of(grid, static_cast<int>(l), result_.codes(top + l, original(k)));
    }
}

/// Sweeps of block coordinate descent on ½ tr(R (H + λI) Rᵀ): scale of a group, then its codes one by one; none of the
/// steps can raise it. Pieces are groups where they are short enough.
void ColumnLoop::refine() {
    parallel_(panels(), [&](std::int64_t p) { load_residual(p); });
    const bool by_group = !fixed_grids() && settings_.group_size <= piece_width;
    const std::int64_t width = by_group ? settings_.group_size : piece_width;
    for (int sweep = 0; sweep < settings_.refine; ++sweep) {
        for (std::int64_t first = 0; first < columns(); first += width) {
            const std::int64_t last = std::min(first + width, columns());
            panels_.pack_gram(problem_.gram, 0, columns(), first, last, true);
            for (std::int64_t r = first; r < last; ++r)
                for (std::int64_t c = first; c < last; ++c)
                    work_.block[(r - first) * (last - first) + c - first] =
                        problem_.gram(original(r), original(c)) + (r == c ? static_cast<float>(problem_.lambda) : 0.0f);
            parallel_(panels(), [&](std::int64_t p) { descend(first, last, p); });
        }
    }
}

void ColumnLoop::descend(std::int64_t first, std::int64_t last, std::int64_t p) const {
    const std::int64_t width = last - first, top = p * lanes, count = std::min<std::int64_t>(lanes, rows() - top);
    alignas(64) float gradient[piece_width * lanes];
    alignas(64) std::uint8_t codes[piece_width * lanes] = {};
    float* residual = panel(p) + first * lanes;
    std::fill_n(gradient, width * lanes, 0.0f);
    kernel_.subtract(work_.packed, columns() * strip_width, columns(), width, panel(p), gradient);
    const auto lambda = static_cast<float>(problem_.lambda);
    for (std::int64_t i = 0; i < width * lanes; ++i) gradient[i] = lambda * residual[i] - gradient[i];
    for (std::int64_t l = 0; l < count; ++l)
        for (std::int64_t k = first; k < last; ++k)
            codes[(k - first) * lanes + l] = result_.codes(top + l, original(k));
    const bool one_group = settings_.per_channel && !settings_.grid.ternary && !fixed_grids() &&
                           width == std::min(settings_.group_size, columns() - first);
    kernel_.descend(settings_.grid, {.count = width,
                                     .gram = work_.block,
                                     .gram_stride = width,
                                     .group_of = group_of_.data() + first,
                                     .grids = grids(p),
                                     .refit = one_group,
                                     .residual = residual,
                                     .gradient = gradient,
                                     .codes = codes,
                                     .zeros = panels_.zeros(p) ? panels_.zeros(p) + first : nullptr});
    keep(first, last, codes, p);
}

void ColumnLoop::store_grids() const {
    for (std::int64_t r = 0; r < rows(); ++r) {
        const PanelGrid* grid = grids(r / lanes);
        for (std::int64_t g = 0; g < groups(); ++g) {
            result_.scales(r, g) = grid[g].scale[r % lanes];
            result_.zeros(r, g) = grid[g].zero[r % lanes];
        }
    }
    for (std::int64_t c = 0; c < columns(); ++c)
        result_.group_index[static_cast<std::size_t>(c)] = group_from_[static_cast<std::size_t>(c)];
    if (!result_.values.data()) return;
    parallel_(rows(), [&](std::int64_t r) {
        for (std::int64_t c = 0; c < columns(); ++c)
            result_.values(r, c) = value_of(grids(r / lanes)[group_from_[static_cast<std::size_t>(c)]],
                                            static_cast<int>(r % lanes), result_.codes(r, c));
    });
}

}  // namespace kerf::gptq
