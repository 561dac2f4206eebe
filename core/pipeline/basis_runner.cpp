// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "core/curvature/stream_fit.hpp"
#include "core/eval/evaluate.hpp"
#include "core/exec/activation_pool.hpp"
#include "core/graph/cost.hpp"
#include "core/graph/value_shapes.hpp"
#include "core/linalg/linalg.hpp"
#include "core/pipeline/basis_call.hpp"
#include "core/pipeline/basis_stage.hpp"
#include "core/plugin_api/job.hpp"
#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

const std::string block_input = "x", block_output = "y";

/// Index past the op that makes a value.
std::size_t past(const std::vector<Op>& ops, const std::string& value) {
    for (std::size_t i = 0; i < ops.size(); ++i)
        if (std::find(ops[i].out.begin(), ops[i].out.end(), value) != ops[i].out.end()) return i + 1;
    internal_error("no op makes ", value);
}

/// A method that mixes up rows and columns, or does not normalise, would ruin the model without a word.
void check_orthonormal(const std::vector<double>& q, std::int64_t rows, std::int64_t columns, const std::string& what) {
    constexpr double tolerance = 1e-8;
    std::vector<double> product(std::size_t(columns * columns));
    linalg::gemm<double>(true, false, columns, columns, rows, 1.0, q.data(), columns, q.data(), columns, 0.0,
                         product.data(), columns);
    for (std::int64_t i = 0; i < columns; ++i)
        for (std::int64_t j = 0; j < columns; ++j)
            if (!(std::abs(product[std::size_t(i * columns + j)] - (i == j ? 1.0 : 0.0)) < tolerance))
                throw Error(Fault::internal,
                            text(what, ": columns ", i, " and ", j, " of its basis are not orthonormal"));
}

/// The first norm that reads a position. Where only linears do, what a norm would make of it does not matter.
StreamFit::Norm norm_of(const BasisStage& stage, std::size_t position) {
    for (std::size_t part = 0; part < stage.stream.uses.size(); ++part)
        for (std::size_t i = 0; i < stage.stream.uses[part].size(); ++i) {
            if (stage.stream.uses[part][i].norm != std::int64_t(position)) continue;
            const Op& op = part_ops(stage.fused.graph(), part)[i];
            return {op.divisor > 0 ? op.divisor : op.rows, op.eps};
        }
    return {stage.stream.positions[position].features, 0};
}

}  // namespace

BasisRunner::BasisRunner(BasisStage& stage, const Windows* windows, DType compute, bool sequential,
                         std::filesystem::path scratch, std::filesystem::path states, Hooks hooks)
    : stage_(stage),
      compute_(compute),
      sequential_(sequential),
      scratch_(std::move(scratch)),
      folder_(std::move(states)),
      hooks_(std::move(hooks)) {
    if (windows) units_.emplace(*windows);
}

void BasisRunner::embed() {
    states_.emplace(*units_, folder_, compute_);
    embed_all(stage_.fused, *units_, compute_, *states_);
}

void BasisRunner::survey() {
    const ResidualView view(stage_.fused.graph(), stage_.stream, stage_.tokens, stage_.parameters);
    const auto show = [&](std::size_t position, CovarianceSum& sum) {
        const std::int64_t tokens = sum.tokens(), n = stage_.stream.positions[position].features;
        std::vector<double> h = sum.finish();
        DoubleMatrix matrix(h.data(), n, n);
        const kerf_covariance covariance{sizeof(kerf_covariance), 0, matrix.get(), tokens};
        kerf_job job;
        job.log = hooks_.log;
        stage_.method->survey(&job, view.get(), std::int64_t(position), &covariance);
    };
    surveying_ = true;
    embed();
    show(0, *measure(block_input, 0));
    const Bases none(stage_.bases.size());
    for (std::size_t b = 0; b < stage_.fused.graph().blocks.size(); ++b)
        pass(
            b, none, false, [](std::size_t) { return true; }, show);
    states_.reset();
    surveying_ = false;
}

