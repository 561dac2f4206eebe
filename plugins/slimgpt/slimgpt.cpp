// SPDX-License-Identifier: Apache-2.0
// SlimGPT (Ling, Wang, Yu, Liu, NeurIPS 2024): heads and MLP channels go where the optimal brain surgeon's error is
// smallest, and what stays of the projections that read them makes up for it.
#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "choice.hpp"
#include "kerf/allocation.hpp"
#include "kerf/obs.hpp"
#include "kerf/structure.hpp"
#include "options.hpp"

namespace {

using slimgpt::Options;

class SlimGpt final : public kerf::AxisMethod<Options> {
public:
    static constexpr kerf::Info info{"slimgpt", "1.0.0",
                                     "Structured pruning of heads and MLP channels by batched greedy OBS"};
    static constexpr auto can = kerf::Resumable;
    static constexpr auto needs = kerf::Curvature::InputGram;

    static void options(kerf::Schema<Options>& s) { slimgpt::describe(s); }
    void check() const override { slimgpt::check(opt); }

    kerf::Curvature needs_now() const {
        auto out = needs;
        if (opt.bias_refit) out = out | kerf::Curvature::InputMean;
        if (opt.dense_target()) out = out | kerf::Curvature::DenseGram;
        if (opt.gqa == "expand") out = out | kerf::Curvature::OwnKeys;
        return out;
    }

    kerf::AxisPlan plan(const kerf::AxisShape& axis) const override {
        kerf::AxisPlan out;
        plan_all({&axis, 1}, {&out, 1});
        return out;
    }

    void plan_all(std::span<const kerf::AxisShape> axes, std::span<kerf::AxisPlan> plans) const override {
        for (const auto& axis : axes)
            if (kerf::takes(opt, axis)) kerf::check_align(opt, axis);
        const slimgpt::Shares shares(opt, axes);
        bool asked = false, possible = false, biased = false;
        for (std::size_t i = 0; i < axes.size(); ++i) {
            if (!kerf::takes(opt, axes[i])) continue;
            const double share = shares[axes[i].block];
            if (opt.strict && opt.budget == 0 && kerf::units_wanted(axes[i], share) > kerf::most_units(axes[i]))
                kerf::bad_value(axes[i].name, ": ", kerf::units_wanted(axes[i], share), " of ", axes[i].size,
                                " units would go (a share of ", share, "), of which ", axes[i].keep, " must stay");
            plans[i] = opt.by_error() && share > 0 && kerf::most_units(axes[i]) > 0
                           ? plan_survey(axes[i], shares.units(axes[i]))
                           : plan_units(axes[i], shares.units(axes[i]));
            asked = asked || share > 0;
            possible = possible || kerf::most_units(axes[i]) > 0;
            biased = biased || axes[i].biased > 0;
        }
        if (opt.by_error()) fill_to_budget(axes, plans);
        if (asked && !possible)
            kerf::bad_value("nothing can go: every ", opt.modules == "attn" ? "attention" : "axis",
                            " of the model has one unit left, which must stay; use other modules, or a share of 0");
        if (asked && opt.bias_refit && !biased)
            kerf::bad_value(
                "bias_refit = true, but none of the projections that read what is pruned has a bias; "
                "leave it out");
    }

    void prune(kerf::Axis& axis, kerf::Job& job) const override {
        warn_of_cut_share(axis, job);
        auto consumers = axis.consumers();
        auto inverse = inverted(axis, consumers.front(), job);
        job.metric("damp", inverse.system.damp);
        job.metric("damp_attempts", inverse.system.attempts);
        const auto before = stacked(consumers, axis.shape(), inverse.system.dead, job);
        auto w = job.matrix<double>(before.shape());
        kerf::obs::detail::copy(before, w, job);
        const slimgpt::Choice choice(opt, axis, axis.shape().planned, job);
        const auto units = choice.run(w, inverse.a);
        const bool bias = opt.bias_refit && axis.shape().biased == static_cast<std::int64_t>(consumers.size());
        if (opt.refits()) {  // W is as it was
            const auto [removed, kept] = columns_of(axis, units);
            if (choice.keeps_inverse() && !bias && !opt.dense_target() && removed.size() <= kept.size())
                kerf::obs::remove(removed, inverse.a, w, job);
            else
                fit(inverse.system, consumers.front(), kept, bias, w, job);
        }
        replace(consumers, before, w, bias, job);
        axis.remove(units);
    }

