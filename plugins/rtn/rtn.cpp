// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <string>

#include "kerf/method.hpp"
#include "kerf/quantization.hpp"

namespace {

struct Options {
    int bits = 4;
    std::int64_t group_size = 128;
    bool sym = false;
    bool mse = false;
    double norm = 2.4;
    int grid = 100;
    double maxshrink = 0.8;
    bool trits = false;
    std::string scale_dtype = "float16";
    int least_zero = 1;
    bool compatibility = false;
};

kerf::GridOptions grid_options(const Options& o) {
    kerf::GridOptions grid;
    grid.bits = o.bits;
    grid.symmetric = o.sym;
    grid.ternary = o.trits;
    grid.one_sided = o.compatibility;
    grid.least_zero = o.compatibility ? 0 : o.least_zero;
    grid.scale_type =
        o.scale_dtype == "float32" || o.compatibility ? kerf::ScaleType::float32 : kerf::ScaleType::float16;
    grid.norm = static_cast<float>(o.norm);
    grid.search_grid = o.grid;
    grid.search_steps = o.mse ? static_cast<int>(o.maxshrink * o.grid) : 0;
    return grid;
}

/// One row: fits the grid of each group, keeps codes and grids.
struct Row {
    const float* weights;
    std::int64_t columns, group_size;
    std::uint8_t* codes;
    float *scales, *zeros;
};

/// Compiled for three instruction sets with everything that it calls; the best one is chosen when the plugin is loaded.
/// None of them may fuse operations (kerf_add_plugin sees to it), so all give the same bytes.
#if defined(__x86_64__) && defined(__GNUC__)
[[gnu::flatten, gnu::target_clones("avx512f", "avx2", "default")]]
#endif
void round_row(const kerf::GridOptions& options, const Row& row) {
    std::int64_t group = 0;
    for (std::int64_t first = 0; first < row.columns; first += row.group_size, ++group) {
        const std::int64_t left = row.columns - first, count = left < row.group_size ? left : row.group_size;
        const auto grid = kerf::fit_run(options, row.weights + first, count);
        kerf::quantise_run(options, grid, row.weights + first, count, row.codes + first);
        row.scales[group] = grid.scale[0];
        row.zeros[group] = grid.zero[0];
    }
}

class Rtn final : public kerf::Method<Options> {
public:
    static constexpr kerf::Info info{"rtn", "1.0.0", "Rounding to the nearest of 2..8-bit codes, without calibration"};
    static constexpr auto can = kerf::ParallelLayers | kerf::Resumable;

    static void options(kerf::Schema<Options>& s) {
        s("bits", &Options::bits).within(2, 8).help("bits per weight");
        s("group_size", &Options::group_size).at_least(1).also(-1).help("columns that share a scale; -1: a whole row");
        s("sym", &Options::sym).help("symmetric grids: the zero point is fixed at the middle code");
        s("mse", &Options::mse).help("shrink ranges for the least sum of |error|^norm");
        s("norm", &Options::norm).within(0.1, 16).help("with mse: exponent of the error");
        s("grid", &Options::grid).within(1, 10000).help("with mse: steps of 1/grid of the range");
        s("maxshrink", &Options::maxshrink).above(0).at_most(1).help("with mse: how much of the range is tried away");
        s("trits", &Options::trits)
            .help("three values a row or group: its smallest, 0, its largest; the result is dense");
        s("scale_dtype", &Options::scale_dtype)
            .one_of({"float16", "float32"})
            .help("what scales are rounded to before use; packed formats store float16");
        s("least_zero", &Options::least_zero).within(0, 1).help("smallest zero point; format gptq (v1) cannot store 0");
        s("compatibility", &Options::compatibility).help("grids as IST-DASLab's gptq fits them, its oddities included");
    }

    void check() const override {
        if (opt.group_size == 0)
            kerf::bad_value("group_size = 0: give the number of columns that share a scale, or -1 for a whole row");
        if (opt.mse && static_cast<int>(opt.maxshrink * opt.grid) < 1)
            kerf::bad_value("maxshrink * grid = ", opt.maxshrink * opt.grid,
                            ": the search has nothing to try; make one of them larger");
        if (opt.mse && opt.trits)
            kerf::bad_value("trits = true goes without mse: a ternary grid is the range of the weights");
    }

    kerf::Cost cost(const kerf::LinearShape& layer) const override {
        const std::int64_t weights = layer.out * layer.in, group = width(layer.in);
        kerf::Cost cost;
        cost.scratch_bytes =
            weights + 8 * layer.out * ((layer.in + group - 1) / group) + 4 * layer.in + (opt.trits ? 4 * weights : 0);
        cost.flops = static_cast<double>(weights) * (8 + 8.0 * grid_options(opt).search_steps);
        cost.bits = opt.trits ? 0 : opt.bits;
        cost.group_size = opt.group_size;
        return cost;
    }

    void compress(kerf::Linear& layer, kerf::Job& job) const override {
        const auto weight = layer.weight<float>();
        const auto options = grid_options(opt);
        kerf::GroupAffine result(weight.shape(), opt.trits ? 2 : opt.bits, width(weight.columns()), job);
        auto dense = opt.trits ? job.matrix<float>(weight.shape()) : kerf::Matrix<float>();
        std::vector<double> lost(static_cast<std::size_t>(weight.rows())), size(lost.size());
        job.parallel_for(weight.rows(), [&](kerf::Range rows) {
            for (const auto r : rows) {
                round_row(options,
                          {weight.row(r).data(), weight.columns(), result.group_size(), result.codes().row(r).data(),
                           result.scales().row(r).data(), result.zeros().row(r).data()});
                for (std::int64_t c = 0; c < weight.columns(); ++c) {
                    const float value = value_of(result, r, c);
                    const double d = static_cast<double>(weight(r, c)) - value;
                    lost[static_cast<std::size_t>(r)] += d * d;
                    size[static_cast<std::size_t>(r)] += static_cast<double>(weight(r, c)) * weight(r, c);
                    if (opt.trits) dense(r, c) = value;
                }
            }
        });
        report(lost, size, job);
        if (opt.trits)
            layer.replace(std::move(dense));
        else
            layer.replace(std::move(result));
    }

private:
    std::int64_t width(std::int64_t columns) const {
        const std::int64_t whole = std::max<std::int64_t>(1, columns);
        return opt.group_size < 0 ? whole : std::min(opt.group_size, whole);
    }
    float value_of(const kerf::GroupAffine& result, std::int64_t row, std::int64_t column) const {
        const auto group = column / result.group_size();
        const float scale = result.scales()(row, group), zero = result.zeros()(row, group);
        const auto code = result.codes()(row, column);
        if (opt.trits) return code == 2 ? scale : code == 0 ? zero : 0.0f;
        return scale * (static_cast<float>(code) - zero);
    }
    static void report(const std::vector<double>& lost, const std::vector<double>& size, kerf::Job& job) {
        double residual = 0, energy = 0;
        for (std::size_t r = 0; r < lost.size(); ++r) {
            residual += lost[r];
            energy += size[r];
        }
        if (!std::isfinite(energy))
            throw kerf::Error(kerf::Code::numeric, "the weight has a NaN or an infinity: the checkpoint is damaged");
        job.metric("weight_error", energy > 0 ? residual / energy : 0);
    }
};

}  // namespace

KERF_PLUGIN(Rtn);
