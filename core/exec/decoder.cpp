// SPDX-License-Identifier: Apache-2.0
#include "core/exec/decoder.hpp"

#include <algorithm>
#include <cmath>

#include "core/exec/cached_attention.hpp"
#include "core/exec/decoder_plan.hpp"
#include "core/exec/positions.hpp"
#include "core/exec/resident_weights.hpp"
#include "core/exec/row_ops.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

/// Longer prompts go through in pieces of so many tokens, which bounds the memory for activations.
constexpr std::int64_t prefill_tokens = 512;
/// Elementwise work below this stays in the calling thread.
constexpr std::int64_t small_work = 1 << 14;

/// A float32 value [rows, width]; its memory is kept from step to step.
struct Plane {
    std::vector<float> values;
    std::int64_t rows = 0, width = 0;

    void shape(std::int64_t new_rows, std::int64_t new_width) {
        rows = new_rows;
        width = new_width;
        if (std::int64_t(values.size()) < rows * width) values.resize(std::size_t(rows * width));
    }
    float* data() { return values.data(); }
    std::span<float> all() { return {values.data(), std::size_t(rows * width)}; }
};

/// Consecutive new tokens of one sequence.
struct Run {
    Sequence* sequence;
    std::int64_t first, count;
    std::int64_t final_length;  ///< of the whole text that is appended: it decides longrope's factors
};

/// cos and sin of what a rope op turns by, for the rows of one pass.
struct RotationTable {
    std::vector<double> near, far;  ///< inverse frequencies: ordinary, and of longrope's long texts
    std::vector<float> cosine, sine;
};

void by_rows(std::int64_t rows, std::int64_t width, const std::function<void(std::int64_t, std::int64_t)>& body) {
    constexpr std::int64_t grain = 16;
    parallel_for(rows, rows * width <= small_work ? rows : grain, body);
}

void by_elements(std::int64_t count, const std::function<void(std::size_t, std::size_t)>& body) {
    constexpr std::int64_t grain = 4096;
    parallel_for(count, count <= small_work ? count : grain,
                 [&](std::int64_t lo, std::int64_t hi) { body(std::size_t(lo), std::size_t(hi - lo)); });
}

}  // namespace

// ---- Sequence -----------------------------------------------------------------------------------------------------

Sequence::Sequence() = default;
Sequence::Sequence(Sequence&&) noexcept = default;
Sequence& Sequence::operator=(Sequence&&) noexcept = default;
Sequence::~Sequence() = default;

// ---- Decoder ------------------------------------------------------------------------------------------------------

struct Decoder::Impl {
    WeightSource source;
    std::int64_t positions, vocabulary;
    ResidentWeights weights;
    DecoderPlan plan;
    std::vector<Plane> planes;
    std::vector<RotationTable> tables;
    // of the pass that runs
    std::vector<Run> runs;
    std::vector<std::int64_t> row_ids, row_positions;
    std::vector<AttentionRun> attention_runs;

    Impl(const Graph& graph, const WeightSource& from, DType type)
        : source(from),
          positions(graph.positions),
          vocabulary(graph.vocabulary),
          weights(graph, from, type),
          plan(graph, from, weights),
          planes(std::size_t(plan.planes)) {
        for (const auto& op : plan.rotations)
            tables.push_back({inverse_frequencies(op, false), inverse_frequencies(op, true), {}, {}});
    }

    Plane& plane(int index) { return planes[std::size_t(index)]; }

    // ---- one pass over some new tokens

    /// `wanted`: whether logits are made.
    std::span<const float> pass(std::span<const std::int64_t> ids, bool wanted) {
        row_ids.assign(ids.begin(), ids.end());
        row_positions.clear();
        for (const auto& run : runs)
            for (std::int64_t i = 0; i < run.count; ++i) row_positions.push_back(run.first + i);
        fill_tables();
        run_part(plan.prologue);
        for (const auto& block : plan.blocks) run_part(block);
        if (!wanted) return {};
        keep_last_rows(plane(plan.epilogue.input));
        run_part(plan.epilogue);
        return plane(plan.epilogue.output).all();
    }

