// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/basis_stage.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "core/curvature/stream_fit.hpp"
#include "core/graph/cost.hpp"
#include "core/pipeline/basis_call.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

std::int64_t size_at(const BasisStage& stage, std::size_t position) {
    return stage.bases[position] ? stage.bases[position]->size() : stage.stream.positions[position].features;
}

void check_choices(const BasisStage& stage, const std::string& id) {
    std::map<std::int64_t, std::int64_t> sizes;
    for (std::size_t p = 0; p < stage.choices.size(); ++p) {
        const auto& choice = stage.choices[p];
        const auto& position = stage.stream.positions[p];
        if (choice.group < 0 ? choice.size != position.features : choice.size < 1 || choice.size > position.features)
            throw Error(Fault::internal,
                        text(id, ": plans ", choice.size, " of ", position.features, " features at ", position.name));
        if (choice.group >= 0 && sizes.try_emplace(choice.group, choice.size).first->second != choice.size)
            throw Error(Fault::internal, text(id, ": plans two sizes for the basis of ", position.name));
    }
}

}  // namespace

BasisStage BasisStage::plan(std::shared_ptr<const MethodInstance> method, const Model& input, std::int64_t tokens,
                            std::optional<double> refit_damp) {
    BasisStage stage;
    stage.refit_damp = refit_damp;
    stage.method = std::move(method);
    const std::string& id = stage.method->method().id;
    stage.tokens = tokens;
    stage.parameters = input.parameters();
    Graph fused = fuse_norms(input.graph()).graph;
    stage.stream = find_stream(fused, id);
    const ResidualView view(fused, stage.stream, tokens, stage.parameters);
    stage.choices.resize(stage.stream.positions.size());
    kerf_basis_plan plan{};
    plan.struct_size = sizeof(plan);
    plan.choices = stage.choices.data();
    stage.method->plan_bases(view.get(), &plan);
    if (plan.signal != KERF_SIGNAL_RAW && plan.signal != KERF_SIGNAL_NORMALIZED)
        throw Error(Fault::internal, text(id, ": asks for the unknown signal ", plan.signal));
    check_choices(stage, id);
    stage.signal = plan.signal == KERF_SIGNAL_RAW ? CovarianceSum::Signal::raw : CovarianceSum::Signal::normalized;
    stage.survey = plan.survey != 0;
    stage.estimated = plan.survey == 2;
    stage.scratch_bytes = plan.scratch_bytes;
    stage.state_bytes = plan.state_bytes;
    std::map<std::int64_t, std::shared_ptr<Basis>> groups;
    for (std::size_t p = 0; p < stage.choices.size(); ++p) {
        const auto& choice = stage.choices[p];
        std::shared_ptr<Basis> basis;
        if (choice.group >= 0) {
            auto& shared = groups[choice.group];
            if (!shared) shared = std::make_shared<Basis>(stage.stream.positions[p].features, choice.size);
            basis = shared;
        }
        stage.fits.emplace_back();
        if (refit_damp && basis && basis->size() < basis->features())
            for (auto* matrix : {&stage.fits.back().normed, &stage.fits.back().plain})
                *matrix = std::make_shared<Basis>(basis->features(), basis->size());
        stage.bases.push_back(std::move(basis));
    }
    stage.fused = input.edited(fuse_norms(input.graph(), {.centre_tables = plan.centre_tables != 0}));
    stage.result = stage.fused.edited(
        rotate(stage.fused.graph(), stage.stream, {stage.bases.begin(), stage.bases.end()}, stage.readers()));
    // One basis for all of the stream: a model of the family, of another width.
    const bool one = std::all_of(stage.bases.begin(), stage.bases.end(),
                                 [&](const auto& basis) { return basis && basis == stage.bases[0]; });
    if (one)
        if (const auto plain = restore_norms(stage.result.graph(), input.graph()))
            stage.result = stage.result.edited(*plain);
    return stage;
}

std::vector<Readers> BasisStage::readers() const {
    std::vector<Readers> out;
    for (const auto& fit : fits) out.push_back({fit.normed, fit.plain});
    return out;
}

