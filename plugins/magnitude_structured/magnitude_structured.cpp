// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <numeric>
#include <string>

#include "kerf/ratio.hpp"
#include "kerf/structure.hpp"

namespace {

struct Options : kerf::RatioOptions {
    std::string norm = "l2";
    std::string weights = "consumers";
};

/// Removes the units whose weights are smallest.
class MagnitudeStructured final : public kerf::AxisMethod<Options> {
public:
    static constexpr kerf::Info info{"magnitude_structured", "1.0.0",
                                     "Removes the heads and MLP channels with the smallest weights"};
    static constexpr auto can = kerf::Resumable;

    static void options(kerf::Schema<Options>& s) {
        kerf::ratio_options(s);
        s("norm", &Options::norm).one_of({"l1", "l2"}).help("of a unit's weights: sum of magnitudes, or of squares");
        s("weights", &Options::weights)
            .one_of({"consumers", "all"})
            .help("which weights of a unit count: those that read it, or those that make it too");
    }
    void check() const override { kerf::check_ratio(opt); }
    kerf::AxisPlan plan(const kerf::AxisShape& axis) const override { return kerf::plan_ratio(opt, axis); }

    void prune(kerf::Axis& axis, kerf::Job& job) const override {
        std::vector<double> score(static_cast<std::size_t>(axis.size()));
        for (std::size_t p = 0; p < axis.places().size(); ++p) {
            const auto& place = axis.places()[p];
            const bool reads = place.role == kerf::PlaceRole::input;
            if (!reads && (opt.weights == "consumers" || place.role != kerf::PlaceRole::output)) continue;
            add_norms(place, axis.values(p), job, score);
        }
        axis.remove(kerf::lowest(axis.shape(), score));
    }

private:
    void add_norms(const kerf::Place& place, kerf::MatrixView<const float> w, kerf::Job& job,
                   std::vector<double>& score) const {
        const bool squares = opt.norm == "l2";
        const auto value = [&](float x) { return squares ? double(x) * double(x) : std::fabs(double(x)); };
        job.parallel_for(place.units.size(), [&](kerf::Range units) {
            for (const auto u : units) {
                double sum = 0;
                for (const auto index : place.units[u])
                    if (place.dimension == 1)
                        for (std::int64_t r = 0; r < w.rows(); ++r) sum += value(w(r, index));
                    else
                        for (const float x : w.row(index)) sum += value(x);
                score[static_cast<std::size_t>(u)] += sum;
            }
        });
    }
};

}  // namespace

KERF_PLUGIN(MagnitudeStructured);
