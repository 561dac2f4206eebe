// SPDX-License-Identifier: Apache-2.0
#include "core/exec/program.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numbers>
#include <set>

#include "core/exec/activation_pool.hpp"
#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

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
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16") != 0;
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

/// Inverse frequencies of a rope op, [rotary_dim / 2]; "llama3" scaling as in Llama 3.1's reference: long wavelengths
/// are divided by the factor, short ones kept, those between interpolated.
std::vector<double> inverse_frequencies(const Op& op) {
    std::vector<double> out(std::size_t(op.rotary_dim / 2));
    for (std::size_t i = 0; i < out.size(); ++i) {
        double frequency = std::pow(op.theta, -2.0 * double(i) / double(op.rotary_dim));
        if (op.scaling.kind == RopeScaling::Kind::linear) frequency /= op.scaling.factor;
        if (op.scaling.kind == RopeScaling::Kind::llama3) {
            const double wavelength = 2 * std::numbers::pi / frequency;
            const double turns = double(op.scaling.original_positions) / wavelength;
            const double blend = std::clamp(
                (turns - op.scaling.low_freq_factor) / (op.scaling.high_freq_factor - op.scaling.low_freq_factor), 0.0,
                1.0);
            frequency = (1 - blend) * frequency / op.scaling.factor + blend * frequency;
        }
        out[i] = frequency;
    }
    return out;
}

/// cos and sin of every position and frequency, float32 [length, rotary_dim / 2].
struct Rotation {
    std::vector<float> cosine, sine;

    Rotation(const Op& op, std::int64_t length) {
        const auto frequencies = inverse_frequencies(op);
        for (std::int64_t position = 0; position < length; ++position) {
            for (const double frequency : frequencies) {
                // float32 angles, as the models were trained with
                const float angle = static_cast<float>(position) * static_cast<float>(frequency);
                cosine.push_back(std::cos(angle));
                sine.push_back(std::sin(angle));
            }
        }
    }

    /// In place on float32 [samples · length, heads · head_dim].
    void apply(const Op& op, Batch batch, float* values) const {
        const std::int64_t half = op.rotary_dim / 2;
        const std::int64_t step = op.interleaved ? 2 : 1, apart = op.interleaved ? 1 : half;
        for (std::int64_t token = 0; token < batch.tokens(); ++token) {
            const float* c = cosine.data() + token % batch.length * half;
            const float* s = sine.data() + token % batch.length * half;
            for (std::int64_t head = 0; head < op.heads; ++head) {
                float* at = values + (token * op.heads + head) * op.head_dim;
                for (std::int64_t i = 0; i < half; ++i) {
                    const float a = at[i * step], b = at[i * step + apart];
                    at[i * step] = a * c[i] - b * s[i];
                    at[i * step + apart] = b * c[i] + a * s[i];
                }
            }
        }
    }
};

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

/// Row-wise x / rms(x) · w in float32, rounded to x's dtype before the weight, as transformers does.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor scale = at::rsqrt(wide.square().mean(-1, true).add_(eps));
    return (wide * scale).to(x.scalar_type()) * weight;
}

at::Tensor attend(const Op& op, Batch batch, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const auto heads_first = [&](const at::Tensor& x, std::int64_t heads) {
        return x.view({batch.samples, batch.length, heads, op.head_dim}).transpose(1, 2);
    };
    at::Tensor keys = heads_first(k, op.kv_heads), values = heads_first(v, op.kv_heads);
    if (op.kv_heads != op.heads) {
        keys = keys.repeat_interleave(op.heads / op.kv_heads, 1);
        values = values.repeat_interleave(op.heads / op.kv_heads, 1);
    }
    at::Tensor out;
    if (op.window > 0 && op.window < batch.length) {
        const at::Tensor position = at::arange(batch.length);
        const at::Tensor back = position.unsqueeze(1) - position.unsqueeze(0);
        const at::Tensor sees = back.ge(0).logical_and(back.lt(op.window));
        out = at::scaled_dot_product_attention(heads_first(q, op.heads), keys, values, sees, 0.0, false, op.value);
    } else {
        out = at::scaled_dot_product_attention(heads_first(q, op.heads), keys, values, {}, 0.0, true, op.value);
    }
    return out.transpose(1, 2).reshape({batch.tokens(), op.heads * op.head_dim});
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
            weights.emplace(name, to_compute(values, {std::int64_t(values.size())}, op.kind == OpKind::linear));
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
                return rms_norm(in[0], weight(op.weight), op.eps);
            case OpKind::layer_norm:
                return at::layer_norm(in[0], {op.rows}, optional_weight(op.weight), optional_weight(op.bias), op.eps);
            case OpKind::rope:
                return rope(index, batch, in[0]);
            case OpKind::attention:
                return attention(op, batch, in[0], in[1], in[2]);
            case OpKind::activation:
                return activate(op.activation, in[0]);
            case OpKind::mul:
                return in[0] * in[1];
            case OpKind::add:
                return in[0] + in[1];
            case OpKind::scale:
                return in[0] * op.value;
            case OpKind::embedding:
            case OpKind::split:
                break;
        }
        internal_error("op ", op_name(op.kind), " has no single float input");
    }

    at::Tensor gather(const Op& op, std::span<const std::int64_t> ids) const {
        at::Tensor rows = at::empty({std::int64_t(ids.size()), op.columns}, at::kFloat);
        for (std::size_t i = 0; i < ids.size(); ++i) {
            const std::int64_t row = ids[i] + op.offset;
            if (row < 0 || row >= op.rows)
                bad_input(op.weight, ": ", op.in[0] == "tokens" ? "token id " : "position ", ids[i],
                          " is past the table's ", op.rows, " rows");
            source.row(op.weight, row,
                       {rows.data_ptr<float>() + std::int64_t(i) * op.columns, std::size_t(op.columns)});
        }
        return rows.to(scalar_type(compute));
    }
};

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
            for (const auto& part : at::split_with_sizes(in[0], op.sizes, -1)) made.push_back(part.contiguous());
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
        value.impl_ = std::make_shared<Value::Impl>(
            Value::Impl{impl_->gather(op, op.in[0] == "tokens" ? ids : std::span<const std::int64_t>(positions))});
        values.insert_or_assign(op.out[0], std::move(value));
    }
    return values.at(result);
}

void head_slice(const Value& hidden, std::span<const float> weight, std::int64_t rows, std::span<float> logits) {
    const std::vector<float> x = hidden.to_floats();
    const std::int64_t tokens = hidden.tokens(), features = hidden.features();
    linalg::gemm<float>(false, true, tokens, rows, features, 1.0f, x.data(), features, weight.data(), features, 0.0f,
                        logits.data(), rows);
}

}  // namespace kerf::core
