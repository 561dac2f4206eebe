// SPDX-License-Identifier: Apache-2.0
#include "core/exec/differentiable.hpp"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstring>
#include <limits>

#include "core/exec/attention.hpp"
#include "core/exec/positions.hpp"
#include "core/exec/tensor_ops.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

at::Tensor tensor_of(std::span<const float> values, at::IntArrayRef shape) {
    at::Tensor out = at::empty(shape, at::kFloat);
    std::memcpy(out.data_ptr<float>(), values.data(), values.size_bytes());
    return out;
}

/// What tensor_ops::softcap does in place.
at::Tensor capped(const at::Tensor& x, double cap) {
    return at::tanh(x / cap) * cap;
}

/// Rotation::apply, out of place: features a and b of a pair become a c − b s and b c + a s.
at::Tensor rotated(const Op& op, const Rotation& rotation, Batch batch, const at::Tensor& x) {
    const std::int64_t half = op.rotary_dim / 2;
    const auto [cosine, sine] = rotation.angles(op, batch.length);
    const auto table = [&](std::span<const float> values) {
        return tensor_of(values.first(std::size_t(batch.length * half)), {1, batch.length, 1, half});
    };
    const at::Tensor c = table(cosine), s = table(sine);
    const at::Tensor heads = x.view({batch.samples, batch.length, op.heads, op.head_dim});
    const std::int64_t step = op.interleaved ? 2 : 1, second = op.interleaved ? 1 : half;
    const std::int64_t first_end = op.interleaved ? op.rotary_dim : half;
    const at::Tensor a = heads.slice(-1, 0, first_end, step), b = heads.slice(-1, second, op.rotary_dim, step);
    const at::Tensor turned_a = a * c - b * s, turned_b = b * c + a * s;
    const at::Tensor turned =
        op.interleaved ? at::stack({turned_a, turned_b}, -1).flatten(-2) : at::cat({turned_a, turned_b}, -1);
    return at::cat({turned, heads.slice(-1, op.rotary_dim, op.head_dim)}, -1).view_as(x);
}

/// Attention whose scores are touched before the softmax (soft caps, ALiBi), all heads of a window at once.
at::Tensor attend_by_scores(const Op& op, Batch batch, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const std::int64_t length = batch.length, repeat = op.heads / op.kv_heads;
    const auto heads_first = [&](const at::Tensor& x, std::int64_t heads) {
        const at::Tensor apart = x.view({batch.samples, length, heads, x.size(1) / heads}).transpose(1, 2);
        return heads == op.heads ? apart : apart.repeat_interleave(repeat, 1);
    };
    at::Tensor scores = at::matmul(heads_first(q, op.heads), heads_first(k, op.kv_heads).transpose(2, 3));
    if (op.alibi) {
        at::Tensor bias = at::empty({op.heads, 1, length}, at::kFloat);
        float* to = bias.data_ptr<float>();
        for (const float slope : alibi_slopes(op))
            for (std::int64_t j = 0; j < length; ++j) *to++ = alibi_bias(slope, j);
        scores = scores + bias;
    }
    scores = scores * op.value;
    if (op.softcap > 0) scores = capped(scores, op.softcap);
    const at::Tensor back = at::arange(length).unsqueeze(1) - at::arange(length).unsqueeze(0);
    at::Tensor hidden = back.lt(0);
    if (op.window > 0) hidden = hidden.logical_or(back.ge(op.window));
    const at::Tensor shares = at::softmax(scores.masked_fill(hidden, -std::numeric_limits<float>::infinity()), -1);
    const at::Tensor out = at::matmul(shares, heads_first(v, op.kv_heads));
    return out.transpose(1, 2).reshape({batch.tokens(), op.heads * value_dim(op)});
}

}  // namespace

DifferentiablePiece::DifferentiablePiece(const std::vector<Op>& ops, const WeightSource& weights, const Wanted& wanted,
                                         std::int64_t length)
    : ops_(ops), source_(weights), wanted_(wanted) {
    for (std::size_t i = 0; i < ops_.size(); ++i) {
        for (const auto& name : ops_[i].in) last_reads_[name] = i;
        load(ops_[i], weights);
        rotations_.push_back(ops_[i].kind == OpKind::rope ? std::make_unique<Rotation>(ops_[i], length) : nullptr);
    }
}

void DifferentiablePiece::load(const Op& op, const WeightSource& weights) {
    const bool norm = op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm;
    if (op.kind != OpKind::linear && !norm) return;
    if (op.kind == OpKind::linear && !weights_.contains(op.weight)) {
        const auto values = weights.whole(op.weight);
        weights_.emplace(op.weight, op.transposed ? tensor_of(values, {op.columns, op.rows}).t().contiguous()
                                                  : tensor_of(values, {op.rows, op.columns}));
    }
    for (const auto& name : {norm ? op.weight : std::string(), op.bias}) {
        if (name.empty() || weights_.contains(name)) continue;
        const auto values = weights.whole(name);
        weights_.emplace(name, tensor_of(values, {std::int64_t(values.size())}));
    }
}

/// One forward pass and what is to be known for the way back.
class DifferentiablePiece::Tape {
public:
    Tape(const DifferentiablePiece& piece, const Input& input) : piece_(piece), input_(input) {
        if (!input.x.defined()) return;
        // A leaf of its own: threads share what the caller's tensor holds, never a tape.
        x_ = input.x.detach().requires_grad_(true);
        values_.emplace("x", x_);
    }

