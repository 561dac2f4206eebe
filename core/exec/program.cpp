// SPDX-License-Identifier: Apache-2.0
#include "core/exec/program.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <set>

#include "core/exec/activation_pool.hpp"
#include "core/exec/attention.hpp"
#include "core/exec/rotation.hpp"
#include "core/exec/tensor_ops.hpp"
#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "core/support/transpose.hpp"
#include "kernels/cpu/isa.hpp"

namespace kerf::core {

struct Value::Impl {
    at::Tensor tensor;
};

void initialise_execution() {
    static std::once_flag once;
    std::call_once(once, [] {
        use_activation_pool();
        linalg::initialise();
        at::set_num_threads(1);
    });
}

void warm_up_execution() {
    static std::once_flag once;
    std::call_once(once, [] {
        constexpr std::int64_t width = 128, length = 64;
        Op norm, product, attention, gate;
        norm.kind = OpKind::rms_norm;
        norm.weight = "norm";
        norm.rows = width;
        norm.in = {"x"};
        norm.out = {"n"};
        product.kind = OpKind::linear;
        product.weight = "product";
        product.rows = product.columns = width;
        product.in = {"n"};
        product.out = {"p"};
        attention.kind = OpKind::attention;
        attention.heads = attention.kv_heads = 2;
        attention.head_dim = width / 2;
        attention.value = 0.125;
        attention.in = {"p", "p", "p"};
        attention.out = {"a"};
        gate.kind = OpKind::activation;
        gate.in = {"a"};
        gate.out = {"y"};
        const WeightSource ones{.whole =
                                    [](const std::string& name) {
                                        return std::vector<float>(name == "norm" ? width : width * width, 1.0f);
                                    },
                                .row = {}};
        const Program program({norm, product, attention, gate}, ones, DType::f32, length);
        parallel_for(threads(), 1, [&](std::int64_t, std::int64_t) {
            Values values{
                {"x", Value::from_floats(std::vector<float>(length * width, 1.0f), length, width, DType::f32)}};
            const std::string keep[] = {"y"};
            program.run(values, {1, length}, 0, program.ops().size(), keep);
        });
        std::vector<float> identity(width * width);
        for (std::int64_t i = 0; i < width; ++i) identity[std::size_t(i * width + i)] = 1.0f;
        linalg::inverse_factor<float>(width, identity.data(), width);
        trim_activations();
    });
}

bool has_bfloat16_hardware() {
    return kernels::active_isa() != kernels::Isa::generic;
}

namespace {

at::ScalarType scalar_type(DType dtype) {
    return dtype == DType::bf16 ? at::kBFloat16 : at::kFloat;
}

at::Tensor from_span(std::span<const float> values, at::IntArrayRef shape) {
    at::Tensor out = at::empty(shape, at::kFloat);
    std::memcpy(out.data_ptr<float>(), values.data(), values.size_bytes());
    return out;
}

}  // namespace

// ---- Value --------------------------------------------------------------------------------------------------------

Value Value::filled(std::int64_t tokens, std::int64_t features, DType dtype,
                    const std::function<void(std::span<std::byte>)>& fill) {
    const c10::InferenceMode no_autograd;
    at::Tensor tensor = at::empty({tokens, features}, scalar_type(dtype));
    fill({static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()});
    Value value;
    value.impl_ = std::make_shared<Impl>(Impl{std::move(tensor)});
    return value;
}

Value Value::from_floats(std::span<const float> values, std::int64_t tokens, std::int64_t features, DType dtype) {
    const c10::InferenceMode no_autograd;
    Value value;
    value.impl_ = std::make_shared<Impl>(Impl{from_span(values, {tokens, features}).to(scalar_type(dtype))});
    return value;
}

std::span<const std::byte> Value::bytes() const {
    return {static_cast<const std::byte*>(impl_->tensor.const_data_ptr()), impl_->tensor.nbytes()};
}

std::vector<float> Value::to_floats() const {
    const c10::InferenceMode no_autograd;
    const at::Tensor wide = impl_->tensor.to(at::kFloat);
    return {wide.const_data_ptr<float>(), wide.const_data_ptr<float>() + wide.numel()};
}

std::span<const float> Value::floats(std::vector<float>& widened) const {
    const at::Tensor& tensor = impl_->tensor;
    if (tensor.scalar_type() == at::kFloat) return {tensor.const_data_ptr<float>(), std::size_t(tensor.numel())};
    widened = to_floats();
    return widened;
}

std::int64_t Value::tokens() const {
    return impl_->tensor.size(0);
}
std::int64_t Value::features() const {
    return impl_->tensor.size(1);
}

// ---- Program ------------------------------------------------------------------------------------------------------

struct Program::Impl {
    std::vector<Op> ops;
    DType compute;
    WeightSource source;
    // bfloat16 products without the hardware run in float32 on operands that are bfloat16 values already.
    bool widen;
    std::map<std::string, at::Tensor, std::less<>> weights;      // by tensor name; linears as [out, in]
    std::vector<std::unique_ptr<Rotation>> rotations;            // by op, null for other kinds
    std::map<std::string, std::size_t, std::less<>> last_reads;  // index past the last op that reads a value

