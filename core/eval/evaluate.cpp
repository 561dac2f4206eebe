// SPDX-License-Identifier: Apache-2.0
#include "core/eval/evaluate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>

#include "core/exec/activation_pool.hpp"
#include "core/graph/value_shapes.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

const std::string block_input = "x", block_output = "y";

/// The last linear of the epilogue, and the ops before and after it. Those after must be elementwise: the head runs in
/// slices of the vocabulary.
struct Head {
    std::vector<Op> before, after;
    Op linear;

    explicit Head(const Graph& graph) {
        const auto& ops = graph.epilogue;
        auto end = ops.end();
        while (end != ops.begin() && (std::prev(end)->kind == OpKind::scale || std::prev(end)->kind == OpKind::softcap))
            --end;
        if (end == ops.begin() || std::prev(end)->kind != OpKind::linear)
            bad_input(
                "the graph's epilogue must end with the linear that makes the logits, or scale and softcap of it");
        before.assign(ops.begin(), end - 1);
        linear = *(end - 1);
        after.assign(end, ops.end());
    }
};

// A slice of the vocabulary at a time keeps the head's weight and the logits small whatever the vocabulary.
constexpr std::int64_t slice_rows = 4096;

/// Runs everything but the head; "x" is then the head's input.
void run_body(const Model& model, const Units& units, DType compute, States& states, const Tick& tick) {
    embed_all(model, units, compute, states);
    for (std::size_t block = 0; block < model.graph().blocks.size(); ++block)
        run_block(model, block, units, compute, states, tick);
    const Head head(model.graph());
    if (head.before.empty()) return;
    const Program norm(head.before, model.source(), compute, units.length());
    const std::string result = head.linear.in[0];
    std::int64_t features = head.linear.columns;
    states.declare("head", features);
    parallel_for(units.count(), 1, [&](std::int64_t unit, std::int64_t) {
        Values values{{block_input, states.get(block_input, unit)}};
        const std::string keep[] = {result};
        norm.run(values, units.batch(unit), 0, head.before.size(), keep);
        states.put("head", unit, values.at(result));
    });
    states.rename("head", block_input);
}

/// The head's weight in slices of rows, and its bias.
class HeadWeight {
public:
    HeadWeight(const Model& model, const Op& linear, DType compute)
        : model_(model), linear_(linear), compute_(compute) {
        const StoredTensor& stored = model.tensor(linear.weight);
        by_row_ = !linear.transposed && !stored.bytes.empty();
        if (!by_row_) whole_ = model.source().whole(linear.weight);
        if (!linear.bias.empty()) bias_ = model.source().whole(linear.bias);
    }
    std::vector<float> slice(std::int64_t first, std::int64_t rows) const {
        std::vector<float> out(std::size_t(rows * linear_.columns));
        const WeightSource source = model_.source();
        for (std::int64_t row = 0; row < rows; ++row) {
            const std::span<float> into(out.data() + row * linear_.columns, std::size_t(linear_.columns));
            if (by_row_)
                source.row(linear_.weight, first + row, into);
            else
                for (std::int64_t c = 0; c < linear_.columns; ++c)
                    into[std::size_t(c)] = linear_.transposed
                                               ? whole_[std::size_t(c * linear_.rows + first + row)]
                                               : whole_[std::size_t((first + row) * linear_.columns + c)];
        }
        if (compute_ == DType::bf16) round_to(DType::bf16, out);
        return out;
    }
    void add_bias(std::int64_t first, std::int64_t rows, std::span<float> logits) const {
        if (bias_.empty()) return;
        for (std::size_t i = 0; i < logits.size(); ++i) logits[i] += bias_[std::size_t(first) + i % std::size_t(rows)];
    }
    void forget() const { model_.checkpoint().forget(model_.stored_name(linear_.weight)); }

private:
    const Model& model_;
    const Op& linear_;
    DType compute_;
    bool by_row_ = true;
    std::vector<float> whole_, bias_;
};

/// log Σ exp over the vocabulary, gathered slice by slice with a running maximum.
struct RunningSoftmax {
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    double target = 0;       // the logit of the token that follows
    std::int64_t best = -1;  // its place in the vocabulary
    double weighted = 0;     // Σ exp(l − largest) · (l − l'), l' the other model's logit

