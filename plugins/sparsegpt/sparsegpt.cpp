// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>

#include "kerf/method.hpp"
#include "loop.hpp"

namespace kerf::sparsegpt {

struct Options {
    double sparsity = 0.5;
    std::string pattern = "unstructured";
    std::int64_t block_size = 128;
    double damp = 0.01;
    int bits = 0;
    std::int64_t group_size = -1;
    bool sym = false;
    std::string scale_dtype = "float16";
    int least_zero = 1;
    bool compatibility = false;
};

Settings settings_of(const Options& o, std::int64_t columns) {
    const std::int64_t whole = std::max<std::int64_t>(1, columns);
    Settings s;
    s.pattern = pattern_of(o.pattern);
    s.sparsity = o.sparsity;
    s.block_size = o.block_size;
    s.one_more = o.compatibility;
    s.quantise = o.bits > 0;
    s.group_size = o.group_size < 0 ? whole : std::min(o.group_size, whole);
    s.grid.bits = o.bits;
    s.grid.symmetric = o.sym;
    s.grid.one_sided = o.compatibility;
    s.grid.least_zero = o.compatibility ? 0 : o.least_zero;
    s.grid.scale_type = o.scale_dtype == "float32" || o.compatibility ? ScaleType::float32 : ScaleType::float16;
    return s;
}

/// SparseGPT (Frantar and Alistarh, arXiv 2301.00774): removes the weights that the layer's output on the calibration
/// data misses least, column by column, and lets the columns that are still to come make up for what each one lost.
class SparseGpt final : public Method<Options> {
public:
    static constexpr Info info{"sparsegpt", "1.0.0",
                               "Pruning, unstructured or N:M, with second-order error compensation (arXiv 2301.00774)"};
    static constexpr auto needs = Curvature::InputGram;
    static constexpr auto can = Resumable | Prunes;

    static void options(Schema<Options>& s) {
        s("sparsity", &Options::sparsity)
            .at_least(0)
            .below(1)
            .goes_with("pattern", {"unstructured"})
            .help("share of the weights that go; N:M patterns say it themselves");
        s("pattern", &Options::pattern).help("unstructured, or N:M: of each M columns N stay (2:4, 4:8, ...)");
        s("block_size", &Options::block_size)
            .within(1, 1 << 20)
            .goes_with("pattern", {"unstructured"})
            .help("unstructured: columns whose weights, of all rows, are compared with each other");
        s("damp", &Options::damp).above(0).at_most(1e6).help("share of the mean diagonal of H added to it");
        s("bits", &Options::bits).within(2, 8).also(0).help("round what remains in the same pass; 0: do not");
        s("group_size", &Options::group_size)
            .at_least(1)
            .also(-1)
            .help("with bits: columns that share a scale; -1: a whole row");
        s("sym", &Options::sym).help("with bits: the zero point is fixed at the middle code");
        s("scale_dtype", &Options::scale_dtype)
            .one_of({"float16", "float32"})
            .help("with bits: what scales are rounded to before use; packed formats store float16");
        s("least_zero", &Options::least_zero)
            .within(0, 1)
            .help("with bits: smallest zero point; format gptq (v1) cannot store 0");
        s("compatibility", &Options::compatibility).help("counts and grids as IST-DASLab's sparsegpt has them");
    }

    void check() const override {
        pattern_of(opt.pattern);
        if (opt.group_size == 0)
            bad_value("group_size = 0: give the number of columns that share a scale, or -1 for a whole row");
    }

    Cost cost(const LinearShape& layer) const override {
        const Settings s = settings_of(opt, layer.in);
        check_width(s.pattern, layer.in);
        const Shape shape{layer.out, layer.in};
        const std::int64_t result = s.quantise ? GroupAffine::bytes(shape, s.group_size) : 4 * layer.out * layer.in;
        Cost cost;
        cost.scratch_bytes = work_sizes(s, shape).bytes() + result;
        // The column loop and half of W H for the relative error, each O·I².
        cost.flops = 2 * static_cast<double>(layer.out * layer.in) * static_cast<double>(layer.in);
        cost.bits = opt.bits;
        cost.group_size = opt.group_size < 0 ? -1 : opt.group_size;
        return cost;
    }

    void compress(Linear& layer, Job& job) const override {
        const auto weight = layer.weight<float>();
        const Shape shape = weight.shape();
        const Settings settings = settings_of(opt, shape.columns);
        check_width(settings.pattern, shape.columns);
        const Factor factor = job.factor(layer, {.order = Order::none, .damp = opt.damp});
        const Gram gram = job.gram(layer);

        const WorkSizes sizes = work_sizes(settings, shape);
        const auto panels = job.buffer<float>(sizes.panels), packed = job.buffer<float>(sizes.packed),
                   scores = job.buffer<float>(sizes.scores);
        const auto masks = job.buffer<std::uint32_t>(sizes.masks);
        const auto grids = job.buffer<PanelGrid>(sizes.grids);
        const Problem problem{weight, factor.upper, gram.matrix(), factor.order, factor.dead, factor.lambda(gram)};
        const Work work{panels.data(), packed.data(), scores.data(), masks.data(), grids.data()};
        if (settings.quantise) {
            GroupAffine rounded(shape, opt.bits, settings.group_size, job);
            report(run(settings, problem, work, {{}, rounded.codes(), rounded.scales(), rounded.zeros()}, job), factor,
                   job);
            layer.replace(std::move(rounded));
        } else {
            auto dense = job.matrix<float>(shape);
            report(run(settings, problem, work, {dense.view(), {}, {}, {}}, job), factor, job);
            layer.replace(std::move(dense));
        }
    }

private:
    static Figures run(const Settings& settings, const Problem& problem, const Work& work, const Result& result,
                       const Job& job) {
        return PruningLoop(*kernels().back(), settings, problem, work, result, parallel_over(job)).run();
    }
    static void report(const Figures& figures, const Factor& factor, const Job& job) {
        job.metric("loss", figures.loss);
        job.metric("error", figures.error);
        job.metric("damp", factor.damp);
        job.metric("attempts", factor.attempts);
    }
};

}  // namespace kerf::sparsegpt

KERF_PLUGIN(kerf::sparsegpt::SparseGpt);