    /// Errors of the exact kernel's greedy choice, whichever will make it in the end.
    kerf::AxisCurve survey(kerf::Axis& axis, kerf::Job& job) const override {
        Options exact = opt;
        exact.kernel = "exact";
        exact.ffn_group = exact.swaps = 0;
        const auto consumers = axis.consumers();
        auto inverse = inverted(axis, consumers.front(), job);
        auto w = stacked(consumers, axis.shape(), inverse.system.dead, job);
        const double whole = opt.relative_to == "stream" && axis.shape().stream > 0
                                 ? axis.shape().stream
                                 : quadratic(w, inverse.system.h, job);
        kerf::AxisCurve curve;
        curve.units = slimgpt::possible_counts(opt, axis.shape());
        const auto errors = slimgpt::Choice(exact, axis, curve.units.back(), job).errors(w, inverse.a);
        for (const auto count : curve.units) {
            const double error =
                errors[static_cast<std::size_t>(count / std::max<std::int64_t>(1, axis.shape().balanced))];
            curve.costs.push_back(whole > 0 ? opt.weight * error / whole : 0);
        }
        return curve;
    }

    std::vector<std::int64_t> allocate(std::span<const kerf::SurveyedAxis> axes) const override {
        std::vector<kerf::Bidder> bidders;
        std::int64_t most = 0, fixed = 0;
        for (const auto& axis : axes) {
            bidders.push_back({axis.curve, axis.shape.unit_parameters});
            if (axis.curve.empty())
                fixed += std::max<std::int64_t>(0, axis.shape.planned) * axis.shape.unit_parameters;
            else
                most += axis.curve.units.back() * axis.shape.unit_parameters;
        }
        const double all = axes.empty() ? 0 : static_cast<double>(axes[0].shape.linear_parameters);
        const auto budget = static_cast<std::int64_t>(std::nearbyint(opt.budget * all));
        if (fixed + most < budget)
            kerf::bad_value("budget = ", opt.budget, ": at most ", static_cast<double>(fixed + most) / all,
                            " of the blocks' linear parameters can go with these options and overrides");
        return kerf::allocate(bidders, std::max<std::int64_t>(0, budget - fixed));
    }

private:
    /// How many units of which axis will go is not known, but how many parameters in all: what a share of each axis
    /// rounds to is made good unit by unit, so that the plan's size is that of the result.
    void fill_to_budget(std::span<const kerf::AxisShape> axes, std::span<kerf::AxisPlan> plans) const {
        std::int64_t missing = 0;
        for (std::size_t i = 0; i < axes.size(); ++i)
            missing -= std::max<std::int64_t>(0, plans[i].remove) * axes[i].unit_parameters;
        if (!axes.empty())
            missing +=
                static_cast<std::int64_t>(std::nearbyint(opt.budget * static_cast<double>(axes[0].linear_parameters)));
        for (bool changed = true; changed;) {
            changed = false;
            for (std::size_t i = 0; i < axes.size(); ++i) {
                if (!plans[i].survey.wanted || axes[i].kind != kerf::AxisKind::mlp) continue;
                const std::int64_t step = std::max<std::int64_t>(1, opt.align), size = step * axes[i].unit_parameters;
                const std::int64_t way = missing >= size ? step : missing < 0 ? -step : 0;
                if (way == 0 || plans[i].remove + way < 0 || plans[i].remove + way > kerf::most_units(axes[i]))
                    continue;
                plans[i].remove += way;
                missing -= way * axes[i].unit_parameters;
                changed = true;
            }
        }
    }