void BasisRunner::start() {
    for (std::size_t p = 0; p < stage_.bases.size(); ++p)
        if (stage_.bases[p] && !stage_.is_fresh(p) && stage_.first_of(p) == p) choose(p, nullptr);
    if (!stage_.needs_signals()) return;
    embed();
    std::unique_ptr<CovarianceSum> sum;
    if (stage_.is_fresh(0) && !read_kept(0)) sum = measure(block_input, 0);
    if (sum) choose(0, sum.get());
    fit_readers(0, block_input);
    if (sequential_ && stage_.bases[0]) project(block_input, *stage_.bases[0]);
}

void BasisRunner::block(std::size_t block) {
    if (!states_) return;
    Bases known(stage_.bases.size());
    const auto input = std::size_t(stage_.stream.input_of(block));
    if (sequential_) known[input] = stage_.bases[input];
    const auto wanted = [&](std::size_t position) { return stage_.is_fresh(position) && !read_kept(position); };
    pass(block, known, sequential_, wanted, [&](std::size_t position, CovarianceSum& sum) { choose(position, &sum); });
}

/// One block, from position to position: what writes to the next one is still in the coordinates of the model as it
/// came, what reads the ones before is turned already.
void BasisRunner::pass(std::size_t block, Bases known, bool turn, const std::function<bool(std::size_t)>& wanted,
                       const Seen& seen) {
    const auto positions = stage_.stream.made_by(block);
    width_ = states_->features(block_input);
    std::string before;
    for (const auto index : positions) {
        const auto position = std::size_t(index);
        const std::string& value = stage_.stream.positions[position].value;
        const RotatedPart part = rotate_part(stage_.fused.graph(), stage_.stream, block + 1, known, stage_.readers());
        const std::size_t first = before.empty() ? 0 : past(part.ops, before), last = past(part.ops, value);
        const auto sum = run(part, first, last, value, index == positions.back(),
                             wanted(position) ? std::optional(position) : std::nullopt);
        if (sum) seen(position, *sum);
        if (!surveying_) fit_readers(position, value);
        if (turn && stage_.bases[position]) {
            project(value, *stage_.bases[position]);
            known[position] = stage_.bases[position];
        }
        before = value;
    }
    states_->rename(block_output, block_input);
}

/// Runs ops [first, last) of a block over all units; `ends`: nothing but `result` is needed past them.
std::unique_ptr<CovarianceSum> BasisRunner::run(const RotatedPart& part, std::size_t first, std::size_t last,
                                                const std::string& result, bool ends,
                                                std::optional<std::size_t> position) {
    const Model& fused = stage_.fused;
    const Checkpoint weights =
        fused.checkpoint().edited(part.tensors, [&](const std::string& name) { return fused.stored_name(name); });
    const WeightSource source{
        .whole =
            [&](const std::string& name) { return weights.read(weights.find(name) ? name : fused.stored_name(name)); },
        .row = {}};
    const std::vector<std::string> live_in = live_at(part.ops, first);
    std::vector<std::string> live_out = ends ? std::vector{result} : live_at(part.ops, last);
    if (std::find(live_out.begin(), live_out.end(), result) == live_out.end()) live_out.push_back(result);
    const std::vector<Op> ops(part.ops.begin() + std::ptrdiff_t(first), part.ops.begin() + std::ptrdiff_t(last));
    const Program program(ops, source, compute_, units_->length());
    for (const auto& name : live_out)
        if (!states_->has(name)) states_->declare(name, features_of(part.ops, name, width_));
    std::unique_ptr<CovarianceSum> sum;
    if (position)
        sum = std::make_unique<CovarianceSum>(stage_.stream.positions[*position].name,
                                              stage_.stream.positions[*position].features, stage_.signal);
    // Sums take the units one by one in order, so that the number of threads does not show in them.
    const std::int64_t round = threads();
    std::vector<Value> made(static_cast<std::size_t>(round));
    for (std::int64_t start = 0; start < units_->count(); start += round) {
        hooks_.check_cancelled();
        const std::int64_t here = std::min(round, units_->count() - start);
        parallel_for(here, 1, [&](std::int64_t i, std::int64_t) {
            Values values;
            for (const auto& name : live_in) values.emplace(name, states_->get(name, start + i));
            program.run(values, units_->batch(start + i), 0, ops.size(), live_out);
            for (const auto& name : live_out)
                if (std::find(live_in.begin(), live_in.end(), name) == live_in.end())
                    states_->put(name, start + i, values.at(name));
            made[std::size_t(i)] = values.at(result);
        });
        std::int64_t tokens = 0;
        for (std::int64_t i = 0; i < here; ++i) {
            const Value value = std::exchange(made[std::size_t(i)], {});
            tokens += value.tokens();
            if (sum) add_to(*sum, start + i, value);
        }
        hooks_.progress(forward_flops(ops, 0, ops.size(), tokens, units_->length()));
    }
    for (const auto& name : live_in)
        if (std::find(live_out.begin(), live_out.end(), name) == live_out.end()) states_->drop(name);
    trim_activations();
    return sum;
}

