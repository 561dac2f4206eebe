// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "groups.hpp"
#include "kerf/model.hpp"
#include "pruner_options.hpp"

namespace kerf::llm_pruner {

/// LLM-Pruner (Ma, Fang, Wang, arXiv:2305.11627): heads, MLP channels or hidden channels go, the least important first,
/// by magnitude or by what a Taylor expansion of the loss says; or the last blocks go.
class LlmPruner final : public ModelMethod<Options> {
public:
    static constexpr Info info{"llm_pruner", "1.0.0",
                               "Heads, MLP or hidden channels by magnitude or Taylor importance (arXiv:2305.11627)"};
    static constexpr auto can = Resumable;

    static void options(Schema<Options>& s);
    void check() const override { llm_pruner::check(opt); }
    AxisPlan plan(const AxisShape& axis) const override;
    void plan_all(std::span<const AxisShape> axes, std::span<AxisPlan> plans) const override;
    void prune(Structure& model, Job& job) const override;
};

}  // namespace kerf::llm_pruner
