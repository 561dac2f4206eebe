// SPDX-License-Identifier: Apache-2.0
// SliceGPT: Ashkboos, Croci, Gennari do Nascimento, Hoefler, Hensman 2024, arXiv 2401.15024.
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "kerf/bases.hpp"
#include "sizes.hpp"

namespace {

using kerf::slicegpt::Options;

/// Eigenvectors as columns and eigenvalues, both by descending value.
struct Principal {
    kerf::Matrix<double> vectors;  // [n, n], ascending as LAPACK gives them
    std::vector<double> values;    // descending

    std::int64_t size() const { return static_cast<std::int64_t>(values.size()); }
    /// Entry `row` of the k-th largest's vector.
    double at(std::int64_t row, std::int64_t k) const { return vectors(row, size() - 1 - k); }
};

Principal principal_axes(const kerf::Job& job, kerf::MatrixView<const double> h) {
    const std::int64_t n = h.rows();
    Principal out{job.matrix<double>({n, n}), std::vector<double>(static_cast<std::size_t>(n))};
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j) out.vectors(i, j) = h(i, j);
    std::vector<double> ascending(out.values.size());
    job.linalg().symmetric_eigen(out.vectors.view(), std::span<double>(ascending));
    std::copy(ascending.rbegin(), ascending.rend(), out.values.begin());
    return out;
}

/// Leading axes into q [n, size]. The sign of an eigenvector is free: its largest entry is made positive, the first of
/// equal ones, so that files do not depend on the library.
void take_leading(const Principal& axes, kerf::MatrixView<double> q) {
    for (std::int64_t k = 0; k < q.columns(); ++k) {
        std::int64_t largest = 0;
        for (std::int64_t r = 1; r < q.rows(); ++r)
            if (std::abs(axes.at(r, k)) > std::abs(axes.at(largest, k))) largest = r;
        const double sign = axes.at(largest, k) < 0 ? -1 : 1;
        for (std::int64_t r = 0; r < q.rows(); ++r) q(r, k) = sign * axes.at(r, k);
    }
}

/// q ← q R, R the orthogonal factor of a k × k matrix of normal numbers by Gram and Schmidt, twice for float64's sake.
void turn_at_random(kerf::MatrixView<double> q, std::uint64_t seed, std::uint64_t stream, const kerf::Job& job) {
    const std::int64_t k = q.columns();
    auto r = job.matrix<double>({k, k});  // rows are what is made orthonormal
    job.normal(seed, stream, std::span<double>(r.data(), static_cast<std::size_t>(k * k)));
    for (std::int64_t i = 0; i < k; ++i) {
        for (int again = 0; again < 2; ++again)
            for (std::int64_t j = 0; j < i; ++j) {
                double dot = 0;
                for (std::int64_t c = 0; c < k; ++c) dot += r(i, c) * r(j, c);
                for (std::int64_t c = 0; c < k; ++c) r(i, c) -= dot * r(j, c);
            }
        double square = 0;
        for (std::int64_t c = 0; c < k; ++c) square += r(i, c) * r(i, c);
        for (std::int64_t c = 0; c < k; ++c) r(i, c) /= std::sqrt(square);
    }
    auto copy = job.matrix<double>(q.shape());
    for (std::int64_t row = 0; row < q.rows(); ++row)
        for (std::int64_t c = 0; c < k; ++c) copy(row, c) = q(row, c);
    job.linalg().gemm<double>(kerf::Transpose::no, kerf::Transpose::yes, 1, copy, r, 0, q);
}

class SliceGpt final : public kerf::BasisMethod<Options> {
public:
    static constexpr kerf::Info info{"kerf.slicegpt", "1.0.0",
                                     "Slices the residual stream along its principal axes (SliceGPT)"};
    static constexpr auto can = kerf::Resumable;

