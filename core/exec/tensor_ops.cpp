// SPDX-License-Identifier: Apache-2.0
#include "core/exec/tensor_ops.hpp"

#include "core/support/error.hpp"

namespace kerf::core::tensor_ops {
namespace {

/// [tokens, heads, features of one]
at::Tensor by_head(const Op& op, const at::Tensor& x) {
    return x.view({x.size(0), op.heads, op.rows / op.heads});
}

/// The mean over the features, of which pruning may have left fewer than count: those that are gone were zero.
at::Tensor mean_over(const Op& op, const at::Tensor& x) {
    return op.divisor > 0 ? x.sum(-1, true).div_(double(op.divisor)) : x.mean(-1, true);
}

/// Rows of a value that go to an expert, int64 [rows].
at::Tensor rows_of(const at::Tensor& routing, std::int64_t expert) {
    return routing.select(1, expert).nonzero().squeeze(1);
}

}  // namespace

at::Tensor gather(const Op& op, std::span<const std::int64_t> ids, const WeightSource& source) {
    at::Tensor rows = at::empty({std::int64_t(ids.size()), op.columns}, at::kFloat);
    for (std::size_t i = 0; i < ids.size(); ++i) {
        const std::int64_t row = ids[i] + op.offset;
        if (row < 0 || row >= op.rows)
            bad_input(op.weight, ": ", op.in[0] == "tokens" ? "token id " : "position ", ids[i],
                      " is past the table's ", op.rows, " rows");
        source.row(op.weight, row, {rows.data_ptr<float>() + std::int64_t(i) * op.columns, std::size_t(op.columns)});
    }
    return rows;
}

at::Tensor activate(ActivationKind kind, const at::Tensor& x) {
    switch (kind) {
        case ActivationKind::silu:
            return at::silu(x);
        case ActivationKind::gelu:
            return at::gelu(x);
        case ActivationKind::gelu_new:
        case ActivationKind::gelu_tanh:
            return at::gelu(x, "tanh");
        case ActivationKind::relu:
            return at::relu(x);
        case ActivationKind::quick_gelu:
            return x * at::sigmoid(1.702 * x);
    }
    internal_error("unknown activation");
}

at::Tensor rms_norm(const Op& op, const at::Tensor& x, const c10::optional<at::Tensor>& weight) {
    const at::Tensor wide = by_head(op, x).to(at::kFloat);
    const at::Tensor normed = wide * at::rsqrt(mean_over(op, wide.square()).add_(op.eps));
    if (!weight) return normed.to(x.scalar_type()).view_as(x);
    const at::Tensor out = weight->scalar_type() == x.scalar_type() ? normed.to(x.scalar_type()) * *weight
                                                                    : (normed * *weight).to(x.scalar_type());
    return out.view_as(x);
}

at::Tensor layer_norm(const Op& op, const at::Tensor& x, const c10::optional<at::Tensor>& weight,
                      const c10::optional<at::Tensor>& bias) {
    const std::int64_t each = op.rows / op.heads;
    if (op.divisor == 0) return at::layer_norm(by_head(op, x), {each}, weight, bias, op.eps).view_as(x);
    const at::Tensor wide = by_head(op, x).to(at::kFloat);
    const at::Tensor mean = mean_over(op, wide), centred = wide - mean;
    // A feature that is gone was zero and lay −mean from the mean.
    const double share = double(op.divisor - each) / double(op.divisor);
    at::Tensor out = centred * at::rsqrt(mean_over(op, centred.square()) + mean.square() * share + op.eps);
    if (weight) out = out * *weight;
    if (bias) out = out + *bias;
    return out.to(x.scalar_type()).view_as(x);
}

at::Tensor scale(const Op& op, const at::Tensor& x) {
    if (!op.rounded) return x * op.value;
    return x * at::scalar_tensor(op.value, at::TensorOptions(x.scalar_type()));
}

at::Tensor softcap(double value, const at::Tensor& x) {
    return x.to(at::kFloat).div(value).tanh_().mul_(value).to(x.scalar_type());
}

std::vector<at::Tensor> split(const Op& op, const at::Tensor& x) {
    const std::int64_t tokens = x.size(0);
    std::vector<std::int64_t> sizes = op.sizes;
    for (auto& size : sizes) size /= op.groups;
    std::vector<at::Tensor> out;
    for (const auto& part : at::split_with_sizes(x.view({tokens, op.groups, x.size(1) / op.groups}), sizes, -1))
        out.push_back(part.reshape({tokens, op.groups * part.size(-1)}).contiguous());
    return out;
}

at::Tensor route(const Op& op, const at::Tensor& logits) {
    auto [weights, chosen] = at::softmax(logits.to(at::kFloat), -1).topk(op.top_k, -1);
    if (op.normalize) weights = weights / weights.sum(-1, true);
    return at::zeros(logits.sizes(), at::kFloat).scatter_(1, chosen, weights).to(logits.scalar_type());
}

at::Tensor dispatch(const Op& op, const at::Tensor& x, const at::Tensor& routing) {
    return x.index_select(0, rows_of(routing, op.expert));
}

at::Tensor combine(const std::vector<at::Tensor>& in) {
    const at::Tensor& routing = in[0];
    at::Tensor sum = at::zeros({routing.size(0), in[1].size(1)}, at::kFloat);
    for (std::int64_t expert = 0; expert < routing.size(1); ++expert) {
        const at::Tensor rows = rows_of(routing, expert);
        const at::Tensor weight = routing.select(1, expert).index_select(0, rows).to(at::kFloat).unsqueeze(1);
        sum.index_add_(0, rows, in[std::size_t(expert + 1)].to(at::kFloat) * weight);
    }
    return sum.to(routing.scalar_type());
}

at::Tensor weightless(const Op& op, const std::vector<at::Tensor>& in) {
    switch (op.kind) {
        case OpKind::activation:
            return activate(op.activation, in[0]);
        case OpKind::mul:
            return in[0] * in[1];
        case OpKind::add:
            return in[0] + in[1];
        case OpKind::scale:
            return scale(op, in[0]);
        case OpKind::route:
            return route(op, in[0]);
        case OpKind::dispatch:
            return dispatch(op, in[0], in[1]);
        case OpKind::combine:
            return combine(in);
        case OpKind::embedding:
        case OpKind::linear:
        case OpKind::rms_norm:
        case OpKind::layer_norm:
        case OpKind::rope:
        case OpKind::attention:
        case OpKind::split:
        case OpKind::softcap:
            break;
    }
    internal_error("op ", op_name(op.kind), " is not without parameters, or has no single result");
}

}  // namespace kerf::core::tensor_ops