    void fill_tables() {
        for (std::size_t r = 0; r < tables.size(); ++r) {
            const RopeScaling& scaling = plan.rotations[r].scaling;
            RotationTable& table = tables[r];
            table.cosine.clear();
            table.sine.clear();
            for (const auto& run : runs) {
                const auto& frequencies = beyond(scaling, run.final_length) ? table.far : table.near;
                for (std::int64_t i = 0; i < run.count; ++i)
                    for (const double frequency : frequencies) {
                        // float32 angles, as the models were trained with
                        const float angle = float(run.first + i) * float(frequency);
                        table.cosine.push_back(std::cos(angle) * float(scaling.attention_factor));
                        table.sine.push_back(std::sin(angle) * float(scaling.attention_factor));
                    }
            }
        }
    }

    void keep_last_rows(Plane& value) const {
        std::int64_t row = 0;
        for (std::size_t i = 0; i < runs.size(); ++i) {
            row += runs[i].count;
            const float* from = value.values.data() + (row - 1) * value.width;
            std::copy(from, from + value.width, value.values.data() + std::int64_t(i) * value.width);
        }
        value.rows = std::int64_t(runs.size());
    }

    void run_part(const DecoderPart& part) {
        for (const auto& step : part.steps) run_step(step);
    }

    void run_step(const DecoderStep& step) {
        switch (step.op.kind) {
            case OpKind::embedding:
                return embed(step);
            case OpKind::linear:
                return multiply(step);
            case OpKind::attention:
                return attend(step);
            case OpKind::mul:
            case OpKind::add:
                return combine_two(step);
            case OpKind::split:
                return split(step);
            case OpKind::route:
            case OpKind::rms_norm:
            case OpKind::layer_norm:
            case OpKind::rope:
                return row_wise(step);
            case OpKind::activation:
            case OpKind::scale:
            case OpKind::softcap:
                return element_wise(step);
            case OpKind::dispatch:
                return dispatch(step);
            case OpKind::combine:
                return combine(step);
        }
    }

    void embed(const DecoderStep& step) {
        const Op& op = step.op;
        const auto& ids = op.in[0] == "tokens" ? row_ids : row_positions;
        Plane& out = plane(step.out[0]);
        out.shape(std::int64_t(ids.size()), op.columns);
        for (std::size_t i = 0; i < ids.size(); ++i) {
            const std::int64_t row = ids[i] + op.offset;
            if (row < 0 || row >= op.rows)
                bad_input(op.weight, ": ", op.in[0] == "tokens" ? "token id " : "position ", ids[i],
                          " is past the table's ", op.rows, " rows");
            source.row(op.weight, row, {out.data() + std::int64_t(i) * op.columns, std::size_t(op.columns)});
        }
    }

    void multiply(const DecoderStep& step) {
        Plane& in = plane(step.in[0]);
        std::vector<Product> products;
        products.reserve(step.linears.size());
        for (std::size_t i = 0; i < step.linears.size(); ++i) {
            Plane& out = plane(step.out[i]);
            out.shape(in.rows, step.width[i]);
            const auto& bias = step.linears[i].bias;
            products.push_back({step.linears[i].weight, bias.empty() ? nullptr : bias.data(), out.data()});
        }
        weights.multiply(products, in.data(), in.rows);
    }

    void attend(const DecoderStep& step) {
        const Op& op = step.op;
        Plane &q = plane(step.in[0]), &k = plane(step.in[1]), &v = plane(step.in[2]), &out = plane(step.out[0]);
        out.shape(q.rows, q.width);
        attention_runs.clear();
        std::int64_t row = 0;
        for (const auto& run : runs) {
            KeyValues& cache = run.sequence->layers_[std::size_t(step.layer)];
            cache.store(run.first, run.count, k.data() + row * k.width, v.data() + row * v.width);
            attention_runs.push_back(
                {&cache, run.first, run.count, q.data() + row * q.width, out.data() + row * q.width});
            row += run.count;
        }
        attend_cached(op, attention_runs);
    }

