// SPDX-License-Identifier: Apache-2.0
#include "method.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace kerf::llm_pruner {
namespace {

std::string message(const auto&... parts) {
    std::string out;
    const auto add = [&](const auto& part) {
        if constexpr (requires { std::to_string(part); })
            out += std::to_string(part);
        else
            out += part;
    };
    (add(parts), ...);
    return out;
}

/// "18.4"
std::string percent(double share) {
    const auto tenths = std::llround(share * 1000);
    return message(tenths / 10, ".", tenths % 10);
}

/// A layer window that ends behind the model ends with it; one that begins there is a mistake.
void check_windows(const Options& options, std::int64_t blocks) {
    const auto check = [&](const char* what, std::int64_t start, std::int64_t end) {
        if (start < end && start >= blocks)
            bad_value(what, "_start = ", start, ", but the model has ", blocks, " layers, numbered from 0");
    };
    check("block_attention_layer", options.block_attention_layer_start, options.block_attention_layer_end);
    check("block_mlp_layer", options.block_mlp_layer_start, options.block_mlp_layer_end);
}

void fit_window(const char* what, std::int64_t& end, std::int64_t usual, std::int64_t blocks, Job& job) {
    if (end > blocks && end != usual)  // the default is for models of 32 layers, and nobody asked for it
        job.log(Level::warn,
                message(what, "_end = ", end, ": the model has ", blocks, " layers, so the window ends there"));
    end = std::min(end, blocks);
}

[[noreturn]] void too_little(const Options& options) {
    bad_value("target_param_ratio = ", options.target_param_ratio,
              ": what the layer windows hold is less than that; widen them or ask for less");
}

/// Importances of all targets of a model as it is.
class Scores {
public:
    Scores(const Options& options, std::vector<Target>& targets)
        : options_(options), criterion_(criterion_of(options)), targets_(targets) {
        for (const auto& target : targets_) members_.emplace_back(target.pieces.size());
    }

    void from_weights(Structure& structure) {
        for (std::size_t t = 0; t < targets_.size(); ++t)
            for (std::size_t p = 0; p < targets_[t].pieces.size(); ++p) {
                const Piece& piece = targets_[t].pieces[p];
                const Salient tensor{structure.axes()[targets_[t].axis].values(piece.place), {}, {}};
                take(t, p, channel_values(criterion_, tensor, piece.dimension));
            }
    }

    void from_gradients(const WholeModel& model, Job& job) {
        std::vector<std::string> tensors;
        for (const auto& target : targets_)
            for (const auto& piece : target.pieces) tensors.push_back(piece.tensor);
        std::sort(tensors.begin(), tensors.end());
        tensors.erase(std::unique(tensors.begin(), tensors.end()), tensors.end());
        const SweepWindows windows{options_.first_example, options_.num_examples, options_.seq_len};
        const double loss = model.gradients(job, windows, tensors, needs_squares(criterion_),
                                            [&](const Gradient& gradient) { take(gradient); });
        job.metric("loss", loss);
    }

    void at_random(std::int64_t step, Job& job) {
        for (std::size_t t = 0; t < targets_.size(); ++t) {
            Group& group = targets_[t].group;
            const std::int64_t units = units_of(targets_[t]);
            std::vector<double> channels(static_cast<std::size_t>(units * group.channels));
            job.uniform(static_cast<std::uint64_t>(options_.seed),
                        (static_cast<std::uint64_t>(step) << 32) + static_cast<std::uint64_t>(t), channels);
            group.importance = unit_importance(channels, units);
        }
    }

    void reduce() {
        const Reduction reduction = reduction_of(options_);
        const Alignment alignment = options_.compatibility ? Alignment::reference : Alignment::exact;
        for (std::size_t t = 0; t < targets_.size(); ++t) {
            Target& target = targets_[t];
            std::vector<Member> members;
            for (std::size_t p = 0; p < target.pieces.size(); ++p) {
                if (reduction == Reduction::last && static_cast<std::int64_t>(p) != target.last) continue;
                for (std::int64_t use = 0; use < target.pieces[p].uses; ++use) members.push_back(members_[t][p]);
            }
            const std::int64_t units = units_of(target);
            target.group.importance = unit_importance(channel_importance(members, units, reduction, alignment), units);
        }
    }

private:
    static std::int64_t units_of(const Target& target) {
        const Piece& piece = target.pieces.front();
        return static_cast<std::int64_t>(piece.indices.size()) / piece.each;
    }
    /// A tensor may lie on several axes, with its rows on one and its columns on another.
    void take(const Gradient& gradient) {
        std::vector<double> sides[2];
        for (std::size_t t = 0; t < targets_.size(); ++t)
            for (std::size_t p = 0; p < targets_[t].pieces.size(); ++p) {
                const Piece& piece = targets_[t].pieces[p];
                if (piece.tensor != gradient.tensor) continue;
                auto& side = sides[piece.dimension];
                if (side.empty())
                    side =
                        channel_values(criterion_, {gradient.values, gradient.mean, gradient.squares}, piece.dimension);
                take(t, p, side);
            }
    }
    void take(std::size_t target, std::size_t number, const std::vector<double>& channels) {
        const Piece& piece = targets_[target].pieces[number];
        Member& member = members_[target][number];
        member.each = piece.each;
        member.values.clear();
        for (const auto index : piece.indices) member.values.push_back(channels[static_cast<std::size_t>(index)]);
    }