/// The tokens of a unit, without what is padding.
template <class Sum>
void BasisRunner::add_to(Sum& sum, std::int64_t unit, const Value& value) const {
    std::vector<float> widened;
    const float* x = value.floats(widened).data();
    units_->each_run(unit,
                     [&](std::int64_t first, std::int64_t tokens) { sum.add(x + first * value.features(), tokens); });
}

std::unique_ptr<CovarianceSum> BasisRunner::measure(const std::string& value, std::size_t position) {
    auto sum = std::make_unique<CovarianceSum>(stage_.stream.positions[position].name,
                                               stage_.stream.positions[position].features, stage_.signal);
    for (std::int64_t unit = 0; unit < units_->count(); ++unit) {
        add_to(*sum, unit, states_->get(value, unit));
    }
    return sum;
}

/// x Q for all tokens, in float32 like any other product of the forward pass.
void BasisRunner::project(const std::string& value, const Basis& basis) {
    const std::int64_t n = basis.features(), k = basis.size();
    const std::string turned = value + " turned";
    const std::vector<float> q(basis.values().begin(), basis.values().end());
    states_->declare(turned, k);
    parallel_for(units_->count(), 1, [&](std::int64_t unit, std::int64_t) {
        const Value from = states_->get(value, unit);
        std::vector<float> widened;
        const float* x = from.floats(widened).data();
        const std::int64_t tokens = from.tokens();
        const auto multiply = [&](float* z) {
            linalg::gemm_in_piece<float>(false, false, tokens, k, n, 1.0f, x, n, q.data(), k, 0.0f, z, k);
        };
        if (compute_ == DType::f32) {
            states_->put(turned, unit, Value::filled(tokens, k, compute_, [&](std::span<std::byte> bytes) {
                             multiply(reinterpret_cast<float*>(bytes.data()));
                         }));
        } else {
            std::vector<float> z(std::size_t(tokens * k));
            multiply(z.data());
            states_->put(turned, unit, Value::from_floats(z, tokens, k, compute_));
        }
    });
    states_->rename(turned, value);
}

std::filesystem::path BasisRunner::file_of(std::string_view what, std::size_t position) const {
    return scratch_ / text(what, "-", position, ".f64");
}

/// Matrices that lie in a file one behind the other; whether there is one.
bool BasisRunner::read_file(const std::filesystem::path& file, std::initializer_list<Basis*> into) const {
    std::error_code status;
    if (!std::filesystem::exists(file, status)) return false;
    const std::string bytes = read_text(file, std::uint64_t{1} << 40);
    std::size_t at = 0;
    for (Basis* basis : into) {
        std::vector<double> values(std::size_t(basis->features() * basis->size()));
        const std::size_t size = values.size() * sizeof(double);
        if (bytes.size() != size * into.size())
            bad_input(file.string(), ": is not of the run to be resumed; start it anew");
        std::memcpy(values.data(), bytes.data() + at, size);
        basis->set(std::move(values));
        at += size;
    }
    return true;
}