    static void options(kerf::Schema<Options>& s) {
        s("sparsity", &Options::sparsity)
            .at_least(0)
            .below(1)
            .goes_with("scheduler", {"constant", "budget"})
            .help("constant: share of the features that go; budget: share of all parameters");
        s("scheduler", &Options::scheduler)
            .one_of({"constant", "linear", "energy", "budget"})
            .help("how many features each position keeps");
        s("attention_start", &Options::attention_start)
            .at_least(0)
            .below(1)
            .goes_with("scheduler", {"linear"})
            .help("linear: behind attention, first block");
        s("attention_end", &Options::attention_end)
            .at_least(0)
            .below(1)
            .goes_with("scheduler", {"linear"})
            .help("linear: behind attention, last block");
        s("mlp_start", &Options::mlp_start)
            .at_least(0)
            .below(1)
            .goes_with("scheduler", {"linear"})
            .help("linear: before and behind blocks, at the first");
        s("mlp_end", &Options::mlp_end)
            .at_least(0)
            .below(1)
            .goes_with("scheduler", {"linear"})
            .help("linear: before and behind blocks, at the last");
        s("energy", &Options::energy)
            .above(0)
            .at_most(1)
            .goes_with("scheduler", {"energy"})
            .help("energy: share of the signal's energy that stays");
        s("round_interval", &Options::round_interval).at_least(1).help("sizes are multiples of this");
        s("slice_head", &Options::slice_head).help("slices what the head reads too");
        s("basis", &Options::basis)
            .one_of({"position", "block", "shared"})
            .help("one basis for each position, for the positions of a block, or for the whole model (no shortcuts)");
        s("signal", &Options::signal)
            .one_of({"auto", "raw", "normalized"})
            .help("whose principal axes: the stream's, or of what norms make of it; auto: raw, normalized for shared");
        s("final_orientation", &Options::final_orientation)
            .one_of({"pca", "random"})
            .help("random: the kept axes are mixed, which spreads magnitudes and changes no result");
        s("seed", &Options::seed)
            .at_least(0)
            .goes_with("final_orientation", {"random"})
            .help("of the random orientation");
        s("damp", &Options::damp).at_least(0).help("share of the mean variance added to the reported eigenvalues");
        s("compatibility", &Options::compatibility)
            .help("as microsoft/TransformerCompression: raw signals, centred embeddings, a last rotation");
    }

    void check() const override {
        if (opt.compatibility && opt.basis != "position")
            kerf::bad_value("basis = \"", opt.basis, "\": the reference has a basis for each position only");
        if (opt.compatibility && opt.signal == "normalized")
            kerf::bad_value("signal = \"normalized\": the reference takes the raw signal");
        if (opt.scheduler == "linear" && opt.basis != "position")
            kerf::bad_value("scheduler = \"linear\" gives positions unlike sizes; it goes with basis = \"position\"");
        if (opt.scheduler == "budget" && opt.basis == "block")
            kerf::bad_value("scheduler = \"budget\" goes with basis = \"position\" or \"shared\"");
    }

    kerf::BasisPlan plan(const kerf::Residual& residual) const override {
        if (opt.scheduler == "linear" && residual.blocks < 2)
            kerf::bad_value("scheduler = \"linear\" needs two blocks at least");
        for (const auto& position : residual.positions)
            if (opt.round_interval > position.features)
                kerf::bad_value("round_interval = ", opt.round_interval, " is more than the ", position.features,
                                " features of the residual stream, of which no multiple of it can stay");
        const kerf::slicegpt::Sizes sizes(opt, residual);
        const auto kept = sizes.of_positions(spectra_);
        kerf::BasisPlan out;
        out.signal = normalized() ? kerf::Signal::normalized : kerf::Signal::raw;
        out.centre_tables = opt.compatibility;
        out.survey = opt.basis != "position" || opt.scheduler == "energy" ||
                     (opt.scheduler == "budget" && opt.basis == "position");
        out.estimated = opt.scheduler == "energy" || (opt.scheduler == "budget" && opt.basis == "position");
        for (std::size_t p = 0; p < kept.size(); ++p) {
            const bool whole = sizes.is_last(p) && !sizes.slices_head();
            // The reference turns the last position too, although it keeps all of it; I does as well.
            const std::int64_t group = whole && !opt.compatibility ? -1 : group_of(residual, p);
            out.choices.push_back({kept[p], group, opt.basis == "position"});
        }
        std::int64_t widest = 0, state = 0;
        for (const auto& position : residual.positions) widest = std::max(widest, position.features);
        if (opt.basis == "shared") state = 8 * widest * widest;
        if (opt.basis == "block") state = 8 * widest * widest * (residual.blocks + 1);
        out.scratch_bytes = 8 * widest * widest * 4;
        out.state_bytes = state;
        return out;
    }