    at::Tensor to_compute(std::span<const float> values, at::IntArrayRef shape, bool product) const {
        at::Tensor out = from_span(values, shape);
        if (compute == DType::bf16) out = out.to(at::kBFloat16);
        return product && widen ? out.to(at::kFloat) : out;
    }

    void load(const Op& op) {
        const auto vector = [&](const std::string& name) {
            if (name.empty() || weights.contains(name)) return;
            std::vector<float> values = source.whole(name);
            if (op.kind == OpKind::rms_norm && op.value != 0)
                for (float& value : values) value += static_cast<float>(op.value);
            const std::int64_t size = std::int64_t(values.size());
            // A weight with an offset stays float32: 1 + w would lose most of a small w's bits.
            weights.emplace(name, op.kind == OpKind::rms_norm && op.value != 0
                                      ? from_span(values, {size})
                                      : to_compute(values, {size}, op.kind == OpKind::linear));
        };
        if (op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm) {
            vector(op.weight);
            vector(op.bias);
        }
        if (op.kind == OpKind::linear) {
            const auto values = source.whole(op.weight);
            at::Tensor weight = op.transposed ? to_compute(values, {op.columns, op.rows}, true).t().contiguous()
                                              : to_compute(values, {op.rows, op.columns}, true);
            weights.insert_or_assign(op.weight, std::move(weight));
            vector(op.bias);
        }
    }

    const at::Tensor& weight(const std::string& name) const { return weights.find(name)->second; }
    c10::optional<at::Tensor> optional_weight(const std::string& name) const {
        return name.empty() ? c10::optional<at::Tensor>() : weight(name);
    }

    at::Tensor linear(const Op& op, const at::Tensor& x) const {
        const auto bias = optional_weight(op.bias);
        if (!widen) return at::linear(x, weight(op.weight), bias);
        return at::linear(x.to(at::kFloat), weight(op.weight), bias).to(at::kBFloat16);
    }

    at::Tensor rope(std::size_t index, Batch batch, const at::Tensor& x) const {
        at::Tensor turned = x.to(at::kFloat, false, true);
        rotations[index]->apply(ops[index], batch, turned.data_ptr<float>());
        return turned.to(x.scalar_type());
    }

    at::Tensor attention(const Op& op, Batch batch, const at::Tensor& q, const at::Tensor& k,
                         const at::Tensor& v) const {
        if (!widen) return attend(op, batch, q, k, v);
        return attend(op, batch, q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat)).to(at::kBFloat16);
    }

    at::Tensor compute_op(std::size_t index, Batch batch, const std::vector<at::Tensor>& in) const {
        const Op& op = ops[index];
        switch (op.kind) {
            case OpKind::linear:
                return linear(op, in[0]);
            case OpKind::rms_norm:
                return tensor_ops::rms_norm(op, in[0], optional_weight(op.weight));
            case OpKind::layer_norm:
                return tensor_ops::layer_norm(op, in[0], optional_weight(op.weight), optional_weight(op.bias));
            case OpKind::rope:
                return rope(index, batch, in[0]);
            case OpKind::attention:
                return attention(op, batch, in[0], in[1], in[2]);
            case OpKind::softcap:
                return tensor_ops::softcap(op.value, in[0]);
            default:
                return tensor_ops::weightless(op, in);
        }
    }
};

std::vector<float> linear_weight(const WeightSource& source, const Op& linear) {
    std::vector<float> weight = source.whole(linear.weight);
    if (linear.transposed) weight = transposed(weight, linear.columns, linear.rows);
    return weight;
}

Program::Program(std::vector<Op> ops, const WeightSource& weights, DType compute, std::int64_t length)
    : impl_(std::make_unique<Impl>()) {
    const c10::InferenceMode no_autograd;
    impl_->ops = std::move(ops);
    impl_->compute = compute;
    impl_->source = weights;
    impl_->widen = compute == DType::bf16 && !has_bfloat16_hardware();
    for (std::size_t i = 0; i < impl_->ops.size(); ++i) {
        const Op& op = impl_->ops[i];
        for (const auto& name : op.in) impl_->last_reads[name] = i + 1;
        impl_->load(op);
        impl_->rotations.push_back(op.kind == OpKind::rope ? std::make_unique<Rotation>(op, length) : nullptr);
    }
}
Program::~Program() = default;
Program::Program(Program&&) noexcept = default;
Program& Program::operator=(Program&&) noexcept = default;

