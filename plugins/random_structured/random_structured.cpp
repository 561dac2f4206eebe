// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "kerf/ratio.hpp"
#include "kerf/structure.hpp"

namespace {

struct Options : kerf::RatioOptions {
    std::int64_t seed = 0;
};

/// A stream of numbers of its own for every axis: FNV-1a of its name.
std::uint64_t stream_of(std::string_view name) {
    std::uint64_t hash = 14695981039346656037ull;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
    return hash;
}

class RandomStructured final : public kerf::AxisMethod<Options> {
public:
    static constexpr kerf::Info info{"random_structured", "1.0.0",
                                     "Removes heads and MLP channels at random: what other methods must beat"};
    static constexpr auto can = kerf::Resumable;

    static void options(kerf::Schema<Options>& s) {
        kerf::ratio_options(s);
        s("seed", &Options::seed).at_least(0).help("of the choice");
    }
    void check() const override { kerf::check_ratio(opt); }
    kerf::AxisPlan plan(const kerf::AxisShape& axis) const override { return kerf::plan_ratio(opt, axis); }

    void prune(kerf::Axis& axis, kerf::Job& job) const override {
        std::vector<double> score(static_cast<std::size_t>(axis.size()));
        job.uniform(static_cast<std::uint64_t>(opt.seed), stream_of(axis.name()), score);
        axis.remove(kerf::lowest(axis.shape(), score));
    }
};

}  // namespace

KERF_PLUGIN(RandomStructured);
