// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "importance.hpp"
#include "kerf/error.hpp"
#include "selection.hpp"

namespace kerf::llm_pruner {

struct Options {
    std::string mode = "block_wise";
    double pruning_ratio = 0.5;
    double target_param_ratio = 0;
    std::string pruner_type = "l2";
    std::string taylor = "param_first";
    std::string grouping_strategy = "sum";
    std::int64_t layer = 12;
    std::int64_t block_attention_layer_start = 3, block_attention_layer_end = 31;
    std::int64_t block_mlp_layer_start = 3, block_mlp_layer_end = 31;
    std::int64_t iterative_steps = 1;
    bool global_pruning = false;
    std::string normalizer = "none";
    std::string head_rounding = "floor";
    std::string head_unit = "kv_group";
    std::int64_t round_to = 1;
    std::int64_t first_example = 0, num_examples = 10, seq_len = 64;
    std::int64_t seed = 42;
    bool compatibility = false;
};

inline Criterion criterion_of(const Options& o) {
    if (o.pruner_type == "random") return Criterion::random;
    if (o.pruner_type == "l1") return Criterion::l1;
    if (o.pruner_type == "l2") return Criterion::l2;
    if (o.taylor == "vectorize") return Criterion::vectorize;
    if (o.taylor == "param_second") return Criterion::param_second;
    return o.taylor == "param_mix" ? Criterion::param_mix : Criterion::param_first;
}

/// Magnitudes are always averaged, as in the reference: it matters to global pruning alone.
inline Reduction reduction_of(const Options& o) {
    if (o.pruner_type != "taylor") return Reduction::mean;
    if (o.grouping_strategy == "mean") return Reduction::mean;
    if (o.grouping_strategy == "max") return Reduction::max;
    if (o.grouping_strategy == "prod") return Reduction::prod;
    if (o.grouping_strategy == "first") return Reduction::first;
    if (o.grouping_strategy == "second") return Reduction::second;
    return o.grouping_strategy == "last" ? Reduction::last : Reduction::sum;
}

inline Rules rules_of(const Options& o) {
    Rules rules;
    rules.rounding = o.head_rounding == "nearest" ? Rounding::nearest
                     : o.head_rounding == "ceil"  ? Rounding::ceil
                                                  : Rounding::floor;
    rules.round_to = o.round_to;
    rules.normalizer = o.normalizer == "mean"         ? Normalizer::mean
                       : o.normalizer == "max"        ? Normalizer::max
                       : o.normalizer == "sum"        ? Normalizer::sum
                       : o.normalizer == "parameters" ? Normalizer::parameters
                                                      : Normalizer::none;
    rules.leave_emptied = o.compatibility;
    return rules;
}

/// Refuses combinations that contradict each other.
inline void check(const Options& o) {
    if (o.block_attention_layer_start > o.block_attention_layer_end)
        bad_value("block_attention_layer_start = ", o.block_attention_layer_start,
                  " lies behind block_attention_layer_end = ", o.block_attention_layer_end,
                  "; equal ones mean that no attention is pruned");
    if (o.block_mlp_layer_start > o.block_mlp_layer_end)
        bad_value("block_mlp_layer_start = ", o.block_mlp_layer_start,
                  " lies behind block_mlp_layer_end = ", o.block_mlp_layer_end,
                  "; equal ones mean that no MLP is pruned");
    if (o.normalizer != "none" && !o.global_pruning)
        bad_value("normalizer = \"", o.normalizer,
                  "\" compares groups with each other; it goes with global_pruning = true");
    if (o.grouping_strategy != "sum" && o.grouping_strategy != "mean" && o.pruner_type != "taylor")
        bad_value("grouping_strategy = \"", o.grouping_strategy,
                  "\" goes with pruner_type = \"taylor\": magnitudes are averaged over a group's weights");
    if (o.compatibility && o.head_unit == "query_balanced")
        bad_value("head_unit = \"query_balanced\" is not in the reference, which compatibility = true asks for");
}

}  // namespace kerf::llm_pruner
