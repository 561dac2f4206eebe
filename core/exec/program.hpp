// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/graph/graph.hpp"
#include "core/weights/tensor.hpp"

namespace kerf::core {

/// Process-wide settings of the tensor library: one thread inside each of ours (parallelism is over samples, so that
/// bits do not depend on the number of threads), and malloc's. Before any Program; again is harmless.
void initialise_execution();

/// Runs each kind of op once, small, in every thread. What the libraries load and set up at first use (code pages, BLAS
/// buffers: some 20 MB) is then part of the process, so that a plan can measure it instead of guessing.
void warm_up_execution();

/// Whether this CPU multiplies bfloat16 matrices faster than float32 ones; if not, bfloat16 compute runs float32
/// products of bfloat16 operands and rounds the results, at float32's speed.
bool has_bfloat16_hardware();

/// An activation: [tokens, features] in the compute dtype, row-major, contiguous. Behind a dispatch, rows for an
/// expert's tokens alone, perhaps none.
class Value {
public:
    Value() = default;
    /// `fill` writes all bytes of the value, before anything else sees it.
    static Value filled(std::int64_t tokens, std::int64_t features, DType dtype,
                        const std::function<void(std::span<std::byte>)>& fill);
    static Value from_floats(std::span<const float> values, std::int64_t tokens, std::int64_t features, DType dtype);

    std::span<const std::byte> bytes() const;
    std::vector<float> to_floats() const;
    /// The numbers where they lie if they are float32, else in `widened`.
    std::span<const float> floats(std::vector<float>& widened) const;
    std::int64_t tokens() const;
    std::int64_t features() const;
    explicit operator bool() const noexcept { return impl_ != nullptr; }

    struct Impl;

private:
    friend class Program;
    std::shared_ptr<const Impl> impl_;
};

/// Values by name, as ops pass them on.
using Values = std::map<std::string, Value, std::less<>>;

/// How a batch of token windows lies in the rows of a Value: `samples` windows of `length` tokens, one after the other.
struct Batch {
    std::int64_t samples = 1, length = 0;
    std::int64_t tokens() const noexcept { return samples * length; }
};

/// Where a Program's weights come from: float32 values of a whole tensor, or of some of its rows.
struct WeightSource {
    std::function<std::vector<float>(const std::string& name)> whole;
    std::function<void(const std::string& name, std::int64_t row, std::span<float> out)> row;
};
/// A linear's weight, float32 [out, in] whatever the file's layout.
std::vector<float> linear_weight(const WeightSource& source, const Op& linear);

/// A list of ops with its weights, ready to run in pieces. run() may be called from several threads at once;
/// set_weight() may not run beside it.
class Program {
public:
    /// Loads every weight but embedding tables, of which rows are read when they are needed. `length`: the longest
    /// window.
    Program(std::vector<Op> ops, const WeightSource& weights, DType compute, std::int64_t length);
    ~Program();
    Program(Program&&) noexcept;
    Program& operator=(Program&&) noexcept;

    /// Replaces a linear's weight, float32 [out, in] (whatever the file's layout).
    void set_weight(std::string_view linear, std::span<const float> weight);
    /// Replaces the bias of a linear that has one.
    void set_bias(std::string_view linear, std::span<const float> bias);

    /// Runs ops [first, last) on the values in `values`, adds what they make, and drops what no op at or past `last`
    /// reads and `keep` does not name.
    void run(Values& values, Batch batch, std::size_t first, std::size_t last, std::span<const std::string> keep) const;

    /// The value that an embedding-like prologue makes for these ids.
    Value embed(std::span<const std::int64_t> ids, Batch batch, const std::string& result) const;

    const std::vector<Op>& ops() const noexcept;
    DType compute() const noexcept;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Floats that an attention op over windows of `length` holds beside its inputs, its result and copies of k and v.
std::int64_t attention_scratch(const Op& op, std::int64_t length);

/// rows · weightᵀ: float32 [tokens, rows] logits of a slice of the head, `weight` float32 [rows, features].
void head_slice(const Value& hidden, std::span<const float> weight, std::int64_t rows, std::span<float> logits);

/// A scale or softcap op on float32 values, in place: what a graph may have behind its head.
void apply_elementwise(const Op& op, std::span<float> values);

}  // namespace kerf::core