/// What an earlier, interrupted run has chosen.
bool BasisRunner::read_kept(std::size_t position) {
    Basis& basis = *stage_.bases[position];
    if (basis.has_values()) return true;
    return read_file(file_of("basis", position), {&basis});
}

/// Least squares for what reads the position, on the stream as it is there, still in all its features.
void BasisRunner::fit_readers(std::size_t position, const std::string& value) {
    const BasisStage::Fit& fit = stage_.fits[position];
    if (!fit.normed || read_file(file_of("readers", position), {fit.normed.get(), fit.plain.get()})) return;
    const Basis& basis = *stage_.bases[position];
    const auto& at = stage_.stream.positions[position];
    StreamFit sum(at.name, basis.values(), basis.features(), basis.size(), norm_of(stage_, position));
    for (std::int64_t unit = 0; unit < units_->count(); ++unit) {
        hooks_.check_cancelled();
        add_to(sum, unit, states_->get(value, unit));
    }
    StreamFit::Readers made = sum.finish(*stage_.refit_damp);
    hooks_.fitted(position, {{"features", double(basis.size())},
                             {"error_sliced", made.error_sliced},
                             {"error_refit", made.error_refit},
                             {"refit_damp", made.damp}});
    std::string bytes(reinterpret_cast<const char*>(made.normed.data()), made.normed.size() * sizeof(double));
    bytes.append(reinterpret_cast<const char*>(made.plain.data()), made.plain.size() * sizeof(double));
    write_atomically(file_of("readers", position), bytes);
    fit.normed->set(std::move(made.normed));
    fit.plain->set(std::move(made.plain));
}

void BasisRunner::choose(std::size_t position, CovarianceSum* sum) {
    hooks_.check_cancelled();
    if (read_kept(position)) return;
    Basis& basis = *stage_.bases[position];
    const auto& at = stage_.stream.positions[position];
    std::vector<double> h, q(std::size_t(basis.features() * basis.size()));
    const std::int64_t tokens = sum ? sum->tokens() : 0;
    if (sum) h = sum->finish();
    const ResidualView view(stage_.fused.graph(), stage_.stream, stage_.tokens, stage_.parameters);
    DoubleMatrix matrix(h.data(), basis.features(), basis.features());
    DoubleMatrix made(q.data(), basis.features(), basis.size());
    const kerf_covariance covariance{sizeof(kerf_covariance), 0, matrix.get(), tokens};
    kerf_job job;
    job.log = hooks_.log;
    stage_.method->choose_basis(&job, view.get(), std::int64_t(position), sum ? &covariance : nullptr, made.get());
    check_orthonormal(q, basis.features(), basis.size(), text(at.name, ": ", stage_.method->method().id));
    job.metrics["features"] = double(basis.size());
    hooks_.chosen(position, job.metrics);  // first: who finds the file does not choose again
    write_atomically(file_of("basis", position), {reinterpret_cast<const char*>(q.data()), q.size() * sizeof(double)});
    basis.set(std::move(q));
}

void BasisRunner::forget(std::size_t block) {
    for (std::size_t p = 0; p < stage_.bases.size(); ++p) {
        if (!stage_.bases[p]) continue;
        // The embedding is written at the end, and the next block reads what this one makes.
        bool needed = stage_.bases[p] == stage_.bases[0];
        for (std::size_t later = p; later < stage_.bases.size(); ++later)
            needed = needed || (stage_.bases[later] == stage_.bases[p] &&
                                (stage_.stream.positions[later].block > std::int64_t(block) ||
                                 std::int64_t(later) == stage_.stream.input_of(block + 1)));
        if (!needed) stage_.bases[p]->forget();
        const bool read_later = stage_.stream.positions[p].block > std::int64_t(block) ||
                                std::int64_t(p) == stage_.stream.input_of(block + 1);
        if (!stage_.fits[p].normed || read_later) continue;
        stage_.fits[p].normed->forget();
        stage_.fits[p].plain->forget();
    }
}

}  // namespace kerf::core
