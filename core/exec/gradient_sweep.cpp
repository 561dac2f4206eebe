// SPDX-License-Identifier: Apache-2.0
#include "core/exec/gradient_sweep.hpp"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/exec/activation_pool.hpp"
#include "core/exec/gradient_sums.hpp"
#include "core/exec/states.hpp"
#include "core/graph/cost.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

const std::string delta_state = "delta", tied_state = "tied";

/// Logits (and twice as much beside them) that one slice of the head makes at most, in floats.
constexpr std::int64_t slice_logits = std::int64_t{1} << 24;

/// The state that enters block `block`; blocks(): what enters the epilogue.
std::string entering(std::size_t block) {
    return text("x", block);
}

at::Tensor tensor_of(const Value& value) {
    at::Tensor out = at::empty({value.tokens(), value.features()}, at::kFloat);
    std::memcpy(out.data_ptr<float>(), value.bytes().data(), out.nbytes());
    return out;
}

Value value_of(const at::Tensor& tensor) {
    const at::Tensor rows = tensor.contiguous();
    return Value::filled(rows.size(0), rows.size(1), DType::f32, [&](std::span<std::byte> bytes) {
        std::memcpy(bytes.data(), rows.const_data_ptr<float>(), bytes.size());
    });
}

/// The shape that a tensor's gradient has; [1, size] for vectors.
std::map<std::string, std::pair<std::int64_t, std::int64_t>> gradient_shapes(const std::vector<Op>& ops) {
    std::map<std::string, std::pair<std::int64_t, std::int64_t>> out;
    for (const auto& op : ops) {
        if (op.kind == OpKind::linear || op.kind == OpKind::embedding)
            out.emplace(op.weight, std::pair{op.rows, op.columns});
        if (op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm)
            out.emplace(op.weight, std::pair{std::int64_t{1}, op.rows / op.heads});
        out.emplace(op.bias, std::pair{std::int64_t{1}, op.rows / op.heads});
    }
    out.erase("");
    return out;
}

bool works_by_row(const std::vector<Op>& ops) {
    return std::none_of(ops.begin(), ops.end(), [](const Op& op) {
        return op.kind == OpKind::attention || op.kind == OpKind::rope || op.kind == OpKind::embedding;
    });
}

class Sweep {
public:
    Sweep(const Graph& graph, const WeightSource& weights, const Windows& windows, const std::filesystem::path& scratch,
          const SweepRequest& request)
        : graph_(graph),
          weights_(weights),
          request_(request),
          units_(windows, Units::sweep_tokens(windows.samples, windows.length, request.squares)),
          states_(units_, scratch, DType::f32),
          windows_(windows.samples) {
        if (windows.length < 2)
            bad_input("gradients need windows of at least 2 tokens, not ", windows.length,
                      ": a window of one token predicts nothing");
        if (windows.samples < 1) bad_input("gradients need at least one window of tokens");
        for (std::size_t piece = 0; piece < pieces(); ++piece)
            for (const auto& [tensor, shape] : gradient_shapes(ops(piece))) note_use(tensor, piece);
        for (const auto& [tensor, uses] : uses_) first_ = std::min(first_, uses.front());
        check_squares();
    }

    double run() {
        if (uses_.empty()) return forward_loss();
        forward();
        const double loss = back_through_head();
        for (std::size_t piece = pieces() - 1; piece-- > first_;) {
            back_through(piece);
            if (piece > 0) states_.drop(entering(piece - 1));
        }
        trim_activations();
        return loss;
    }

private:
    // Pieces in the order of the forward pass: prologue, blocks, epilogue.
    std::size_t pieces() const { return graph_.blocks.size() + 2; }
    const std::vector<Op>& ops(std::size_t piece) const {
        if (piece == 0) return graph_.prologue;
        return piece + 1 == pieces() ? graph_.epilogue : graph_.blocks[piece - 1].ops;
    }
    std::string piece_name(std::size_t piece) const {
        if (piece == 0) return "the embedding";
        return piece + 1 == pieces() ? "the head" : graph_.blocks[piece - 1].name;
    }

