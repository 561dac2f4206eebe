// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kerf/method.hpp"
#include "kerf/panel.hpp"
#include "kerf/sparsity.hpp"

namespace {

struct Options {
    double sparsity = 0.5;
    std::string pattern = "unstructured";
    std::string scope = "row";
};

/// One layer on its way: `result` holds the scores of a row until the row is written.
struct Layer {
    kerf::MatrixView<const float> weight;
    std::span<const float> norms;  ///< [in], ‖X_j‖ / √T
    kerf::MatrixView<float> result;

    std::int64_t columns() const { return weight.columns(); }
    /// |W_ij| · ‖X_j‖, (1) of the paper but for the factor √T.
    void score_row(std::int64_t r) const {
        const auto w = weight.row(r);
        const auto to = result.row(r);
        for (std::size_t c = 0; c < w.size(); ++c) to[c] = std::fabs(w[c]) * norms[c];
    }
    /// The row without the scores of a rank below `rank` and without the first `ties` that are equal to it.
    void write_row(std::int64_t r, std::uint32_t rank, std::int64_t ties) const {
        const auto w = weight.row(r);
        const auto to = result.row(r);
        for (std::size_t c = 0; c < w.size(); ++c) {
            const auto mine = kerf::rank_of(to[c]);
            const bool goes = mine < rank || (mine == rank && ties-- > 0);
            to[c] = goes ? 0.0f : w[c];
        }
    }
    /// The `count` least scores of a row.
    void prune_row(std::int64_t r, std::int64_t count) const {
        score_row(r);
        if (count == 0) return write_row(r, 0, 0);
        const auto scores = result.row(r);
        std::nth_element(scores.begin(), scores.begin() + count - 1, scores.end());
        const auto rank = kerf::rank_of(scores[static_cast<std::size_t>(count - 1)]);
        const auto below = std::count_if(scores.begin(), scores.begin() + count,
                                         [&](float score) { return kerf::rank_of(score) < rank; });
        score_row(r);  // in the order of the columns again
        write_row(r, rank, count - below);
    }
    /// Of each `of` columns those with the `keep` largest scores stay; a later one wins against an equal one.
    void prune_groups(std::int64_t r, kerf::Pattern pattern) const {
        score_row(r);
        const auto of = static_cast<std::size_t>(pattern.of);
        float scores[kerf::largest_pattern];
        for (std::size_t first = 0; first < static_cast<std::size_t>(columns()); first += of) {
            std::copy_n(result.row(r).begin() + static_cast<std::ptrdiff_t>(first), of, scores);
            for (std::size_t i = 0; i < of; ++i) {
                std::int64_t ahead = 0;
                for (std::size_t j = 0; j < of; ++j)
                    ahead += scores[j] > scores[i] || (scores[j] == scores[i] && j > i);
                result.row(r)[first + i] = ahead < pattern.keep ? weight.row(r)[first + i] : 0.0f;
            }
        }
    }
};

/// Wanda (Sun, Liu, Bair, Kolter, arXiv 2306.11695): removes the weights with the least |weight| · ‖input‖, and leaves
/// the others as they are.
class Wanda final : public kerf::Method<Options> {
public:
    static constexpr kerf::Info info{"wanda", "1.0.0",
                                     "Pruning by weight times input norm, unstructured or N:M (arXiv 2306.11695)"};
    static constexpr auto needs = kerf::Curvature::InputDiagonal;
    static constexpr std::uint32_t abi_minor = 1;
    static constexpr auto can = kerf::ParallelLayers | kerf::Resumable | kerf::Prunes;

    static void options(kerf::Schema<Options>& s) {
        s("sparsity", &Options::sparsity)
            .at_least(0)
            .below(1)
            .goes_with("pattern", {"unstructured"})
            .help("share of the weights that go; N:M patterns say it themselves");
        s("pattern", &Options::pattern).help("unstructured, or N:M: of each M columns N stay (2:4, 4:8, ...)");
        s("scope", &Options::scope)
            .one_of({"row", "layer"})
            .goes_with("pattern", {"unstructured"})
            .help("unstructured: weights are compared within each output, or in the whole weight");
    }

    void check() const override { kerf::pattern_of(opt.pattern); }

    kerf::Cost cost(const kerf::LinearShape& layer) const override {
        kerf::check_width(kerf::pattern_of(opt.pattern), layer.in);
        kerf::Cost cost;
        cost.scratch_bytes = 4 * (layer.out * layer.in + layer.in);
        cost.flops = 8.0 * static_cast<double>(layer.out * layer.in);
        return cost;
    }

    void compress(kerf::Linear& layer, kerf::Job& job) const override {
        const auto weight = layer.weight<float>();
        const auto pattern = kerf::pattern_of(opt.pattern);
        kerf::check_width(pattern, weight.columns());
        auto result = job.matrix<float>(weight.shape());
        const auto norms = job.buffer<float>(weight.columns());
        const auto diagonal = job.diagonal(layer);
        for (std::int64_t c = 0; c < weight.columns(); ++c) norms[c] = std::sqrt(diagonal[static_cast<std::size_t>(c)]);
        const Layer work{weight, norms.span(), result.view()};
        check_finite(weight, job);

        if (!pattern.grouped() && opt.scope == "layer") {
            prune_layer(work, job);
        } else {
            const std::int64_t count = kerf::removed_of(opt.sparsity, weight.columns());
            job.parallel_for(weight.rows(), [&](kerf::Range rows) {
                for (const auto r : rows) pattern.grouped() ? work.prune_groups(r, pattern) : work.prune_row(r, count);
            });
        }
        layer.replace(std::move(result));
    }

private:
    /// A NaN has no rank, so none may come near the scores.
    static void check_finite(kerf::MatrixView<const float> weight, const kerf::Job& job) {
        job.parallel_for(weight.rows(), [&](kerf::Range rows) {
            for (const auto r : rows)
                for (const float w : weight.row(r))
                    if (!std::isfinite(w))
                        throw kerf::Error(kerf::Code::numeric, "the weight has a NaN or an infinity in row ", r,
                                          ": the checkpoint is damaged");
        });
    }
    void prune_layer(const Layer& work, const kerf::Job& job) const {
        const std::int64_t rows = work.weight.rows();
        const auto parallel = kerf::parallel_over(job);
        parallel(rows, [&](std::int64_t r) { work.score_row(r); });
        const auto cut = kerf::cut_smallest(
            kerf::removed_of(opt.sparsity, rows * work.columns()), rows,
            [&](std::int64_t r) { return std::span<const float>(work.result.row(r)); }, parallel);
        parallel(rows, [&](std::int64_t r) { work.write_row(r, cut.rank, cut.ties[static_cast<std::size_t>(r)]); });
    }
};

}  // namespace

KERF_PLUGIN(Wanda);
