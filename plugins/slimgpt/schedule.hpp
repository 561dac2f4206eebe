// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace slimgpt {

/// Ratio of every layer (SlimGPT §3.3, "incremental pruning ratio").
struct Schedule {
    std::string kind = "uniform";
    double sparsity = 0, min = 0, max = 0;
    bool base_32 = false;     ///< logarithms to the base 32 whatever the number of layers, as the original has it
    bool whole_list = false;  ///< a decrease reverses the list with the zeros before the window in it, likewise
};

/// s_i for layers [0, layers), 0 outside the window [first, last).
inline std::vector<double> ratios(const Schedule& schedule, std::int64_t first, std::int64_t last,
                                  std::int64_t layers) {
    std::vector<double> out(static_cast<std::size_t>(layers), 0.0);
    const double width = schedule.max - schedule.min, count = static_cast<double>(last - first);
    for (std::int64_t i = first; i < last; ++i) {
        const double place = static_cast<double>(i - first);
        double& ratio = out[static_cast<std::size_t>(i)];
        if (schedule.kind == "uniform")
            ratio = schedule.sparsity;
        else if (schedule.kind.starts_with("log"))
            ratio =
                schedule.min + (place == 0 ? 0 : width * std::log1p(place) / std::log(schedule.base_32 ? 32 : count));
        else
            ratio = schedule.min + (place == 0 ? 0 : width * place / (count - 1));
    }
    if (schedule.kind.ends_with("decrease"))
        std::reverse(out.begin() + (schedule.whole_list ? 0 : first), out.begin() + last);
    return out;
}

/// Channels that are removed between two refreshes of the scores: large groups first, then smaller ones (SlimGPT §3.2).
inline std::vector<std::int64_t> dynamic_groups(std::int64_t target) {
    constexpr std::int64_t least = 64, most = 1024, less = 512;
    const auto halved = [](std::int64_t x) { return x >= 0 ? x / 2 : -((1 - x) / 2); };  // towards −∞
    std::vector<std::int64_t> out;
    std::int64_t wish = halved(target - less);
    for (std::int64_t done = 0; done < target; done += out.back(), wish = halved(wish - less))
        out.push_back(std::min({target - done, std::max(wish, least), most}));
    return out;
}

}  // namespace slimgpt
