// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kerf/panel.hpp"
#include "kerf/sparsity.hpp"
#include "kerf/tensor.hpp"
#include "kernel.hpp"

namespace kerf::sparsegpt {

static_assert(largest_group == largest_pattern);

/// What this processor can run, the best one last.
inline std::vector<const Kernel*> kernels() {
    std::vector<const Kernel*> found{&portable_kernel()};
#ifdef KERF_KERNELS_X86
    if (best_isa() >= Isa::avx2) found.push_back(&avx2_kernel());
    if (best_isa() >= Isa::avx512) found.push_back(&avx512_kernel());
#endif
    return found;
}

struct Settings {
    Pattern pattern;
    double sparsity = 0.5;          ///< unstructured: of each block
    std::int64_t block_size = 128;  ///< unstructured: columns whose weights, of all rows, are compared with each other
    bool one_more = false;          ///< unstructured: a block loses ⌊share⌋ + 1 weights, as in the reference
    bool quantise = false;
    GridOptions grid;             ///< with quantise, as the next one
    std::int64_t group_size = 0;  ///< columns that share a scale, 1..columns
};

/// One layer: W [out, in], U and what was added to the diagonal of H before it was factored.
struct Problem {
    MatrixView<const float> weight, upper, gram;
    std::span<const std::int64_t> order;  ///< 0, 1, 2, …: patterns are of neighbours as stored
    std::span<const std::uint8_t> dead;
    double lambda = 0;
};

/// Memory that the loop works in, from `work_sizes`.
struct Work {
    float* panels;         ///< all weights, [ceil(out / lanes)][in][lanes]
    float* packed;         ///< a piece of U or H in strips
    float* scores;         ///< unstructured: of one block, [ceil(out / lanes)][block][lanes]
    std::uint32_t* masks;  ///< [ceil(out / lanes)][in]
    PanelGrid* grids;      ///< with quantise: [ceil(out / lanes)][groups]
};
struct WorkSizes {
    std::int64_t panels, packed, scores, masks, grids;
    std::int64_t bytes() const {
        return 4 * (panels + packed + scores + masks) + static_cast<std::int64_t>(sizeof(PanelGrid)) * grids;
    }
};
WorkSizes work_sizes(const Settings& settings, Shape weight);

/// Where the result goes: the weight, or (quantise) codes and grids.
struct Result {
    MatrixView<float> values;         ///< [out, in]
    MatrixView<std::uint8_t> codes;   ///< [out, in]
    MatrixView<float> scales, zeros;  ///< [out, groups]
};

struct Figures {
    double loss = 0;   ///< ½ tr(R (H + λI) Rᵀ), R = W − Ŵ
    double error = 0;  ///< tr(R H Rᵀ) / tr(W H Wᵀ)
};

/// SparseGPT (Algorithm 1 of arXiv 2301.00774) for one layer: as GPTQ, but what a column loses is not rounding (or not
/// only). Weights that are 0 already stay 0 and count as removed.
class PruningLoop {
public:
    PruningLoop(const Kernel& kernel, const Settings& settings, const Problem& problem, const Work& work,
                const Result& result, const Parallel& parallel);
    /// Throws Error(numeric) for weights that are not finite.
    Figures run();

private:
    std::int64_t columns() const { return problem_.weight.columns(); }
    std::int64_t groups() const { return (columns() + settings_.group_size - 1) / settings_.group_size; }
    Piece piece_of(std::int64_t p, std::int64_t first, std::int64_t last) const;
    void fit_grids() const;
    void bring_up(std::int64_t first, std::int64_t last) const;
    void choose_masks(std::int64_t first, std::int64_t last) const;
    void sweep_pieces(std::int64_t first, std::int64_t last, std::int64_t from);
    void sweep(std::int64_t p, std::int64_t first, std::int64_t last, std::int64_t from);
    double store(std::int64_t p, std::int64_t first, std::int64_t last, const float* values,
                 const std::uint8_t* codes) const;
    void store_grids() const;

    const Kernel& kernel_;
    const Settings settings_;
    const Problem problem_;
    const Work work_;
    const Result result_;
    Panels panels_;
    std::vector<std::int32_t> group_of_;   ///< by column
    std::vector<double> loss_, residual_;  ///< by panel: ½ Σ e², Σ (w − ŵ)²
};

}  // namespace kerf::sparsegpt
