// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kerf/panel.hpp"
#include "kerf/tensor.hpp"
#include "kernel.hpp"
#include "schedule.hpp"

namespace kerf::gptq {

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
    GridOptions grid;
    std::int64_t group_size = 0;   ///< columns that share a scale, 1..columns
    bool static_groups = false;    ///< all grids from the weights as they were, before the loop
    bool per_channel = true;       ///< false: all rows share a grid
    bool weighted = true;          ///< the grid search weighs column c with 1/U_cc²
    std::int64_t stale_block = 0;  ///< > 0: group grids see the updates of whole blocks of this size only
    bool fit_dead = false;         ///< a whole row's grid covers columns without influence, too
    bool keep_zeros = false;       ///< a weight that is exactly 0 stays 0
    int refine = 0;                ///< sweeps of coordinate descent after the loop
};

/// One layer: W [out, in], U and the order of its rows and columns, H. `gram` may be empty unless settings.refine > 0:
/// no relative error is worked out then.
struct Problem {
    MatrixView<const float> weight, upper, gram;
    std::span<const std::int64_t> order;
    std::span<const std::uint8_t> dead;
    double lambda = 0;  ///< what was added to the diagonal of H before it was factored
};

/// Memory that the loop works in, from `work_sizes`.
struct Work {
    float* panels;         ///< all weights, [ceil(out / lanes)][in][lanes]
    float* packed;         ///< a piece of U or H in strips
    PanelGrid* grids;      ///< [ceil(out / lanes)][groups]
    float* block;          ///< [piece_width][piece_width], only with settings.refine
    std::uint32_t* zeros;  ///< [ceil(out / lanes)][in] bits of rows, only with settings.keep_zeros
};
struct WorkSizes {
    std::int64_t panels, packed, grids, block, zeros;
    std::int64_t bytes() const {
        return 4 * (panels + packed + block + zeros) + static_cast<std::int64_t>(sizeof(PanelGrid)) * grids;
    }
};
WorkSizes work_sizes(const Settings& settings, Shape weight);

/// Where the result goes: codes and grids, or (values not empty) the dequantised weight.
struct Result {
    MatrixView<std::uint8_t> codes;       ///< [out, in]
    MatrixView<float> values;             ///< [out, in]
    MatrixView<float> scales, zeros;      ///< [out, groups]
    std::span<std::int32_t> group_index;  ///< [in]
};

struct Figures {
    double loss = 0;      ///< ½ tr(R (H + λI) Rᵀ), R = W − Ŵ
    double residual = 0;  ///< tr(R Rᵀ)
    double energy = 0;    ///< tr(W H Wᵀ); 0 without H
    double error = 0;     ///< tr(R H Rᵀ) / tr(W H Wᵀ); 0 without H
};

/// GPTQ's column loop (Algorithm 1 of arXiv 2210.17323) for one layer. The inner loop of the paper goes over columns
/// for all rows; here a panel of 32 rows lies transposed, so that a column is a few registers, and updates are applied
/// lazily as one long product a panel and piece of columns. Panels never see each other: the bytes do not depend on
/// threads.
class ColumnLoop {
public:
    ColumnLoop(const Kernel& kernel, const Settings& settings, const Problem& problem, const Work& work,
               const Result& result, Parallel parallel);
    /// Throws Error(numeric) for weights that are not finite.
    Figures run();

private:
    std::int64_t rows() const { return problem_.weight.rows(); }
    std::int64_t columns() const { return problem_.weight.columns(); }
    std::int64_t panels() const { return panels_.count(); }
    std::int64_t groups() const { return (columns() + settings_.group_size - 1) / settings_.group_size; }
    bool fixed_grids() const { return settings_.static_groups || groups() == 1; }
    float* panel(std::int64_t p) const { return panels_.panel(p); }
    PanelGrid* grids(std::int64_t p) const { return work_.grids + p * groups(); }
    std::int64_t original(std::int64_t place) const { return panels_.original(place); }

    void number_groups();
    void fit_fixed_grids() const;
    void fit(std::int64_t first, std::int64_t last, std::int64_t group, const float* importance) const;
    void fit_over_rows(std::int64_t first, std::int64_t last, std::int64_t group, const float* importance) const;
    void run_phase(const Phase& phase);
    void round(const Phase& phase, std::int64_t p);
    void keep(std::int64_t first, std::int64_t last, const std::uint8_t* codes, std::int64_t p) const;
    float value_of(const PanelGrid& grid, int lane, std::uint8_t code) const;
    double residual(std::int64_t p) const;
    void refine();
    void descend(std::int64_t first, std::int64_t last, std::int64_t p) const;
    void load_residual(std::int64_t p) const;
    void store_grids() const;

    const Kernel& kernel_;
    const Settings settings_;
    const Problem problem_;
    const Work work_;
    const Result result_;
    const Parallel parallel_;
    Panels panels_;
    bool in_order_;                         ///< order is 0, 1, 2, …
    std::vector<std::int32_t> group_of_;    ///< by place
    std::vector<std::int32_t> group_from_;  ///< by original column
    std::vector<float> importance_;         ///< by place: 1/U_cc², empty when not wanted
    std::vector<double> loss_;              ///< by panel
};

}  // namespace kerf::gptq
