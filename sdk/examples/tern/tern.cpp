// SPDX-License-Identifier: Apache-2.0
// A compression method in a repository of its own. It rounds each weight to a grid of its group, column by column, and
// lets the columns that are still to come make up for what each one lost. ../tern-c/tern.c is the same in plain C, byte
// for byte.
#include <kerf/method.hpp>

struct TernOptions {
    int bits = 3;
    int group = 128;
    double damp = 0.01;
};

class Tern final : public kerf::Method<TernOptions> {
public:
    static constexpr kerf::Info info{"org.example.tern", "1.2.0", "Curvature-ordered rounding"};
    static constexpr auto needs = kerf::Curvature::InputGram;  // the core gathers it once for all stages
    static constexpr auto can = kerf::ParallelLayers | kerf::Resumable;

    static void options(kerf::Schema<TernOptions>& s) {
        s("bits", &TernOptions::bits).within(2, 8).help("bits per weight");
        s("group", &TernOptions::group).at_least(32).multiple_of(32).help("columns that share a scale");
        s("damp", &TernOptions::damp).above(0).help("share of the mean diagonal added to the Gram matrix");
    }

    // Asked before any weight is read: feeds `kerf plan` and the memory budget.
    kerf::Cost cost(const kerf::LinearShape& l) const override {
        return {.scratch_bytes = 4 * l.out * l.in + kerf::GroupAffine::bytes({l.out, l.in}, opt.group),
                .flops = double(l.out) * double(l.in) * double(l.in),
                .bits = opt.bits,
                .group_size = opt.group};
    }

    void compress(kerf::Linear& layer, kerf::Job& job) const override {
        const auto w = layer.weight<float>();  // [out, in]; the host owns it
        const auto f =
            job.factor(layer, {.order = kerf::Order::descending, .damp = opt.damp});  // shared between stages

        kerf::GroupAffine q(w.shape(), opt.bits, opt.group, job);  // codes, scales, zeros: counted memory
        const auto rest = job.matrix<float>(w.shape());
        job.parallel_for(w.rows(), [&](kerf::Range rows) {  // fixed split: same bytes on 1 or 64 threads
            for (const auto r : rows) {
                q.cover_row(r, w.row(r));
                q.round_with_feedback(r, w.row(r), f.upper, f.order, rest.row(r));
            }
        });
        layer.replace(std::move(q));  // the whole layer, or nothing of it
    }
};
KERF_PLUGIN(Tern)