    /// Any number of units may go in the end.
    kerf::AxisPlan plan_survey(const kerf::AxisShape& axis, std::int64_t units) const {
        const std::int64_t n = axis.in, most = kerf::most_units(axis) * (axis.size > 0 ? n / axis.size : 0);
        kerf::AxisPlan plan = plan_units(axis, units);
        plan.scratch_bytes =
            std::max(plan_units(axis, 0).scratch_bytes, plan_units(axis, kerf::most_units(axis)).scratch_bytes);
        plan.survey.wanted = true;
        // H, A, WᵀW and room; W, its product with H, the copy that is eliminated; the path of the columns.
        plan.survey.scratch_bytes = 8 * (4 * n * n + 4 * n * axis.out + 2 * most * n + axis.out + n);
        const double width = static_cast<double>(n), rows = static_cast<double>(axis.out),
                     gone = static_cast<double>(most);
        plan.survey.flops = 2 * width * width * (width + rows) + 4 * gone * gone * width;
        return plan;
    }

    /// tr(W H Wᵀ)
    static double quadratic(const kerf::Matrix<double>& w, const kerf::Matrix<double>& h, const kerf::Job& job) {
        auto product = job.matrix<double>(w.shape());
        job.linalg().gemm(kerf::Transpose::no, kerf::Transpose::no, 1, w, h, 0, product.view());
        double sum = 0;
        for (std::int64_t r = 0; r < w.rows(); ++r)
            for (std::int64_t c = 0; c < w.columns(); ++c) sum += product(r, c) * w(r, c);
        return sum;
    }

    kerf::AxisPlan plan_units(const kerf::AxisShape& axis, std::int64_t units) const {
        kerf::AxisPlan plan;
        plan.remove = units;
        const std::int64_t gone = units * (axis.size > 0 ? axis.in / axis.size : 0), n = axis.in;
        const std::int64_t squares = 4 + (opt.swaps > 0 ? 2 : 0) + (opt.dense_target() ? 1 : 0);
        // H, A, WᵀW, the part of H that a refit solves; W, copies of it; what an elimination, an exchange or a refit
        // holds beside them.
        plan.scratch_bytes =
            8 * (squares * n * n + 4 * n * axis.out + std::max(gone, n - gone) * (n + axis.out + n) + axis.out + n);
        const double width = static_cast<double>(n), rows = static_cast<double>(axis.out);
        const double tries = static_cast<double>(std::min(opt.swaps, opt.swaps > 0 ? units : 0));
        plan.flops = 2 * width * width * (width + rows) +
                     4 * static_cast<double>(gone) * width * static_cast<double>(gone + axis.out) +
                     6 * tries * width * (width + rows);
        return plan;
    }

    /// A share so large that nothing would be left takes all but what must stay.
    void warn_of_cut_share(const kerf::Axis& axis, const kerf::Job& job) const {
        if (opt.budget > 0) return;
        const auto& shape = axis.shape();
        const double share = slimgpt::Shares(opt, {&shape, 1})[shape.block];
        if (kerf::units_wanted(shape, share) <= kerf::most_units(shape)) return;
        std::ostringstream text;
        text << axis.name() << ": a share of " << share << " would take " << kerf::units_wanted(shape, share) << " of "
             << shape.size << " units, but " << std::max(shape.keep, shape.balanced) << " must stay; " << shape.planned
             << " go";
        job.log(kerf::Level::warn, text.str());
    }

    /// Least squares over the columns that stay, by the options' target.
    void fit(kerf::obs::System& system, const kerf::Linear& reader, const std::vector<std::int64_t>& kept, bool bias,
             kerf::Matrix<double>& w, const kerf::Job& job) const {
        if (bias) kerf::obs::centre(system, job.mean(reader));
        if (!opt.dense_target()) return kerf::obs::refit(system, kept, w.view(), job);
        const auto dense = job.dense_gram(reader);
        auto target = job.matrix<double>(system.h.shape());
        for (std::int64_t i = 0; i < target.rows(); ++i)
            for (std::int64_t j = 0; j < target.columns(); ++j) {
                const double damped = static_cast<double>(dense(i, j)) + (i == j ? system.lambda : 0);
                target(i, j) = (1 - opt.beta) * system.h(i, j) + opt.beta * damped;
            }
        kerf::obs::refit(system, target, kept, w.view(), job);
    }