    void add(std::span<const float> logits, std::int64_t first, std::int64_t target_id, const float* other) {
        const auto top = std::max_element(logits.begin(), logits.end());
        if (double(*top) > largest) {
            const double shrink = std::exp(largest - double(*top));
            sum *= shrink;
            weighted *= shrink;
            largest = *top;
            best = first + (top - logits.begin());
        }
        for (std::size_t i = 0; i < logits.size(); ++i) {
            const double share = std::exp(float(logits[i] - float(largest)));
            sum += share;
            if (other) weighted += share * (double(logits[i]) - double(other[i]));
        }
        if (target_id >= first && target_id < first + std::int64_t(logits.size()))
            target = logits[std::size_t(target_id - first)];
    }
    double log_sum() const { return largest + std::log(sum); }
};

/// One model on its way through the head.
struct Side {
    const Model* model;
    Head head;
    HeadWeight weight;
    States states;
    std::vector<RunningSoftmax> tokens;

    Side(const Model& m, const Units& units, DType compute, const std::filesystem::path& scratch)
        : model(&m),
          head(m.graph()),
          weight(m, head.linear, compute),
          states(units, scratch, compute),
          tokens(std::size_t(units.tokens())) {}
};

std::vector<float> slice_logits(const Side& side, const Units& units, std::int64_t unit, std::span<const float> weight,
                                std::int64_t first, std::int64_t rows) {
    std::vector<float> out(std::size_t(units.batch(unit).tokens() * rows));
    head_slice(side.states.get(block_input, unit), weight, rows, out);
    side.weight.add_bias(first, rows, out);
    for (const auto& op : side.head.after) apply_elementwise(op, out);
    return out;
}

void run_head(Side& side, Side* reference, const Units& units, const Tick& tick) {
    const std::int64_t vocabulary = side.head.linear.rows;
    for (std::int64_t first = 0; first < vocabulary; first += slice_rows) {
        const std::int64_t rows = std::min(slice_rows, vocabulary - first);
        const auto weight = side.weight.slice(first, rows);
        const auto reference_weight = reference ? reference->weight.slice(first, rows) : std::vector<float>();
        parallel_for(units.count(), 1, [&](std::int64_t unit, std::int64_t) {
            const auto ours = slice_logits(side, units, unit, weight, first, rows);
            const auto theirs =
                reference ? slice_logits(*reference, units, unit, reference_weight, first, rows) : std::vector<float>();
            const auto ids = units.ids(unit);
            for (std::int64_t t = 0; t < units.batch(unit).tokens(); ++t) {
                const bool last = (t + 1) % units.length() == 0;
                const std::int64_t target = last ? -1 : ids[std::size_t(t + 1)];
                const std::size_t token = std::size_t(units.first_token(unit) + t);
                const std::span<const float> row(ours.data() + t * rows, std::size_t(rows));
                side.tokens[token].add(row, first, target, nullptr);
                if (reference)
                    reference->tokens[token].add({theirs.data() + t * rows, std::size_t(rows)}, first, target,
                                                 row.data());
            }
        });
        if (tick) tick(units.tokens() * rows / vocabulary);
    }
    side.weight.forget();
    if (reference) reference->weight.forget();
}

struct MeanAndError {
    double mean = 0, error = 0;
};
MeanAndError mean_and_error(const std::vector<double>& values) {
    const double n = double(values.size());
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
    double spread = 0;
    for (const double value : values) spread += (value - mean) * (value - mean);
    return {mean, values.size() > 1 ? std::sqrt(spread / (n - 1) / n) : 0.0};
}

Perplexity perplexity_of(const Side& side, const Windows& windows) {
    std::vector<double> losses;
    for (std::int64_t w = 0; w < windows.samples; ++w) {
        double sum = 0;
        for (std::int64_t t = 0; t + 1 < windows.length; ++t) {
            const auto& token = side.tokens[std::size_t(w * windows.length + t)];
            sum += token.log_sum() - token.target;
        }
        losses.push_back(sum / double(windows.length - 1));
    }
    const auto [mean, error] = mean_and_error(losses);
    return {std::exp(mean), std::exp(mean) * error, windows.samples * (windows.length - 1), windows.samples};
}

/// KL(p ‖ q) = Σ p (l_p − l_q) − log Z_p + log Z_q, all of it from the running sums.
Agreement agreement_of(const Side& side, const Side& reference, const Windows& windows) {
    std::vector<double> divergences;
    std::int64_t same = 0;
    for (std::int64_t w = 0; w < windows.samples; ++w) {
        double sum = 0;
        for (std::int64_t t = 0; t < windows.length; ++t) {
            const auto& q = side.tokens[std::size_t(w * windows.length + t)];
            const auto& p = reference.tokens[std::size_t(w * windows.length + t)];
            sum += std::max(0.0, p.weighted / p.sum - p.log_sum() + q.log_sum());
            same += p.best == q.best;
        }
        divergences.push_back(sum / double(windows.length));
    }
    const auto [mean, error] = mean_and_error(divergences);
    return {mean, error, double(same) / double(windows.samples * windows.length)};
}

