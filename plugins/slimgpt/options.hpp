// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kerf/ratio.hpp"
#include "schedule.hpp"

namespace slimgpt {

struct Options : kerf::RatioOptions {
    std::string schedule = "uniform";
    double min_sparsity = 0.0625, max_sparsity = 0.25;
    std::string schedule_base = "layers";
    double budget = 0;
    double weight = 1;
    std::string relative_to = "stream";
    double damp = 0.01;
    bool compensate = true;
    std::string kernel = "exact";
    std::int64_t ffn_group = 0;
    std::int64_t swaps = 0;
    bool bias_refit = false;
    std::string target = "current";
    double beta = 1;
    bool strict = false;
    bool compatibility = false;

    bool by_error() const { return schedule == "error"; }
    bool exact() const { return kernel == "exact"; }
    bool dense_target() const { return target == "dense"; }
    /// Whether least squares give the weights in the end; else they are as the rounds leave them.
    bool refits() const { return compensate && (exact() || swaps > 0 || bias_refit || dense_target()); }
};

inline void describe(kerf::Schema<Options>& s) {
    const auto slopes = {std::string_view("log_increase"), std::string_view("log_decrease"),
                         std::string_view("linear_increase"), std::string_view("linear_decrease")};
    kerf::ratio_options(s, true);
    s("schedule", &Options::schedule)
        .one_of({"uniform", "log_increase", "log_decrease", "linear_increase", "linear_decrease", "error"})
        .help(
            "how the share differs from block to block; uniform: sparsity everywhere; error: what goes of each axis "
            "follows from a survey of the errors that it would make, and comes to budget in all");
    s("min_sparsity", &Options::min_sparsity)
        .at_least(0)
        .below(1)
        .goes_with("schedule", slopes)
        .help("smallest share of a schedule");
    s("max_sparsity", &Options::max_sparsity)
        .at_least(0)
        .below(1)
        .goes_with("schedule", slopes)
        .help("largest share of a schedule");
    s("schedule_base", &Options::schedule_base)
        .one_of({"layers", "32"})
        .goes_with("schedule", {"log_increase", "log_decrease"})
        .help("of the logarithm: the blocks of the window, or 32 whatever their number (the original)");
    s("budget", &Options::budget)
        .at_least(0)
        .below(1)
        .whole_stage()
        .help("share of the blocks' linear parameters that goes in all; scales the schedule to it; 0: off");
    s("weight", &Options::weight)
        .above(0)
        .goes_with("schedule", {"error"})
        .help("schedule = error: how much the errors of an axis count; for overrides");
    s("relative_to", &Options::relative_to)
        .one_of({"stream", "output"})
        .whole_stage()
        .goes_with("schedule", {"error"})
        .help(
            "schedule = error: errors as shares of the residual stream that they go into, or of the projection's "
            "output");
    s("damp", &Options::damp).at_least(0).at_most(1).help("share of mean(diag H) added to the diagonal");
    s("compensate", &Options::compensate).help("let the weights that stay make up for those that go");
    s("kernel", &Options::kernel)
        .one_of({"exact", "reference"})
        .help("exact: the true error of a unit, channels one by one; reference: the original's scores and groups");
    s("ffn_group", &Options::ffn_group)
        .at_least(0)
        .help("channels removed between two refreshes of the scores; 0: 1 for exact, dynamic for reference");
    s("swaps", &Options::swaps)
        .at_least(0)
        .help("units of each axis that are tried in the place of others after the greedy choice; 0: none");
    s("bias_refit", &Options::bias_refit).help("fit the bias of the projection too, where it has one");
    s("target", &Options::target)
        .one_of({"current", "dense"})
        .help("fit to the outputs of the projection in the model as pruned so far, or in the dense model");
    s("beta", &Options::beta)
        .at_least(0)
        .at_most(1)
        .goes_with("target", {"dense"})
        .help("target = dense: share of the dense model in the target");
    s("strict", &Options::strict)
        .help("refuse where slimgpt would mend: a Gram matrix that needs more damping, a share that leaves no unit");
    s("compatibility", &Options::compatibility)
        .help(
            "decreasing schedules with minlayer > 0 as the original shifts them, and inputs that are always zero in the "
            "mean that damps");
}

inline void check(const Options& opt) {
    kerf::check_ratio(opt);
    if (opt.schedule != "uniform" && opt.min_sparsity > opt.max_sparsity)
        kerf::bad_value("min_sparsity = ", opt.min_sparsity, " is above max_sparsity = ", opt.max_sparsity);
    if (opt.by_error() && opt.budget == 0)
        kerf::bad_value(
            "schedule = \"error\" spends a budget, and budget is 0; say which share of the blocks' linear "
            "parameters is to go, as in budget = 0.2");
    if (opt.by_error() && !opt.compensate)
        kerf::bad_value(
            "schedule = \"error\" goes by the errors that compensation leaves, and compensate = false "
            "leaves others; leave one of them out");
    const auto needs_compensation = [&](bool on, const char* what) {
        if (on && !opt.compensate)
            kerf::bad_value(what,
                            " changes weights that stay, which compensate = false forbids; leave one of them out");
    };
    needs_compensation(opt.swaps > 0, "swaps");
    needs_compensation(opt.bias_refit, "bias_refit");
    needs_compensation(opt.dense_target(), "target = \"dense\"");
    if (opt.bias_refit && opt.dense_target())
        kerf::bad_value(
            "bias_refit and target = \"dense\" do not go together: the dense model's mean inputs are not "
            "gathered; leave one of them out");
}

/// The counts of units with which an axis can end, ascending from none: equally many of each balanced run, `align`
/// channels that stay.
inline std::vector<std::int64_t> possible_counts(const Options& opt, const kerf::AxisShape& axis) {
    const std::int64_t most = kerf::units_of_share(axis, 1, opt.align);
    const std::int64_t step = axis.kind == kerf::AxisKind::mlp ? std::max<std::int64_t>(1, opt.align)
                                                               : std::max<std::int64_t>(1, axis.balanced);
    std::vector<std::int64_t> out;
    for (std::int64_t count = most; count > 0; count -= step) out.push_back(count);
    out.push_back(0);
    std::reverse(out.begin(), out.end());
    return out;
}

/// Shares of blocks before rounding.
class Shares {
public:
    Shares(const Options& opt, std::span<const kerf::AxisShape> axes) : opt_(opt), axes_(axes) {
        const std::int64_t blocks = axes.empty() ? 0 : axes[0].blocks;
        const auto [first, last] = kerf::layer_window(opt, blocks);
        const Schedule schedule{opt.by_error() ? "uniform" : opt.schedule,
                                opt.budget > 0 ? 1.0 : opt.sparsity,
                                opt.min_sparsity,
                                opt.max_sparsity,
                                opt.schedule_base == "32",
                                opt.compatibility};
        shares_ = ratios(schedule, first, last, blocks);
        if (opt.budget > 0) scale_to_budget();
    }