    void note_use(const std::string& tensor, std::size_t piece) {
        if (request_.wanted(tensor)) uses_[tensor].push_back(piece);
    }
    /// A table that is the head's weight too: its two halves of a window's gradient meet in the prologue.
    bool is_tied(const std::string& tensor) const {
        const auto& uses = uses_.at(tensor);
        return uses.size() == 2 && uses.front() == 0 && uses.back() + 1 == pieces();
    }
    const Op* table_of(const std::string& tensor) const {
        for (const auto& op : graph_.prologue)
            if (op.kind == OpKind::embedding && op.in[0] == "tokens" && op.weight == tensor) return &op;
        return nullptr;
    }
    void check_squares() const {
        if (!request_.squares) return;
        for (const auto& [tensor, uses] : uses_)
            if (uses.size() > 1 && !(is_tied(tensor) && table_of(tensor) != nullptr))
                bad_input(tensor, ": is used in several parts of the model (", piece_name(uses.front()), " and ",
                          piece_name(uses.back()), "), for which kerf has no squared gradients; leave it out");
    }

    void check_cancelled() const {
        if (request_.check_cancelled) request_.check_cancelled();
    }
    void progress(const std::vector<Op>& ops, double passes) const {
        if (request_.progress)
            request_.progress(passes * forward_flops(ops, 0, ops.size(), units_.tokens(), units_.length()));
    }

    void forward();
    double forward_loss();
    double back_through_head();
    void back_through(std::size_t piece);
    /// Gradients of one unit of the head, its slices of rows one after the other; adds up Σ −log p.
    UnitGradients head_of(std::int64_t unit, const DifferentiablePiece& head, double& loss) const;
    UnitGradients gradients_of(std::int64_t unit, std::size_t piece, const DifferentiablePiece& program) const;
    at::Tensor loss_seed(const at::Tensor& logits, std::int64_t unit, std::int64_t first, double& loss) const;
    void over_units(std::size_t piece, const std::function<UnitGradients(std::int64_t unit)>& gradients);
    void hand_out(std::size_t piece);
    [[noreturn]] void report_loss(double loss) const;

    const Graph& graph_;
    const WeightSource& weights_;
    const SweepRequest& request_;
    Units units_;
    States states_;
    std::int64_t windows_;
    std::map<std::string, std::vector<std::size_t>> uses_;  // of wanted tensors, in the order of the forward pass
    std::size_t first_ = std::size_t(-1);                   // the earliest piece that holds one
    std::string tied_;                                      // the wanted table that is the head's weight too
    std::map<std::string, GradientSum> sums_;               // of tensors met so far and not handed out
};

/// Everything up to the epilogue; what enters a piece that the way back visits is kept.
void Sweep::forward() {
    const std::size_t blocks = graph_.blocks.size();
    {
        const Program prologue(graph_.prologue, weights_, DType::f32, units_.length());
        states_.declare(entering(0), graph_.hidden);
        parallel_for(units_.count(), 1, [&](std::int64_t unit, std::int64_t) {
            states_.put(entering(0), unit, prologue.embed(units_.ids(unit), units_.batch(unit), "x"));
        });
    }
    for (std::size_t block = 0; block < blocks; ++block) {
        check_cancelled();
        const auto& ops = graph_.blocks[block].ops;
        const Program program(ops, weights_, DType::f32, units_.length());
        states_.declare(entering(block + 1), graph_.hidden);
        parallel_for(units_.count(), 1, [&](std::int64_t unit, std::int64_t) {
            Values values{{"x", states_.get(entering(block), unit)}};
            const std::string keep[] = {"y"};
            program.run(values, units_.batch(unit), 0, ops.size(), keep);
            states_.put(entering(block + 1), unit, values.at("y"));
        });
        if (block + 1 < first_) states_.drop(entering(block));
        progress(ops, 1);
    }
    trim_activations();
}

