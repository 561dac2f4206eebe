// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <utility>

#include "core/graph/cost.hpp"
#include "core/pipeline/run.hpp"
#include "core/support/error.hpp"
#include "kerf/abi.h"

namespace kerf::core {

inline double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Progress of a whole run in FLOPs, handed on with the phase that it is in.
class Meter {
public:
    Meter(const Observer& observer, double total) : observer_(observer), total_(total) {}
    void phase(std::string name) { phase_ = std::move(name); }
    void detail(std::string name) { detail_ = std::move(name); }
    void add(double flops) {
        done_ = std::min(total_, done_ + flops);
        if (observer_.progress) observer_.progress(phase_, detail_, done_, total_);
    }
    void check_cancelled() const {
        if (observer_.cancelled && observer_.cancelled()) throw Error(Fault::cancelled, "interrupted");
    }
    /// Hands every warning to `keep` as well.
    void keep_warnings(std::function<void(const std::string&)> keep) { keep_ = std::move(keep); }
    void log(int level, const std::string& message) const {
        if (observer_.log) observer_.log(level, message);
        if (level == KERF_LOG_WARN && keep_) keep_(message);
    }

private:
    const Observer& observer_;
    double total_, done_ = 0;
    std::string phase_, detail_;
    std::function<void(const std::string&)> keep_;
};

/// A token's FLOPs in one step of an evaluation: a block, or the head.
inline double flops_of_a_step(const Graph& graph, std::int64_t length) {
    return cost_of(graph, length).total.prefill_flops / double(graph.blocks.size() + 1);
}

}  // namespace kerf::core