    void combine_two(const DecoderStep& step) {
        Plane &a = plane(step.in[0]), &b = plane(step.in[1]), &out = plane(step.out[0]);
        out.shape(a.rows, a.width);
        const bool sum = step.op.kind == OpKind::add;
        by_elements(a.rows * a.width, [&](std::size_t lo, std::size_t count) {
            const float *x = a.data() + lo, *y = b.data() + lo;
            float* to = out.data() + lo;
            if (sum)
                for (std::size_t i = 0; i < count; ++i) to[i] = x[i] + y[i];
            else
                for (std::size_t i = 0; i < count; ++i) to[i] = x[i] * y[i];
        });
    }

    void split(const DecoderStep& step) {
        Plane& in = plane(step.in[0]);
        for (std::size_t i = 0; i < step.out.size(); ++i) {
            Plane& out = plane(step.out[i]);
            out.shape(in.rows, step.op.sizes[i]);
            row_ops::split(step.op, i, 0, in.rows, in.data(), out.data());
        }
    }

    void row_wise(const DecoderStep& step) {
        const Op& op = step.op;
        Plane &in = plane(step.in[0]), &out = plane(step.out[0]);
        out.shape(in.rows, in.width);
        by_rows(in.rows, in.width, [&](std::int64_t lo, std::int64_t hi) {
            const float* weight = step.weight.empty() ? nullptr : step.weight.data();
            const float* bias = step.bias.empty() ? nullptr : step.bias.data();
            if (op.kind == OpKind::rms_norm) row_ops::rms_norm(op, weight, lo, hi, in.data(), out.data());
            if (op.kind == OpKind::layer_norm) row_ops::layer_norm(op, weight, bias, lo, hi, in.data(), out.data());
            if (op.kind == OpKind::route) row_ops::route(op, lo, hi, in.data(), out.data());
            if (op.kind == OpKind::rope) {
                const RotationTable& table = tables[std::size_t(step.rotation)];
                row_ops::rope(op, table.cosine.data(), table.sine.data(), lo, hi, in.data(), out.data());
            }
        });
    }

    void element_wise(const DecoderStep& step) {
        const Op& op = step.op;
        Plane &in = plane(step.in[0]), &out = plane(step.out[0]);
        out.shape(in.rows, in.width);
        by_elements(in.rows * in.width, [&](std::size_t lo, std::size_t count) {
            const std::span<const float> from(in.data() + lo, count);
            const std::span<float> to(out.data() + lo, count);
            if (op.kind == OpKind::activation) row_ops::activate(op.activation, from, to);
            if (op.kind == OpKind::scale) row_ops::scale(op.value, from, to);
            if (op.kind == OpKind::softcap) row_ops::softcap(op.value, from, to);
        });
    }

    void dispatch(const DecoderStep& step) {
        Plane &in = plane(step.in[0]), &routing = plane(step.in[1]), &out = plane(step.out[0]);
        const auto chosen = row_ops::rows_of(routing.data(), routing.rows, routing.width, step.op.expert);
        out.shape(std::int64_t(chosen.size()), in.width);
        for (std::size_t i = 0; i < chosen.size(); ++i)
            std::copy_n(in.data() + chosen[i] * in.width, in.width, out.data() + std::int64_t(i) * in.width);
    }

    void combine(const DecoderStep& step) {
        Plane &routing = plane(step.in[0]), &out = plane(step.out[0]);
        out.shape(routing.rows, plane(step.in[1]).width);
        std::ranges::fill(out.all(), 0.0f);
        for (std::int64_t expert = 0; expert < routing.width; ++expert) {
            const float* from = plane(step.in[std::size_t(expert + 1)]).data();
            for (const auto row : row_ops::rows_of(routing.data(), routing.rows, routing.width, expert)) {
                const float share = routing.data()[row * routing.width + expert];
                float* to = out.data() + row * out.width;
                for (std::int64_t c = 0; c < out.width; ++c) to[c] += share * from[c];
                from += out.width;
            }
        }
    }