/// ∂ℓ_n/∂logits of rows [first, first + rows) of a unit: (softmax − one-hot) / (length − 1), 0 where nothing follows.
at::Tensor Sweep::loss_seed(const at::Tensor& logits, std::int64_t unit, std::int64_t first, double& loss) const {
    const std::int64_t length = units_.length();
    const auto ids = units_.ids(unit);
    at::Tensor shares = at::log_softmax(logits, -1);
    const float* log_p = shares.const_data_ptr<float>();
    const auto target = [&](std::int64_t row) { return ids[std::size_t(first + row + 1)]; };
    const auto is_last = [&](std::int64_t row) { return (first + row + 1) % length == 0; };
    for (std::int64_t row = 0; row < shares.size(0); ++row)
        if (!is_last(row)) loss -= double(log_p[row * shares.size(1) + target(row)]);
    shares.exp_();
    float* to = shares.data_ptr<float>();
    const float scale = float(1 / double(length - 1));
    for (std::int64_t row = 0; row < shares.size(0); ++row) {
        float* at = to + row * shares.size(1);
        if (!is_last(row)) at[target(row)] -= 1;
        const float factor = is_last(row) ? 0 : scale;
        for (std::int64_t i = 0; i < shares.size(1); ++i) at[i] *= factor;
    }
    return shares;
}

UnitGradients Sweep::head_of(std::int64_t unit, const DifferentiablePiece& head, double& loss) const {
    UnitGradients out{{}, units_.ids(unit), units_.batch(unit), {}, {}};
    const at::Tensor x = tensor_of(states_.get(entering(graph_.blocks.size()), unit));
    const std::int64_t rows = x.size(0);
    const std::int64_t slice =
        works_by_row(graph_.epilogue) ? std::max<std::int64_t>(1, slice_logits / graph_.vocabulary) : rows;
    for (std::int64_t first = 0; first < rows; first += slice) {
        const std::int64_t here = std::min(slice, rows - first);
        const Batch batch = here == rows ? out.batch : Batch{1, here};
        out.pieces.push_back(
            head.backward({x.slice(0, first, first + here), {}, batch}, "logits",
                          [&](const at::Tensor& logits) { return loss_seed(logits, unit, first, loss); }));
    }
    return out;
}

UnitGradients Sweep::gradients_of(std::int64_t unit, std::size_t piece, const DifferentiablePiece& program) const {
    UnitGradients out{{}, units_.ids(unit), units_.batch(unit), {}, {}};
    const at::Tensor delta = tensor_of(states_.get(delta_state, unit));
    const at::Tensor x = piece > 0 ? tensor_of(states_.get(entering(piece - 1), unit)) : at::Tensor();
    if (piece == 0 && states_.has(tied_state)) {
        out.tied_rows = tensor_of(states_.get(tied_state, unit));
        out.tied = tied_;
    }
    out.pieces.push_back(
        program.backward({x, out.ids, out.batch}, piece > 0 ? "y" : "x", [&](const at::Tensor&) { return delta; }));
    return out;
}