    const Options& options_;
    Criterion criterion_;
    std::vector<Target>& targets_;
    std::vector<std::vector<Member>> members_;  // by target and piece
};

/// The steps of one run.
class Pruning {
public:
    Pruning(const Options& options, Structure& structure, Job& job)
        : options_(options), job_(job), model_(structure), before_(model_.parameters()) {}

    void run(Structure structure) {
        for (std::int64_t step = 1; step <= options_.iterative_steps; ++step) {
            auto targets = targets_of(structure, model_, options_);
            if (targets.empty()) {
                job_.log(Level::warn, "nothing lies in the layer windows: the model stays as it is");
                return;
            }
            remember_sizes(targets);
            score(structure, targets, step);
            prune(structure, targets, step);
            // Norms of pruned hidden channels are over those that stay, as in the reference.
            structure = model_.commit(options_.mode != "channel_wise");
            report(step);
        }
    }

private:
    void remember_sizes(std::vector<Target>& targets) {
        for (auto& target : targets)
            target.group.initial = initial_.try_emplace(target.name, target.group.initial).first->second;
    }

    void score(Structure& structure, std::vector<Target>& targets, std::int64_t step) {
        Scores scores(options_, targets);
        const Criterion criterion = criterion_of(options_);
        if (criterion == Criterion::random) return scores.at_random(step, job_);
        if (needs_gradients(criterion))
            scores.from_gradients(model_, job_);
        else
            scores.from_weights(structure);
        scores.reduce();
    }

    void prune(Structure& structure, const std::vector<Target>& targets, std::int64_t step) {
        std::vector<Group> groups;
        for (const auto& target : targets) groups.push_back(target.group);
        Rules rules = rules_of(options_);
        rules.at_most = options_.target_param_ratio > 0;
        const auto select = [&](double s) {
            return options_.global_pruning ? select_global(groups, s, rules) : select_local(groups, s, rules);
        };
        const double done = static_cast<double>(step) / static_cast<double>(options_.iterative_steps);
        const Selection chosen = select(options_.target_param_ratio > 0 ? budget_sparsity(groups, done, select)
                                                                        : done * options_.pruning_ratio);
        for (std::size_t t = 0; t < targets.size(); ++t) {
            structure.axes()[targets[t].axis].remove(chosen[t]);
            if (chosen[t].empty() && options_.pruning_ratio > 0 && !options_.global_pruning)
                job_.log(Level::info, message(targets[t].name, ": the ratio takes less than one of its ",
                                              groups[t].units(), " units, or all of them; it stays as it is"));
        }
    }

    /// Parameters are counted against the whole model as it came, embeddings and skipped layers included.
    template <class Select>
    double budget_sparsity(const std::vector<Group>& groups, double done, const Select& select) const {
        const double wanted = options_.target_param_ratio * done * static_cast<double>(before_);
        const auto still = static_cast<std::int64_t>(std::ceil(wanted)) - (before_ - model_.parameters());
        if (still <= 0) return 0;
        const double sparsity = sparsity_for(groups, still, select);
        if (sparsity >= 1) too_little(options_);
        job_.metric("pruning_ratio", sparsity);
        return sparsity;
    }

    void report(std::int64_t step) const {
        const std::int64_t after = model_.parameters();
        const double share = static_cast<double>(before_ - after) / static_cast<double>(before_);
        job_.metric("parameters_before", static_cast<double>(before_));
        job_.metric("parameters_after", static_cast<double>(after));
        job_.log(Level::info, message("step ", step, " of ", options_.iterative_steps, ": ", before_, " → ", after,
                                      " parameters, ", percent(share), " % gone"));
    }