    double operator[](std::int64_t block) const { return shares_[static_cast<std::size_t>(block)]; }
    std::int64_t units(const kerf::AxisShape& axis) const {
        return kerf::units_of_share(axis, (*this)[axis.block], opt_.align);
    }

private:
    /// Share of the linears' parameters that goes when all shares are `scale` times as large.
    double removed(double scale) const {
        double sum = 0;
        for (const auto& axis : axes_)
            if (kerf::takes(opt_, axis))
                sum += static_cast<double>(axis.unit_parameters) *
                       static_cast<double>(kerf::units_of_share(axis, scale * (*this)[axis.block], opt_.align));
        return axes_.empty() ? 0 : sum / static_cast<double>(axes_[0].linear_parameters);
    }

    /// Counts are whole: of the two scales on either side of the step the one that comes closer.
    void scale_to_budget() {
        constexpr int halvings = 60;
        double least = 1;
        for (const double share : shares_)
            if (share > 0) least = std::min(least, share);
        double low = 0, high = 1 / least;
        const double most = removed(high);
        if (most < opt_.budget)
            kerf::bad_value("budget = ", opt_.budget, ": at most ", most,
                            " of the blocks' linear parameters can go with these options (modules, minlayer, maxlayer, "
                            "align, include); one unit of each axis stays");
        for (int i = 0; i < halvings; ++i) {
            const double middle = (low + high) / 2;
            (removed(middle) < opt_.budget ? low : high) = middle;
        }
        const double scale = opt_.budget - removed(low) < removed(high) - opt_.budget ? low : high;
        for (double& share : shares_) share *= scale;
    }

    const Options& opt_;
    std::span<const kerf::AxisShape> axes_;
    std::vector<double> shares_;
};

}  // namespace slimgpt