/// As many units at a time as there are threads; sums take them one by one in order: matrices in all threads at once,
/// where they are products and nothing else, then each other tensor in a thread of its own.
void Sweep::over_units(std::size_t piece, const std::function<UnitGradients(std::int64_t unit)>& gradients) {
    std::vector<std::string> matrices, names;
    for (const auto& [tensor, shape] : gradient_shapes(ops(piece))) {
        if (!uses_.contains(tensor)) continue;
        (shape.first > 1 && !request_.squares ? matrices : names).push_back(tensor);
        sums_.try_emplace(tensor, tensor, shape.first, shape.second, request_.squares);
    }
    const bool head = piece + 1 == pieces();
    const std::int64_t round = threads();
    std::vector<UnitGradients> made(static_cast<std::size_t>(round));
    for (std::int64_t start = 0; start < units_.count(); start += round) {
        check_cancelled();
        const std::int64_t here = std::min(round, units_.count() - start);
        parallel_for(here, 1, [&](std::int64_t i, std::int64_t) { made[std::size_t(i)] = gradients(start + i); });
        for (const auto& name : matrices)
            for (std::int64_t i = 0; i < here; ++i) sums_.at(name).add(made[std::size_t(i)]);
        parallel_for(std::int64_t(names.size()), 1, [&](std::int64_t n, std::int64_t) {
            const at::NoGradGuard no_tape;
            const std::string& name = names[std::size_t(n)];
            const Op* table = head && request_.squares && is_tied(name) ? table_of(name) : nullptr;
            for (std::int64_t i = 0; i < here; ++i) {
                auto& unit = made[std::size_t(i)];
                std::vector<std::int64_t> rows;
                if (table != nullptr)
                    for (const auto id : unit.ids) rows.push_back(id + table->offset);
                const at::Tensor tied = sums_.at(name).add(unit, rows);
                if (tied.defined()) states_.put(tied_state, start + i, value_of(tied));
            }
        });
        for (std::int64_t i = 0; i < here; ++i) {
            auto& unit = made[std::size_t(i)];
            if (piece > first_) {
                std::vector<at::Tensor> rows;
                for (const auto& part : unit.pieces) rows.push_back(part.input);
                states_.put(delta_state, start + i, value_of(rows.size() == 1 ? rows[0] : at::cat(rows)));
            }
            unit = {};
        }
    }
    made.clear();
    trim_activations();
}

/// Tensors of which no earlier piece holds a part.
void Sweep::hand_out(std::size_t piece) {
    for (auto at = sums_.begin(); at != sums_.end();) {
        if (uses_.at(at->first).front() < piece) {
            ++at;
            continue;
        }
        auto node = sums_.extract(at++);
        request_.made(std::move(node.mapped()).finish(windows_));
    }
}

double Sweep::back_through_head() {
    const DifferentiablePiece head(graph_.epilogue, weights_, request_.wanted, units_.length());
    if (pieces() - 1 > first_) states_.declare(delta_state, graph_.hidden);
    for (const auto& [tensor, uses] : uses_)
        if (request_.squares && is_tied(tensor)) {
            tied_ = tensor;
            states_.declare(tied_state, table_of(tensor)->columns);
        }
    std::vector<double> losses(std::size_t(units_.count()));
    over_units(pieces() - 1, [&](std::int64_t unit) { return head_of(unit, head, losses[std::size_t(unit)]); });
    double loss = 0;
    for (const double part : losses) loss += part;
    loss /= double(windows_ * (units_.length() - 1));
    if (!std::isfinite(loss)) report_loss(loss);
    hand_out(pieces() - 1);
    states_.drop(entering(graph_.blocks.size()));
    progress(graph_.epilogue, 3);
    return loss;
}

void Sweep::back_through(std::size_t piece) {
    const DifferentiablePiece program(ops(piece), weights_, request_.wanted, units_.length());
    over_units(piece, [&](std::int64_t unit) { return gradients_of(unit, piece, program); });
    hand_out(piece);
    progress(ops(piece), 3);
}

/// The loss alone, for a request that wants no tensor.
double Sweep::forward_loss() {
    first_ = pieces() - 1;
    forward();
    return back_through_head();
}

void Sweep::report_loss(double loss) const {
    for (std::size_t block = 0; block <= graph_.blocks.size(); ++block) {
        if (!states_.has(entering(block))) continue;
        for (std::int64_t unit = 0; unit < units_.count(); ++unit)
            if (first_non_finite(states_.get(entering(block), unit).to_floats()) >= 0)
                throw Error(Fault::numeric,
                            text("the loss is ", loss, ": ", piece_name(block),
                                 " makes values that are not finite; the checkpoint is damaged, or made for another "
                                 "kind of model"));
    }
    throw Error(Fault::numeric, text("the loss is ", loss, ": the head makes logits that are not finite"));
}

}  // namespace

double sweep_gradients(const Graph& graph, const WeightSource& weights, const Windows& windows,
                       const std::filesystem::path& scratch, const SweepRequest& request) {
    initialise_execution();
    return Sweep(graph, weights, windows, scratch, request).run();
}

}  // namespace kerf::core