    // ---- sequences

    static bool beyond(const RopeScaling& scaling, std::int64_t length) {
        return scaling.kind == RopeScaling::Kind::longrope && length > scaling.original_positions;
    }

    /// Whether a sequence that grows so turns its earlier keys by other factors than they were kept with.
    bool turns_anew(std::int64_t before, std::int64_t after) const {
        return before > 0 && std::any_of(plan.rotations.begin(), plan.rotations.end(), [&](const Op& op) {
                   return beyond(op.scaling, before) != beyond(op.scaling, after);
               });
    }

    void check_room(const Sequence& sequence, std::size_t more) const {
        if (more == 0) internal_error("no token to append");
        if (sequence.length() + std::int64_t(more) > sequence.capacity())
            bad_input("a sequence of ", sequence.length(), " tokens with room for ", sequence.capacity(),
                      " cannot take ", more, " more");
    }

    /// `final_length`: of the text when all that is to come with this call has come.
    std::span<const float> feed(Sequence& sequence, std::span<const std::int64_t> ids, std::int64_t final_length) {
        std::span<const float> logits;
        while (!ids.empty()) {
            const auto piece = ids.first(std::min(ids.size(), std::size_t(prefill_tokens)));
            ids = ids.subspan(piece.size());
            runs.assign(1, {&sequence, sequence.length(), std::int64_t(piece.size()), final_length});
            logits = pass(piece, ids.empty());
            sequence.ids_.insert(sequence.ids_.end(), piece.begin(), piece.end());
        }
        return logits;
    }

    /// Before a sequence grows by `more`: its earlier tokens again where their keys will not do any more.
    void prepare(Sequence& sequence, std::size_t more) {
        check_room(sequence, more);
        const std::int64_t length = sequence.length() + std::int64_t(more);
        if (!turns_anew(sequence.length(), length)) return;
        std::vector<std::int64_t> again;
        again.swap(sequence.ids_);
        feed(sequence, again, length);
    }
};

Decoder::Decoder(const Graph& graph, const WeightSource& weights, DType type)
    : impl_(std::make_unique<Impl>(graph, weights, type)) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

Sequence Decoder::start(std::int64_t capacity) const {
    if (capacity < 1) internal_error("a sequence needs room for a token");
    if (impl_->positions > 0 && capacity > impl_->positions)
        bad_input("a text of ", capacity, " tokens is longer than the ", impl_->positions, " positions of the model");
    Sequence sequence;
    sequence.capacity_ = capacity;
    for (const auto& op : impl_->plan.attentions) sequence.layers_.emplace_back(op, capacity);
    return sequence;
}

std::span<const float> Decoder::append(Sequence& sequence, std::span<const std::int64_t> ids) {
    impl_->prepare(sequence, ids.size());
    return impl_->feed(sequence, ids, sequence.length() + std::int64_t(ids.size()));
}

std::span<const float> Decoder::step(std::span<Sequence* const> sequences, std::span<const std::int64_t> ids) {
    if (sequences.size() != ids.size() || sequences.empty() || sequences.size() > most_sequences)
        internal_error("a step takes one id for each of 1 to ", most_sequences, " sequences");
    for (auto* sequence : sequences) impl_->prepare(*sequence, 1);
    impl_->runs.clear();
    for (auto* sequence : sequences) impl_->runs.push_back({sequence, sequence->length(), 1, sequence->length() + 1});
    const auto logits = impl_->pass(ids, true);
    for (std::size_t i = 0; i < ids.size(); ++i) sequences[i]->ids_.push_back(ids[i]);
    return logits;
}

std::uint64_t Decoder::weight_bytes() const noexcept {
    return impl_->weights.bytes();
}
DType Decoder::type() const noexcept {
    return impl_->weights.type();
}

}  // namespace kerf::core