    void survey(const kerf::Residual& residual, std::size_t position, const kerf::Covariance& covariance,
                kerf::Job& job) override {
        if (position == 0) {
            spectra_.clear();
            sums_.clear();
        }
        check_rank(residual, position, covariance, job);
        if (opt.scheduler == "energy" || opt.scheduler == "budget")
            spectra_.push_back(principal_axes(job, covariance.matrix).values);
        if (opt.basis == "position") return;
        // Every position counts alike, whatever its magnitude.
        const std::int64_t n = covariance.matrix.rows();
        double trace = 0;
        for (std::int64_t i = 0; i < n; ++i) trace += covariance.matrix(i, i);
        auto& sum = sums_[group_of(residual, position)];
        sum.resize(static_cast<std::size_t>(n * n), 0.0);
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < n; ++j)
                sum[static_cast<std::size_t>(i * n + j)] += covariance.matrix(i, j) / trace;
    }

    void basis(const kerf::Residual& residual, std::size_t position, const std::optional<kerf::Covariance>& covariance,
               kerf::MatrixView<double> q, kerf::Job& job) override {
        const std::int64_t n = q.rows();
        kerf::MatrixView<const double> h;
        if (covariance) {
            check_rank(residual, position, *covariance, job);
            h = covariance->matrix;
        } else {
            const auto found = sums_.find(group_of(residual, position));
            if (found == sums_.end()) throw kerf::Error(kerf::Code::internal, "a shared basis without a survey");
            h = {found->second.data(), {n, n}};
        }
        const Principal axes = principal_axes(job, h);
        take_leading(axes, q);
        if (opt.final_orientation == "random") turn_at_random(q, static_cast<std::uint64_t>(opt.seed), position, job);
        report(axes, q.columns(), job);
    }

private:
    /// By default the raw stream's axes: of real models its few large directions carry what attention rests on. A basis
    /// for all positions weighs unlike ones; there, tokens that count alike lose less (docs/methods/slicegpt.md).
    bool normalized() const {
        if (opt.signal == "auto") return !opt.compatibility && opt.basis == "shared";
        return opt.signal == "normalized";
    }

    std::int64_t group_of(const kerf::Residual& residual, std::size_t p) const {
        if (opt.basis == "shared") return 0;
        if (opt.basis == "block") return residual.positions[p].block + 1;
        return static_cast<std::int64_t>(p);
    }

    static void check_rank(const kerf::Residual& residual, std::size_t position, const kerf::Covariance& covariance,
                           const kerf::Job& job) {
        if (position > 0 || covariance.tokens >= covariance.matrix.rows()) return;
        job.log(kerf::Level::warn,
                std::to_string(covariance.tokens) + " calibration tokens span at most as many of the " +
                    std::to_string(residual.positions[position].features) +
                    " directions of the residual stream; the others are arbitrary, more tokens cure it");
    }

    /// Figures of the position, eigenvalues with the damping of the reference.
    void report(const Principal& axes, std::int64_t kept, kerf::Job& job) const {
        double trace = 0, leading = 0;
        for (std::int64_t k = 0; k < axes.size(); ++k) {
            trace += axes.values[static_cast<std::size_t>(k)];
            if (k < kept) leading += axes.values[static_cast<std::size_t>(k)];
        }
        const double n = static_cast<double>(axes.size()), damp = opt.damp * trace / n;
        job.metric("trace", trace);
        job.metric("eigenvalue_largest", axes.values.front() + damp);
        job.metric("eigenvalue_kept", axes.values[static_cast<std::size_t>(kept - 1)] + damp);
        job.metric("eigenvalue_smallest", axes.values.back() + damp);
        const double all = trace + n * damp;
        job.metric("energy", all > 0 ? (leading + static_cast<double>(kept) * damp) / all : 1);
    }

    kerf::slicegpt::Spectra spectra_;
    std::map<std::int64_t, std::vector<double>> sums_;
};

}  // namespace

KERF_PLUGIN(SliceGpt)