const std::vector<Op>& Program::ops() const noexcept {
    return impl_->ops;
}
DType Program::compute() const noexcept {
    return impl_->compute;
}

void Program::set_weight(std::string_view linear, std::span<const float> weight) {
    const c10::InferenceMode no_autograd;
    for (const auto& op : impl_->ops) {
        if (op.kind != OpKind::linear || op.name != linear) continue;
        impl_->weights.insert_or_assign(op.weight, impl_->to_compute(weight, {op.rows, op.columns}, true));
        return;
    }
    internal_error("no linear ", linear, " in this block");
}

void Program::set_bias(std::string_view linear, std::span<const float> bias) {
    const c10::InferenceMode no_autograd;
    for (const auto& op : impl_->ops) {
        if (op.kind != OpKind::linear || op.name != linear || op.bias.empty()) continue;
        impl_->weights.insert_or_assign(op.bias, impl_->to_compute(bias, {op.rows}, true));
        return;
    }
    internal_error("no linear ", linear, " with a bias in this block");
}

void Program::run(Values& values, Batch batch, std::size_t first, std::size_t last,
                  std::span<const std::string> keep) const {
    const c10::InferenceMode no_autograd;
    const auto drop_unread = [&](std::size_t next) {
        std::erase_if(values, [&](const auto& entry) {
            const auto read = impl_->last_reads.find(entry.first);
            const bool dead = read == impl_->last_reads.end() || read->second <= next;
            return dead && std::find(keep.begin(), keep.end(), entry.first) == keep.end();
        });
    };
    for (std::size_t i = first; i < last; ++i) {
        const Op& op = impl_->ops[i];
        std::vector<at::Tensor> in;
        for (const auto& name : op.in) {
            const auto found = values.find(name);
            if (found == values.end()) internal_error("op ", i, " (", op_name(op.kind), ") misses its input ", name);
            in.push_back(found->second.impl_->tensor);
        }
        std::vector<at::Tensor> made;
        if (op.kind == OpKind::split)
            made = tensor_ops::split(op, in[0]);
        else
            made.push_back(impl_->compute_op(i, batch, in));
        for (std::size_t o = 0; o < made.size(); ++o) {
            Value value;
            value.impl_ = std::make_shared<Value::Impl>(Value::Impl{std::move(made[o])});
            values.insert_or_assign(op.out[o], std::move(value));
        }
        in.clear();
        drop_unread(i + 1);
    }
}

Value Program::embed(std::span<const std::int64_t> ids, Batch batch, const std::string& result) const {
    const c10::InferenceMode no_autograd;
    std::vector<std::int64_t> positions(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) positions[i] = std::int64_t(i) % batch.length;
    Values values;
    const std::string keep[] = {result};
    for (std::size_t i = 0; i < impl_->ops.size(); ++i) {
        const Op& op = impl_->ops[i];
        if (op.kind != OpKind::embedding) {
            run(values, batch, i, i + 1, keep);
            continue;
        }
        Value value;
        value.impl_ = std::make_shared<Value::Impl>(Value::Impl{
            tensor_ops::gather(op, op.in[0] == "tokens" ? ids : std::span<const std::int64_t>(positions), impl_->source)
                .to(scalar_type(impl_->compute))});
        values.insert_or_assign(op.out[0], std::move(value));
    }
    return values.at(result);
}

void head_slice(const Value& hidden, std::span<const float> weight, std::int64_t rows, std::span<float> logits) {
    std::vector<float> widened;
    const std::span<const float> x = hidden.floats(widened);
    const std::int64_t tokens = hidden.tokens(), features = hidden.features();
    linalg::gemm<float>(false, true, tokens, rows, features, 1.0f, x.data(), features, weight.data(), features, 0.0f,
                        logits.data(), rows);
}

void apply_elementwise(const Op& op, std::span<float> values) {
    if (op.kind != OpKind::scale && op.kind != OpKind::softcap)
        internal_error("op ", op_name(op.kind), " does not work on single values");
    for (float& value : values) {
        const double x = double(value);
        value = float(op.kind == OpKind::scale ? x * op.value : op.value * std::tanh(x / op.value));
    }
}

}  // namespace kerf::core