std::size_t BasisStage::first_of(std::size_t position) const {
    for (std::size_t p = 0; p < position; ++p)
        if (bases[p] && bases[p] == bases[position]) return p;
    return position;
}

bool BasisStage::is_fresh(std::size_t position) const {
    return bases[position] && choices[position].fresh != 0 && first_of(position) == position;
}

bool BasisStage::needs_signals() const {
    for (std::size_t p = 0; p < choices.size(); ++p)
        if (is_fresh(p) || fits[p].normed) return true;
    return false;
}

std::uint64_t BasisStage::basis_bytes() const {
    std::uint64_t bytes = 0;
    for (std::size_t p = 0; p < bases.size(); ++p)
        if (bases[p])
            bytes += std::uint64_t(8 * bases[p]->features() * bases[p]->size()) *
                     ((first_of(p) == p ? 1 : 0) + (fits[p].normed ? 2 : 0));
    return bytes;
}

double BasisStage::flops(std::int64_t length, bool sequential) const {
    const double d = double(stream.positions[0].features), t = double(tokens);
    double sum = 0;
    const auto& graph = fused.graph();
    const int passes = (survey ? 1 : 0) + (needs_signals() ? 1 : 0);
    for (const auto& block : graph.blocks)
        sum += passes * forward_flops(block.ops, 0, block.ops.size(), tokens, length);
    for (std::size_t p = 0; p < choices.size(); ++p) {
        if (survey) sum += d * d * t;
        if (is_fresh(p)) sum += d * d * t + (sequential ? 2 * d * double(size_at(*this, p)) * t : 0);
        if (bases[p]) sum += 9 * d * d * d;  // eigenvectors
        if (fits[p].normed) sum += (3 * d + 2 * double(size_at(*this, p))) * d * t + 8 * d * d * d;
    }
    // Every weight is multiplied by a basis or two, once for the signals and once for the output.
    return sum + 4 * d * double(result.parameters());
}

std::uint64_t BasisStage::memory(std::int64_t length, std::int64_t samples, DType compute, std::int64_t threads) const {
    const std::int64_t d = stream.positions[0].features;
    const std::int64_t unit =
        std::min(std::max<std::int64_t>(1, Units::unit_tokens / std::max<std::int64_t>(1, length)), samples) * length;
    std::uint64_t block_weights = 0, activations = 0, largest_tensor = 0;
    for (std::size_t part = 0; part < fused.graph().blocks.size() + 2; ++part) {
        std::uint64_t weights = 0, widths = 0;
        for (const auto& op : part_ops(fused.graph(), part)) {
            const auto elements = std::uint64_t(op.rows) * std::uint64_t(std::max<std::int64_t>(op.columns, 1));
            if (op.kind != OpKind::linear) continue;
            weights += elements;
            widths += std::uint64_t(op.rows);
            largest_tensor = std::max(largest_tensor, elements);
        }
        if (part == 0 || part > fused.graph().blocks.size()) continue;
        block_weights = std::max(block_weights, weights + std::uint64_t(d * d));
        std::uint64_t scores = 0;
        for (const auto& op : part_ops(fused.graph(), part))
            if (op.kind == OpKind::attention) scores = std::max(scores, std::uint64_t(attention_scratch(op, length)));
        activations =
            std::max(activations, std::uint64_t(threads) * (std::uint64_t(unit) * (3 * widths + 4 * d) + scores));
    }
    // A product holds its source in both precisions, one factor in between, and the result.
    const std::uint64_t product = largest_tensor * 28 + std::uint64_t(8 * d * d);
    const std::uint64_t kept_bases = std::uint64_t(8 * d * d) * (refit_damp ? 10 : 4);
    const std::uint64_t fit = refit_damp ? StreamFit::memory(d) : 0;
    const bool data = survey || needs_signals();
    const std::uint64_t pass = data ? 4 * (block_weights + activations) + std::max(CovarianceSum::memory(d), fit) : 0;
    static_cast<void>(compute);  // the products are float64, the rest is reckoned as float32
    return kept_bases + state_bytes + std::max(product + (data ? 4 * block_weights : 0), pass + scratch_bytes);
}

}  // namespace kerf::core
