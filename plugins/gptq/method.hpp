// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "kerf/method.hpp"
#include "options.hpp"

namespace kerf::gptq {

/// GPTQ (Frantar et al., arXiv 2210.17323): rounds a weight column by column and lets the columns that are still to
/// come make up for what each one lost, so that the layer's output on the calibration data changes least.
class Gptq final : public Method<Options> {
public:
    static constexpr Info info{"gptq", "1.0.0",
                               "Rounding to 2..8 bits with second-order error compensation (arXiv 2210.17323)"};
    static constexpr auto needs = Curvature::InputGram;
    static constexpr auto can = Resumable;

    static void options(Schema<Options>& s) {
        s("bits", &Options::bits).within(2, 8).help("bits per weight");
        s("group_size", &Options::group_size).at_least(1).also(-1).help("columns that share a scale; -1: a whole row");
        s("sym", &Options::sym).help("symmetric grids: the zero point is fixed at the middle code");
        s("order", &Options::order)
            .one_of({"auto", "none", "act", "group_aware"})
            .help("columns as stored, by descending curvature, or that inside each group and among groups");
        s("act_order", &Options::act_order).help("the same as order = \"act\"");
        s("static_groups", &Options::static_groups).help("fit all grids before any column is rounded");
        s("damp", &Options::damp).above(0).at_most(1e6).help("share of the mean diagonal of H added to it");
        s("block_size", &Options::block_size)
            .at_least(1)
            .help("with compatibility: columns whose updates grids see together");
        s("search", &Options::search)
            .one_of({"auto", "none", "mse", "weighted"})
            .help("shrink ranges for the least error: plain, or weighted by what a column's error costs");
        s("mse", &Options::mse).help("the same as search = \"mse\"");
        s("norm", &Options::norm).within(0.1, 16).help("search = \"mse\": exponent of the error");
        s("grid", &Options::grid)
            .within(0, 10000)
            .help("search: steps of 1/grid of the range; 0: 100 for mse, 16 for weighted");
        s("maxshrink", &Options::maxshrink).above(0).at_most(1).help("search: how much of the range is tried away");
        s("trits", &Options::trits)
            .help("three values a row or group: its smallest, 0, its largest; the result is dense");
        s("per_channel", &Options::per_channel).help("false: all rows share a grid");
        s("refine", &Options::refine)
            .within(0, 100)
            .help("sweeps of coordinate descent over scales and codes afterwards");
        s("scale_dtype", &Options::scale_dtype)
            .one_of({"auto", "float16", "float32"})
            .help("what scales are rounded to before use; auto: float16, as packed formats store them");
        s("least_zero", &Options::least_zero).within(0, 1).help("smallest zero point; format gptq (v1) cannot store 0");
        s("keep_zeros", &Options::keep_zeros)
            .help("weights that are exactly 0 stay 0, so that what an earlier stage pruned stays pruned");
        s("compatibility", &Options::compatibility).help("round as IST-DASLab's gptq does, its oddities included");
    }

    void check() const override { gptq::check(opt); }

    Cost cost(const LinearShape& layer) const override {
        const Settings s = settings_of(opt, layer.in);
        const std::int64_t groups = (layer.in + s.group_size - 1) / s.group_size;
        const std::int64_t weights = layer.out * layer.in;
        const std::int64_t result = weights + 8 * layer.out * groups + 4 * layer.in;
        // The column loop and half of W H for the relative error, each O·I²; a sweep is a whole W H.
        const double product = static_cast<double>(weights) * static_cast<double>(layer.in);
        Cost cost;
        cost.scratch_bytes = work_sizes(s, {layer.out, layer.in}).bytes() + result + (opt.trits ? 4 * weights : 0);
        cost.flops = product * (2 + 2 * opt.refine);
        cost.bits = opt.trits ? 0 : opt.bits;
        cost.group_size = opt.group_size < 0 ? -1 : opt.group_size;
        return cost;
    }

    void compress(Linear& layer, Job& job) const override {
        const auto weight = layer.weight<float>();
        const Shape shape = weight.shape();
        const Settings settings = settings_of(opt, shape.columns);
        const auto order = order_of(opt, shape.columns);
        const Factor factor = job.factor(layer, {order, settings.group_size, opt.damp});
        const Gram gram = job.gram(layer);

        const WorkSizes sizes = work_sizes(settings, shape);
        const auto panels = job.buffer<float>(sizes.panels), packed = job.buffer<float>(sizes.packed);
        const auto grids = job.buffer<PanelGrid>(sizes.grids);
        const auto block = sizes.block > 0 ? job.buffer<float>(sizes.block) : Buffer<float>();
        const auto zeros = sizes.zeros > 0 ? job.buffer<std::uint32_t>(sizes.zeros) : Buffer<std::uint32_t>();
        GroupAffine quantised(shape, opt.trits ? 2 : opt.bits, settings.group_size, job);
        auto dense = opt.trits ? job.matrix<float>(shape) : Matrix<float>();

        const Problem problem{weight, factor.upper, gram.matrix(), factor.order, factor.dead, factor.lambda(gram)};
        const Work work{panels.data(), packed.data(), grids.data(), block.data(), zeros.data()};
        const Result result{quantised.codes(), dense.view(), quantised.scales(), quantised.zeros(),
                            quantised.group_index()};
        const Figures figures =
            ColumnLoop(*kernels().back(), settings, problem, work, result, parallel_over(job)).run();
        job.metric("loss", figures.loss);
        job.metric("error", figures.error);
        job.metric("damp", factor.damp);
        job.metric("attempts", factor.attempts);
        if (opt.trits)
            layer.replace(std::move(dense));
        else
            layer.replace(std::move(quantised));
    }
};

}  // namespace kerf::gptq