void check_windows(const Model& model, const Windows& windows) {
    if (windows.samples < 1 || windows.length < 2) bad_input("evaluation needs at least one window of two tokens");
    for (const auto id : windows.ids)
        if (id < 0 || id >= model.graph().vocabulary)
            bad_input("token id ", id, " is past the vocabulary of ", model.graph().vocabulary, " of ",
                      model.folder().string());
}

}  // namespace

void embed_all(const Model& model, const Units& units, DType compute, States& states) {
    const Program prologue(model.graph().prologue, model.source(), compute, units.length());
    states.declare(block_input, model.graph().blocks.empty()
                                    ? model.graph().hidden
                                    : prologue.embed(units.ids(0), units.batch(0), block_input).features());
    parallel_for(units.count(), 1, [&](std::int64_t unit, std::int64_t) {
        states.put(block_input, unit, prologue.embed(units.ids(unit), units.batch(unit), block_input));
    });
    for (const auto& op : model.graph().prologue)
        if (op.kind == OpKind::embedding) model.checkpoint().forget(model.stored_name(op.weight));
}

void run_block(const Model& model, std::size_t block, const Units& units, DType compute, States& states,
               const Tick& tick) {
    model.prefetch(block + 1);
    const auto& ops = model.graph().blocks[block].ops;
    const Program program(ops, model.source(), compute, units.length());
    // In place, but where a rotated block gives another number of features than it takes.
    const std::int64_t made = features_of(ops, block_output, states.features(block_input));
    const std::string& result = made == states.features(block_input) ? block_input : block_output;
    if (result == block_output) states.declare(result, made);
    parallel_for(units.count(), 1, [&](std::int64_t unit, std::int64_t) {
        Values values{{block_input, states.get(block_input, unit)}};
        const std::string keep[] = {block_output};
        program.run(values, units.batch(unit), 0, ops.size(), keep);
        states.put(result, unit, values.at(block_output));
    });
    if (result == block_output) states.rename(block_output, block_input);
    trim_activations();
    if (tick) tick(units.tokens());
}

Evaluated evaluate(const Model& model, const Model* reference, const Windows& windows, DType compute,
                   const std::filesystem::path& scratch, const Tick& tick) {
    check_windows(model, windows);
    const Units units(windows);
    Side side(model, units, compute, scratch);
    run_body(model, units, compute, side.states, tick);
    std::unique_ptr<Side> other;
    if (reference) {
        if (reference->graph().vocabulary != model.graph().vocabulary)
            bad_input(reference->folder().string(), ": has a vocabulary of ", reference->graph().vocabulary, ", ",
                      model.folder().string(), " one of ", model.graph().vocabulary);
        other = std::make_unique<Side>(*reference, units, compute, scratch);
        run_body(*reference, units, compute, other->states, tick);
    }
    run_head(side, other.get(), units, tick);
    Evaluated out;
    out.model = perplexity_of(side, windows);
    if (other) {
        out.reference = perplexity_of(*other, windows);
        out.agreement = agreement_of(side, *other, windows);
    }
    return out;
}

std::vector<float> logits(const Model& model, const Windows& windows, DType compute,
                          const std::filesystem::path& scratch) {
    check_windows(model, windows);
    const Units units(windows);
    Side side(model, units, compute, scratch);
    run_body(model, units, compute, side.states, {});
    const std::int64_t vocabulary = side.head.linear.rows;
    const auto weight = side.weight.slice(0, vocabulary);
    std::vector<float> out;
    for (std::int64_t unit = 0; unit < units.count(); ++unit) {
        const auto part = slice_logits(side, units, unit, weight, 0, vocabulary);
        out.insert(out.end(), part.begin(), part.end());
    }
    return out;
}

std::vector<float> hidden_states(const Model& model, const Windows& windows, std::size_t block, DType compute,
                                 const std::filesystem::path& scratch) {
    check_windows(model, windows);
    const Units units(windows);
    States states(units, scratch, compute);
    embed_all(model, units, compute, states);
    for (std::size_t b = 0; b < block; ++b) run_block(model, b, units, compute, states, {});
    std::vector<float> out;
    for (std::int64_t unit = 0; unit < units.count(); ++unit) {
        const auto part = states.get(block_input, unit).to_floats();
        out.insert(out.end(), part.begin(), part.end());
    }
    return out;
}

}  // namespace kerf::core