    /// The original gives H_jj = 1 to a column that is always zero, in its H of 2 / windows · Σ x xᵀ, before it takes
    /// the mean that damps. Ours is 1 / tokens · Σ x xᵀ.
    kerf::obs::Inverse inverted(const kerf::Axis& axis, const kerf::Linear& reader, const kerf::Job& job) const {
        const auto tokens = static_cast<double>(std::max<std::int64_t>(1, axis.shape().tokens));
        const double one = opt.compatibility ? static_cast<double>(axis.shape().windows) / (2 * tokens) : 0;
        return kerf::obs::invert(job.gram(reader), opt.damp, job, axis.name(), opt.strict, one);
    }

    static kerf::Matrix<double> stacked(const std::vector<kerf::Linear>& consumers, const kerf::AxisShape& shape,
                                        const std::vector<std::uint8_t>& dead, const kerf::Job& job) {
        auto out = job.matrix<double>({shape.out, shape.in});
        std::int64_t above = 0;
        for (const auto& linear : consumers) {
            const auto w = linear.weight();
            job.parallel_for(w.rows(), [&](kerf::Range rows) {
                for (const auto r : rows)
                    for (std::int64_t c = 0; c < w.columns(); ++c)
                        out(above + r, c) = dead[static_cast<std::size_t>(c)] ? 0.0 : static_cast<double>(w(r, c));
            });
            above += w.rows();
        }
        return out;
    }

    /// (W⁰ − W) m of a row: what the weights leave to the bias.
    static float left_to_bias(std::span<const double> before, std::span<const double> after,
                              std::span<const float> mean) {
        double sum = 0;
        for (std::size_t c = 0; c < mean.size(); ++c) sum += (before[c] - after[c]) * static_cast<double>(mean[c]);
        return static_cast<float>(sum);
    }

    static void replace(std::vector<kerf::Linear>& consumers, const kerf::Matrix<double>& before,
                        const kerf::Matrix<double>& w, bool bias, const kerf::Job& job) {
        std::int64_t above = 0;
        for (auto& linear : consumers) {
            auto made = job.matrix<float>(linear.weight().shape());
            std::vector<float> shift(bias ? static_cast<std::size_t>(made.rows()) : 0);
            const auto mean = bias ? job.mean(linear) : std::span<const float>();
            job.parallel_for(made.rows(), [&](kerf::Range rows) {
                for (const auto r : rows) {
                    const std::int64_t row = above + r;
                    for (std::int64_t c = 0; c < made.columns(); ++c) made(r, c) = static_cast<float>(w(row, c));
                    if (bias) shift[static_cast<std::size_t>(r)] = left_to_bias(before.row(row), w.row(row), mean);
                }
            });
            above += made.rows();
            if (bias)
                linear.replace(made.view(), shift);
            else
                linear.replace(std::move(made));
        }
    }

    /// The columns, ascending, of the units that go and of those that stay.
    struct Columns {
        std::vector<std::int64_t> removed, kept;
    };
    static Columns columns_of(const kerf::Axis& axis, const std::vector<std::int64_t>& units) {
        std::vector<bool> stays(static_cast<std::size_t>(axis.shape().in), true);
        const auto columns = axis.columns();
        for (const auto u : units)
            for (const auto c : columns[u]) stays[static_cast<std::size_t>(c)] = false;
        Columns out;
        for (std::size_t c = 0; c < stays.size(); ++c)
            (stays[c] ? out.kept : out.removed).push_back(static_cast<std::int64_t>(c));
        return out;
    }
};

}  // namespace

KERF_PLUGIN(SlimGpt);
