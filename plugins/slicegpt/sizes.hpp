// SPDX-License-Identifier: Apache-2.0
/// How many features each position of the residual stream keeps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "kerf/bases.hpp"

namespace kerf::slicegpt {

struct Options {
    double sparsity = 0.25;
    std::string scheduler = "constant";
    double attention_start = 0.25, attention_end = 0.25, mlp_start = 0.25, mlp_end = 0.25;
    double energy = 0.99;
    std::int64_t round_interval = 8;
    bool slice_head = false;
    std::string basis = "position";
    std::string signal = "auto";
    std::string final_orientation = "pca";
    std::int64_t seed = 0;
    double damp = 0.01;
    bool compatibility = false;
};

/// What is left of `features` at a sparsity, as the reference rounds: the product is cut to a whole number in float64,
/// then to a multiple of the interval.
inline std::int64_t sliced_size(double sparsity, std::int64_t features, std::int64_t interval) {
    const auto size = static_cast<std::int64_t>((1.0 - sparsity) * static_cast<double>(features));
    return size - size % interval;
}

/// What `energy` and `budget` go by: the eigenvalues of each position in the uncompressed model, descending.
using Spectra = std::vector<std::vector<double>>;

class Sizes {
public:
    Sizes(const Options& options, const Residual& residual) : opt_(options), residual_(residual) {}

    /// `spectra` may be empty before a survey: then "energy" keeps everything, and "budget", for a spectrum that knows
    /// no directions, stops short of the last cut, so that no other spectrum leaves a larger model.
    std::vector<std::int64_t> of_positions(const Spectra& spectra) const {
        std::vector<std::int64_t> out;
        if (opt_.scheduler == "budget") {
            out = opt_.basis == "shared" ? shared_budget() : budget(spectra);
        } else {
            for (std::size_t p = 0; p < residual_.positions.size(); ++p) out.push_back(size_at(p, spectra));
        }
        check(out);
        return out;
    }

    bool is_last(std::size_t p) const { return p + 1 == residual_.positions.size(); }
    /// Whether the last position, which the head reads, is sliced.
    bool slices_head() const { return opt_.slice_head || opt_.basis == "shared"; }

private:
    std::int64_t features(std::size_t p) const { return residual_.positions[p].features; }

    std::int64_t size_at(std::size_t p, const Spectra& spectra) const {
        if (is_last(p) && !slices_head()) return features(p);
        if (opt_.scheduler == "constant") return sliced_size(opt_.sparsity, features(p), opt_.round_interval);
        if (opt_.scheduler == "linear") return linear_size(p);
        if (spectra.empty()) return features(p);
        // One basis has one size: enough for the position that needs most.
        if (opt_.basis == "position") return energy_size(spectra[p]);
        std::int64_t size = 0;
        for (std::size_t other = 0; other < spectra.size(); ++other)
            if (opt_.basis == "shared" || residual_.positions[other].block == residual_.positions[p].block)
                size = std::max(size, energy_size(spectra[other]));
        return size;
    }

    /// Sparsities as functions of depth: positions behind attention follow one line, those before the first block and
    /// behind blocks another, at the block that reads them.
    std::int64_t linear_size(std::size_t p) const {
        const Position& at = residual_.positions[p];
        const bool inside = at.kind == Position::Kind::inside;
        const std::int64_t place = std::min(residual_.blocks - 1, inside ? at.block : at.block + 1);
        const double way = static_cast<double>(place) / static_cast<double>(residual_.blocks - 1);
        const double start = inside ? opt_.attention_start : opt_.mlp_start,
                     end = inside ? opt_.attention_end : opt_.mlp_end;
        return sliced_size(start + (end - start) * way, at.features, opt_.round_interval);
    }

    /// The smallest multiple of the interval that keeps the share of the energy that is asked for.
    std::int64_t energy_size(const std::vector<double>& spectrum) const {
        const double all = std::accumulate(spectrum.begin(), spectrum.end(), 0.0);
        const auto n = static_cast<std::int64_t>(spectrum.size());
        double kept = 0;
        for (std::int64_t k = 1; k <= n; ++k) {
            kept += spectrum[static_cast<std::size_t>(k - 1)];
            if (kept >= opt_.energy * all)
                return std::min(n, (k + opt_.round_interval - 1) / opt_.round_interval * opt_.round_interval);
        }
        return n;
    }