    const Options& options_;
    Job& job_;
    WholeModel model_;
    std::int64_t before_;
    std::map<std::string, std::int64_t> initial_;  // units of every axis before the first step
};

/// Channels of a unit, as target_of() finds them in the weights: of the weight that has the fewest. 0 when the axes do
/// not say: a KV group's unit is its queries' features.
std::int64_t channels_of(const AxisShape& axis, std::span<const AxisShape> axes) {
    if (!axis.is_attention()) return 1;
    std::int64_t out = axis.kind == AxisKind::kv_groups ? 0 : axis.unit;
    const auto in_block = [&](AxisKind kind) {
        return std::find_if(axes.begin(), axes.end(),
                            [&](const AxisShape& other) { return other.block == axis.block && other.kind == kind; });
    };
    if (const auto heads = in_block(AxisKind::query_heads); out == 0 && heads != axes.end()) out = heads->unit;
    if (const auto values = in_block(AxisKind::value_features);
        axis.kind != AxisKind::query_heads && values != axes.end())
        out = std::min(out, values->size);
    return out;
}

/// An axis as a group of which the importances are not known yet.
Group sizes_of(const AxisShape& axis, std::int64_t channels) {
    Group out;
    out.importance.resize(static_cast<std::size_t>(axis.size));
    out.channels = channels > 0 ? channels : axis.unit;
    out.initial = axis.size;
    out.balanced = axis.balanced;
    out.keep = axis.keep;
    out.unit_parameters = axis.unit_parameters;
    return out;
}

PlannedSweeps sweeps_of(const Options& options) {
    const Criterion criterion = criterion_of(options);
    if (!needs_gradients(criterion)) return {};
    return {static_cast<std::int32_t>(options.iterative_steps), needs_squares(criterion), options.num_examples,
            options.seq_len, options.first_example};
}

/// A multiple that no group reaches would leave the model as it is.
void check_round_to(const Options& options, std::span<const Group> groups) {
    std::int64_t most = 0;
    for (const auto& group : groups) most = std::max(most, group.initial / group.balanced * group.channels);
    if (options.round_to > most)
        bad_value("round_to = ", options.round_to, ": the largest group has ", most,
                  " channels, so that none could go");
}

/// Units of each group that are left when all steps take their local shares.
std::vector<std::int64_t> planned_sizes(const Options& options, std::vector<Group> groups, std::int64_t parameters) {
    Rules rules = rules_of(options);
    rules.at_most = options.target_param_ratio > 0;
    const auto select = [&](double s) { return select_local(groups, s, rules); };
    std::int64_t gone = 0;
    for (std::int64_t step = 1; step <= options.iterative_steps; ++step) {
        const double done = static_cast<double>(step) / static_cast<double>(options.iterative_steps);
        const auto still =
            static_cast<std::int64_t>(options.target_param_ratio * done * static_cast<double>(parameters)) - gone;
        const double sparsity =
            options.target_param_ratio > 0 ? sparsity_for(groups, still, select) : done * options.pruning_ratio;
        if (sparsity >= 1) too_little(options);
        const Selection chosen = select(sparsity);
        gone += removed_parameters(groups, chosen);
        for (std::size_t g = 0; g < groups.size(); ++g)
            groups[g].importance.resize(groups[g].importance.size() - chosen[g].size());
    }
    std::vector<std::int64_t> out;
    for (const auto& group : groups) out.push_back(group.units());
    return out;
}

}  // namespace

