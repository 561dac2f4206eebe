// SPDX-License-Identifier: Apache-2.0
// SlimGPT (Ling, Wang, Yu, Liu, NeurIPS 2024): heads and MLP channels go where the optimal brain surgeon's error is
// smallest, and what stays of the projections that read them makes up for it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "kerf/obs.hpp"
#include "kerf/ratio.hpp"
#include "kerf/structure.hpp"
#include "schedule.hpp"

namespace {

struct Options : kerf::RatioOptions {
    std::string schedule = "uniform";
    double min_sparsity = 0.0625, max_sparsity = 0.25;
    std::string schedule_base = "layers";
    double damp = 0.01;
    bool compensate = true;
    std::string kernel = "exact";
    std::int64_t ffn_group = 0;
    bool compatibility = false;
};

class SlimGpt final : public kerf::AxisMethod<Options> {
public:
    static constexpr kerf::Info info{"slimgpt", "1.0.0",
                                     "Structured pruning of heads and MLP channels by batched greedy OBS"};
    static constexpr auto can = kerf::Resumable;
    static constexpr auto needs = kerf::Curvature::InputGram;

    static void options(kerf::Schema<Options>& s) {
        kerf::ratio_options(s);
        s("schedule", &Options::schedule)
            .one_of({"uniform", "log_increase", "log_decrease", "linear_increase", "linear_decrease"})
            .help("how the share differs from block to block; uniform: sparsity everywhere");
        s("min_sparsity", &Options::min_sparsity).at_least(0).below(1).help("smallest share of a schedule");
        s("max_sparsity", &Options::max_sparsity).at_least(0).below(1).help("largest share of a schedule");
        s("schedule_base", &Options::schedule_base)
            .one_of({"layers", "32"})
            .help("of the logarithm: the blocks of the window, or 32 whatever their number (the original)");
        s("damp", &Options::damp).at_least(0).at_most(1).help("share of mean(diag H) added to the diagonal");
        s("compensate", &Options::compensate).help("let the weights that stay make up for those that go");
        s("kernel", &Options::kernel)
            .one_of({"exact", "reference"})
            .help("exact: the true error of a unit, channels one by one; reference: the original's scores and groups");
        s("ffn_group", &Options::ffn_group)
            .at_least(0)
            .help("channels removed between two refreshes of the scores; 0: 1 for exact, dynamic for reference");
        s("compatibility", &Options::compatibility)
            .help("decreasing schedules with minlayer > 0 as the original shifts them");
    }

    void check() const override {
        kerf::check_ratio(opt);
        if (opt.schedule != "uniform" && opt.min_sparsity > opt.max_sparsity)
            kerf::bad_value("min_sparsity = ", opt.min_sparsity, " is above max_sparsity = ", opt.max_sparsity);
    }

    kerf::AxisPlan plan(const kerf::AxisShape& axis) const override {
        kerf::AxisPlan plan;
        const auto [first, last] = kerf::layer_window(opt, axis.blocks);
        if (!kerf::takes(opt, axis)) return plan;
        const auto shares = slimgpt::ratios({opt.schedule, opt.sparsity, opt.min_sparsity, opt.max_sparsity,
                                             opt.schedule_base == "32", opt.compatibility},
                                            first, last, axis.blocks);
        plan.remove = kerf::units_of_share(axis, shares[static_cast<std::size_t>(axis.block)], opt.align);
        const std::int64_t gone = plan.remove * (axis.size > 0 ? axis.in / axis.size : 0), n = axis.in;
        // H, its factor, A; W, a copy, its transpose; what an elimination or a refit holds beside them.
        plan.scratch_bytes =
            8 * (4 * n * n + 4 * n * axis.out + std::max(gone, n - gone) * (n + axis.out + n) + axis.out);
        plan.flops = 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n + axis.out) +
                     4.0 * static_cast<double>(gone) * static_cast<double>(n) * static_cast<double>(gone + axis.out);
        return plan;
    }

    void prune(kerf::Axis& axis, kerf::Job& job) const override {
        auto consumers = axis.consumers();
        const auto gram = job.gram(consumers.front());
        auto inverse = kerf::obs::invert(gram, opt.damp, job, axis.name());
        job.metric("damp", inverse.system.damp);
        job.metric("damp_attempts", inverse.system.attempts);
        const auto before = stacked(consumers, axis.shape(), inverse.system.dead, job);
        auto w = job.matrix<double>(before.shape());
        kerf::obs::detail::copy(before, w);
        auto units = exact_columns(axis) ? columns_one_by_one(axis, w, inverse, job)
                                         : units_in_rounds(axis, w, std::move(inverse.a), job);
        std::sort(units.begin(), units.end());
        if (exact() && opt.compensate) {
            kerf::obs::detail::copy(before, w);
            kerf::obs::refit(inverse.system, kept_columns(axis, units), w.view(), job);
        }
        replace(consumers, w, job);
        axis.remove(units);
    }

private:
    bool exact() const { return opt.kernel == "exact"; }
    /// Whether the left-looking form does it: single columns, each chosen with fresh scores.
    bool exact_columns(const kerf::Axis& axis) const {
        return exact() && opt.ffn_group <= 1 && axis.shape().balanced == 1 && axis.columns()[0].size() == 1 &&
               axis.size() == axis.shape().in;
    }

    static kerf::Matrix<double> stacked(const std::vector<kerf::Linear>& consumers, const kerf::AxisShape& shape,
                                        const std::vector<std::uint8_t>& dead, const kerf::Job& job) {
        auto out = job.matrix<double>({shape.out, shape.in});
        std::int64_t row = 0;
        for (const auto& linear : consumers) {
            const auto w = linear.weight();
            for (std::int64_t r = 0; r < w.rows(); ++r, ++row)
                for (std::int64_t c = 0; c < w.columns(); ++c)
                    out(row, c) = dead[static_cast<std::size_t>(c)] ? 0.0 : static_cast<double>(w(r, c));
        }
        return out;
    }