    std::int64_t allowed() const {
        return static_cast<std::int64_t>((1.0 - opt_.sparsity) * static_cast<double>(residual_.parameters));
    }

    /// One basis for all: no shortcuts, every feature costs the same, and at each position a norm's weight may be kept
    /// for a stock class.
    std::vector<std::int64_t> shared_budget() const {
        std::int64_t each = 0;
        for (const auto& position : residual_.positions) each += position.parameters + 1;
        const std::int64_t size = std::min(features(0), (allowed() - residual_.other_parameters) / each);
        return std::vector<std::int64_t>(residual_.positions.size(),
                                         std::max<std::int64_t>(0, size - size % opt_.round_interval));
    }

    /// From full sizes, takes the interval of features away where that loses the least share of energy for a parameter
    /// saved, until the model with its shortcuts fits.
    std::vector<std::int64_t> budget(const Spectra& spectra) const {
        const std::size_t count = residual_.positions.size();
        std::vector<std::int64_t> sizes;
        std::vector<std::vector<double>> tail(count);  // tail[p][k]: share of the energy past the first k
        for (std::size_t p = 0; p < count; ++p) {
            sizes.push_back(features(p));
            const auto n = static_cast<std::size_t>(features(p));
            tail[p].assign(n + 1, 0.0);
            const bool known = !spectra.empty();
            double all = 0;
            for (std::size_t k = 0; k < n; ++k) all += known ? spectra[p][k] : 1.0;
            for (std::size_t k = n; k-- > 0;) tail[p][k] = tail[p][k + 1] + (known ? spectra[p][k] : 1.0) / all;
        }
        std::int64_t total = parameters_of(sizes);
        while (total > allowed()) {
            double best = 0;
            std::size_t where = count;
            for (std::size_t p = 0; p < count; ++p) {
                if (is_last(p) && !slices_head()) continue;
                const std::int64_t less = smaller(sizes[p]);
                if (less < 1) continue;
                const double lost =
                    tail[p][static_cast<std::size_t>(less)] - tail[p][static_cast<std::size_t>(sizes[p])];
                const double rate = lost / static_cast<double>(saved(sizes, p, less));
                if (where == count || rate < best) {
                    best = rate;
                    where = p;
                }
            }
            if (where == count)
                bad_value("sparsity = ", opt_.sparsity, " of the parameters cannot be reached by slicing: ", total,
                          " are left of ", residual_.parameters);
            const std::int64_t less = smaller(sizes[where]);
            if (spectra.empty() && total - saved(sizes, where, less) <= allowed()) break;
            total -= saved(sizes, where, less);
            sizes[where] = less;
        }
        return sizes;
    }

    std::int64_t smaller(std::int64_t size) const {
        return size % opt_.round_interval == 0 ? size - opt_.round_interval : size - size % opt_.round_interval;
    }
    std::int64_t parameters_of(const std::vector<std::int64_t>& sizes) const {
        std::int64_t sum = residual_.other_parameters;
        for (std::size_t p = 0; p < sizes.size(); ++p) {
            sum += residual_.positions[p].parameters * sizes[p];
            if (p > 0) sum += sizes[p - 1] * sizes[p];
        }
        return sum;
    }
    std::int64_t saved(const std::vector<std::int64_t>& sizes, std::size_t p, std::int64_t less) const {
        std::int64_t each = residual_.positions[p].parameters;
        if (p > 0) each += sizes[p - 1];
        if (p + 1 < sizes.size()) each += sizes[p + 1];
        return each * (sizes[p] - less);
    }

    void check(const std::vector<std::int64_t>& sizes) const {
        for (std::size_t p = 0; p < sizes.size(); ++p)
            if (sizes[p] < 1)
                bad_value("nothing would be left of the ", features(p), " features at ", residual_.positions[p].name,
                          " with round_interval = ", opt_.round_interval, "; lower the sparsity or the interval");
    }

    const Options& opt_;
    const Residual& residual_;
};

}  // namespace kerf::slicegpt