void LlmPruner::options(Schema<Options>& s) {
    s("mode", &Options::mode)
        .one_of({"block_wise", "channel_wise", "layer_wise"})
        .help("heads and MLP channels of each layer, hidden channels of the whole model, or the last layers");
    s("pruning_ratio", &Options::pruning_ratio)
        .at_least(0)
        .below(1)
        .help("share of the units of each group that goes, rounded down");
    s("target_param_ratio", &Options::target_param_ratio)
        .at_least(0)
        .below(1)
        .help("share of all parameters that goes, instead of pruning_ratio; 0: off");
    s("pruner_type", &Options::pruner_type).one_of({"random", "l1", "l2", "taylor"}).help("what a unit is worth");
    s("taylor", &Options::taylor)
        .one_of({"vectorize", "param_first", "param_second", "param_mix"})
        .goes_with("pruner_type", {"taylor"})
        .help("|sum of W G|, sum of |W G|, sum of |W A W|, or |W G - W A W / 2|; A: mean squared gradient");
    s("grouping_strategy", &Options::grouping_strategy)
        .one_of({"sum", "mean", "max", "prod", "first", "second", "last"})
        .help("taylor: how the weights of a group make one importance");
    s("layer", &Options::layer)
        .at_least(1)
        .goes_with("mode", {"layer_wise"})
        .help("layer_wise: layers that stay, from the first");
    s("block_attention_layer_start", &Options::block_attention_layer_start)
        .at_least(0)
        .goes_with("mode", {"block_wise"})
        .help("block_wise: first layer whose attention is pruned");
    s("block_attention_layer_end", &Options::block_attention_layer_end)
        .at_least(0)
        .goes_with("mode", {"block_wise"})
        .help("one past the last one");
    s("block_mlp_layer_start", &Options::block_mlp_layer_start)
        .at_least(0)
        .goes_with("mode", {"block_wise"})
        .help("block_wise: first layer whose MLP is pruned");
    s("block_mlp_layer_end", &Options::block_mlp_layer_end)
        .at_least(0)
        .goes_with("mode", {"block_wise"})
        .help("one past the last one");
    s("iterative_steps", &Options::iterative_steps)
        .within(1, 1000)
        .help("prune in so many equal steps, with new importances before each");
    s("global_pruning", &Options::global_pruning).help("one threshold for all groups");
    s("normalizer", &Options::normalizer)
        .one_of({"none", "mean", "max", "sum", "parameters"})
        .help("global_pruning: what the importances of a group are divided by");
    s("head_rounding", &Options::head_rounding)
        .one_of({"floor", "nearest", "ceil"})
        .help("how many whole heads a share of them is");
    s("head_unit", &Options::head_unit)
        .one_of({"kv_group", "query_balanced"})
        .help("with grouped queries: whole KV heads, or equally many queries of each; MQA always the latter");
    s("round_to", &Options::round_to).at_least(1).help("channels go in multiples of this");
    s("first_example", &Options::first_example)
        .at_least(0)
        .goes_with("pruner_type", {"taylor"})
        .help("taylor: first calibration window that is used");
    s("num_examples", &Options::num_examples)
        .at_least(0)
        .goes_with("pruner_type", {"taylor"})
        .help("taylor: how many are used; 0: all");
    s("seq_len", &Options::seq_len)
        .at_least(2)
        .also(0)
        .goes_with("pruner_type", {"taylor"})
        .help("taylor: tokens of each that are used; 0: all");
    s("seed", &Options::seed).at_least(0).goes_with("pruner_type", {"random"}).help("of pruner_type = \"random\"");
    s("compatibility", &Options::compatibility)
        .help(
            "score as the reference does: misaligned grouped queries, no embedding in magnitudes, emptied groups kept");
}

AxisPlan LlmPruner::plan(const AxisShape& axis) const {
    AxisPlan out;
    plan_all({&axis, 1}, {&out, 1});
    return out;
}

void LlmPruner::plan_all(std::span<const AxisShape> axes, std::span<AxisPlan> plans) const {
    if (opt.mode == "layer_wise") {
        for (std::size_t i = 0; i < axes.size(); ++i)
            if (axes[i].block >= opt.layer) plans[i].remove = axes[i].size;
        return;
    }
    if (opt.mode == "block_wise") check_windows(opt, axes.empty() ? 0 : axes[0].blocks);
    std::vector<std::size_t> chosen;
    std::vector<Group> groups;
    for (std::size_t i = 0; i < axes.size(); ++i) {
        if (!is_pruned(axes[i], axes, opt)) continue;
        if (opt.pruner_type == "taylor" && axes[i].tokens == 0)
            bad_value(
                "pruner_type = \"taylor\" needs calibration text; add a [calibration] table with source and path");
        const std::int64_t channels = channels_of(axes[i], axes);
        plans[i].exact = channels > 0 && !opt.global_pruning && opt.target_param_ratio == 0;
        plans[i].sweeps = sweeps_of(opt);
        chosen.push_back(i);
        groups.push_back(sizes_of(axes[i], channels));
    }
    if (groups.empty()) return;
    check_round_to(opt, groups);
    const auto left = planned_sizes(opt, groups, axes[0].model_parameters);
    for (std::size_t g = 0; g < chosen.size(); ++g) plans[chosen[g]].remove = groups[g].initial - left[g];
}

void LlmPruner::prune(Structure& structure, Job& job) const {
    const WholeModel model(structure);
    const std::int64_t blocks = model.blocks();
    if (opt.mode == "layer_wise") {
        if (opt.layer < blocks) return model.keep_blocks(opt.layer);
        job.log(Level::warn, message("layer = ", opt.layer, ": the model has no more than ", blocks,
                                     " layers, and all of them stay"));
        return;
    }
    const Options usual;
    Options fitted = opt;
    if (opt.mode == "block_wise") {
        check_windows(opt, blocks);
        fit_window("block_attention_layer", fitted.block_attention_layer_end, usual.block_attention_layer_end, blocks,
                   job);
        fit_window("block_mlp_layer", fitted.block_mlp_layer_end, usual.block_mlp_layer_end, blocks, job);
    }
    Pruning(fitted, structure, job).run(structure);
}

}  // namespace kerf::llm_pruner