    at::Tensor run(const std::string& result) {
        for (std::size_t i = 0; i < piece_.ops_.size(); ++i) {
            const Op& op = piece_.ops_[i];
            std::vector<at::Tensor> in;
            if (op.kind != OpKind::embedding)
                for (const auto& name : op.in) in.push_back(values_.at(name));
            auto made = op.kind == OpKind::split ? tensor_ops::split(op, in[0]) : std::vector{compute(i, in)};
            for (std::size_t o = 0; o < made.size(); ++o) values_.insert_or_assign(op.out[o], std::move(made[o]));
            for (const auto& name : op.in)
                if (piece_.last_reads_.at(name) == i && name != result) values_.erase(name);
        }
        return values_.at(result);
    }

    PieceGradients back(const at::Tensor& y, const at::Tensor& seed) const {
        std::vector<at::Tensor> of;
        if (x_.defined()) of.push_back(x_);
        for (const auto& taped : linears_) of.push_back(taped.y);
        for (const auto& [name, leaf] : leaves_) of.push_back(leaf);
        for (const auto& taped : tables_) of.push_back(taped.y);
        PieceGradients out;
        if (of.empty()) return out;
        const auto grads = torch::autograd::grad({y}, of, {seed}, false, false, true);
        std::size_t next = 0;
        // A value that nothing reads (an expert without a token) has no gradient; it is zero.
        const auto take = [&](const at::Tensor& like) {
            const at::Tensor& grad = grads[next++];
            return grad.defined() ? grad.contiguous() : at::zeros_like(like);
        };
        if (x_.defined()) out.input = take(x_);
        for (const auto& taped : linears_) out.linears.push_back({taped.op, taped.x, take(taped.y)});
        for (const auto& [name, leaf] : leaves_) out.vectors.push_back({name, take(leaf)});
        for (const auto& taped : tables_) out.tables.push_back({taped.op, take(taped.y)});
        return out;
    }

private:
    struct Taped {
        const Op* op;
        at::Tensor x, y;
    };

    bool wanted(const std::string& name) const { return !name.empty() && piece_.wanted_(name); }

    at::Tensor linear(const Op& op, const at::Tensor& x) {
        const c10::optional<at::Tensor> bias =
            op.bias.empty() ? c10::optional<at::Tensor>() : piece_.weights_.find(op.bias)->second;
        at::Tensor y = at::linear(x, piece_.weights_.find(op.weight)->second, bias);
        if (wanted(op.weight) || wanted(op.bias)) linears_.push_back({&op, x.detach(), y});
        return y;
    }

    at::Tensor table(const Op& op) {
        std::vector<std::int64_t> positions;
        std::span<const std::int64_t> ids = input_.ids;
        if (op.in[0] != "tokens") {
            for (std::int64_t i = 0; i < input_.batch.tokens(); ++i) positions.push_back(i % input_.batch.length);
            ids = positions;
        }
        at::Tensor rows = tensor_ops::gather(op, ids, piece_.source_).requires_grad_(true);
        if (wanted(op.weight)) tables_.push_back({&op, {}, rows});
        return rows;
    }

    c10::optional<at::Tensor> parameter(const std::string& name) {
        if (name.empty()) return {};
        const at::Tensor& weight = piece_.weights_.find(name)->second;
        if (!wanted(name)) return weight;
        leaves_.emplace_back(name, weight.detach().requires_grad_(true));
        return leaves_.back().second;
    }

    at::Tensor compute(std::size_t index, const std::vector<at::Tensor>& in) {
        const Op& op = piece_.ops_[index];
        switch (op.kind) {
            case OpKind::embedding:
                return table(op);
            case OpKind::linear:
                return linear(op, in[0]);
            case OpKind::rms_norm: {
                auto weight = parameter(op.weight);
                if (weight && op.value != 0) weight = *weight + op.value;
                return tensor_ops::rms_norm(op, in[0], weight);
            }
            case OpKind::layer_norm: {
                const auto weight = parameter(op.weight), bias = parameter(op.bias);
                return tensor_ops::layer_norm(op, in[0], weight, bias);
            }
            case OpKind::rope:
                return rotated(op, *piece_.rotations_[index], input_.batch, in[0]);
            case OpKind::attention:
                return op.softcap > 0 || op.alibi ? attend_by_scores(op, input_.batch, in[0], in[1], in[2])
                                                  : attend(op, input_.batch, in[0], in[1], in[2]);
            case OpKind::softcap:
                return capped(in[0], op.value);
            default:
                return tensor_ops::weightless(op, in);
        }
    }

    const DifferentiablePiece& piece_;
    const Input& input_;
    at::Tensor x_;
    std::map<std::string, at::Tensor, std::less<>> values_;
    std::vector<Taped> linears_, tables_;
    std::vector<std::pair<std::string, at::Tensor>> leaves_;
};

PieceGradients DifferentiablePiece::backward(const Input& input, const std::string& result,
                                             const std::function<at::Tensor(const at::Tensor& y)>& seed) const {
    const at::AutoGradMode on(true);
    Tape tape(*this, input);
    const at::Tensor y = tape.run(result);
    at::Tensor from;
    {
        const at::NoGradGuard off;
        from = seed(y.detach());
    }
    return tape.back(y, from);
}

}  // namespace kerf::core