    static void replace(std::vector<kerf::Linear>& consumers, const kerf::Matrix<double>& w, const kerf::Job& job) {
        std::int64_t row = 0;
        for (auto& linear : consumers) {
            auto made = job.matrix<float>(linear.weight().shape());
            for (std::int64_t r = 0; r < made.rows(); ++r, ++row)
                for (std::int64_t c = 0; c < made.columns(); ++c) made(r, c) = static_cast<float>(w(row, c));
            linear.replace(std::move(made));
        }
    }

    std::vector<std::int64_t> columns_one_by_one(const kerf::Axis& axis, kerf::Matrix<double>& w,
                                                 const kerf::obs::Inverse& inverse, const kerf::Job& job) const {
        std::vector<std::int64_t> unit_at(static_cast<std::size_t>(axis.size())), out;
        for (std::int64_t u = 0; u < axis.size(); ++u) unit_at[static_cast<std::size_t>(axis.columns()[u][0])] = u;
        auto turned = job.matrix<double>({w.columns(), w.rows()});
        for (std::int64_t r = 0; r < w.rows(); ++r)
            for (std::int64_t c = 0; c < w.columns(); ++c) turned(c, r) = w(r, c);
        for (const auto column : kerf::obs::greedy_columns(turned, inverse.a, axis.shape().planned, job))
            out.push_back(unit_at[static_cast<std::size_t>(column)]);
        return out;
    }

    /// Rounds of scoring and elimination. W becomes what the original makes of it.
    std::vector<std::int64_t> units_in_rounds(const kerf::Axis& axis, kerf::Matrix<double>& w, kerf::Matrix<double>&& a,
                                              const kerf::Job& job) const {
        const auto columns = axis.columns();
        const std::int64_t target = axis.shape().planned, runs = axis.shape().balanced, each = axis.size() / runs;
        auto own = job.matrix<double>(w.shape());
        kerf::obs::detail::copy(w, own);
        kerf::obs::State state(std::move(own), std::move(a), job);
        std::vector<bool> gone(static_cast<std::size_t>(axis.size()), false);
        std::vector<std::int64_t> out;
        for (const std::int64_t group : groups(axis, target)) {
            // Of balanced runs, one unit of each in turn.
            for (std::int64_t run = 0; run < runs; ++run) {
                const auto chosen = best(scores(axis, state, gone), run * each, each, group);
                std::vector<std::int64_t> s;
                for (const auto u : chosen) {
                    s.insert(s.end(), columns[u].begin(), columns[u].end());
                    gone[static_cast<std::size_t>(u)] = true;
                    out.push_back(u);
                }
                state.eliminate(s, opt.compensate || exact());
            }
        }
        if (opt.compensate) kerf::obs::detail::copy(state.weight(), w);
        return out;
    }

    /// How many units go in each round.
    std::vector<std::int64_t> groups(const kerf::Axis& axis, std::int64_t target) const {
        const std::int64_t runs = axis.shape().balanced, rounds = target / runs;
        const bool channels = axis.columns()[0].size() == 1 && runs == 1;
        if (channels && opt.ffn_group == 0 && !exact()) return slimgpt::dynamic_groups(target);
        const std::int64_t group = channels ? std::max<std::int64_t>(1, opt.ffn_group) : 1;
        std::vector<std::int64_t> out(static_cast<std::size_t>(rounds / group), group);
        if (rounds % group > 0) out.push_back(rounds % group);
        return out;
    }

    std::vector<double> scores(const kerf::Axis& axis, const kerf::obs::State& state,
                               const std::vector<bool>& gone) const {
        const auto columns = axis.columns();
        const bool single = columns[0].size() == 1;
        const auto by_column = single ? state.column_scores() : std::vector<double>();
        std::vector<double> out(gone.size(), std::numeric_limits<double>::infinity());
        for (std::size_t u = 0; u < out.size(); ++u) {
            if (gone[u]) continue;
            const auto s = columns[static_cast<std::int64_t>(u)];
            out[u] = single    ? by_column[static_cast<std::size_t>(s[0])]
                     : exact() ? state.exact_score(s)
                               : state.diagonal_score(s);
        }
        return out;
    }

    /// The `count` units of [first, first + each) with the lowest scores; ties: the lowest index first.
    static std::vector<std::int64_t> best(const std::vector<double>& score, std::int64_t first, std::int64_t each,
                                          std::int64_t count) {
        std::vector<std::int64_t> order(static_cast<std::size_t>(each));
        std::iota(order.begin(), order.end(), first);
        std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
            return score[static_cast<std::size_t>(a)] < score[static_cast<std::size_t>(b)];
        });
        order.resize(static_cast<std::size_t>(count));
        return order;
    }

    static std::vector<std::int64_t> kept_columns(const kerf::Axis& axis, const std::vector<std::int64_t>& removed) {
        std::vector<bool> stays(static_cast<std::size_t>(axis.shape().in), true);
        for (const auto u : removed)
            for (const auto c : axis.columns()[u]) stays[static_cast<std::size_t>(c)] = false;
        std::vector<std::int64_t> out;
        for (std::size_t c = 0; c < stays.size(); ++c)
            if (stays[c]) out.push_back(static_cast<std::int64_t>(c));
        return out;
    }
};

}  // namespace

KERF_PLUGIN(SlimGpt);
