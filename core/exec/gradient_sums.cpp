// SPDX-License-Identifier: Apache-2.0
#include "core/exec/gradient_sums.hpp"

#include <algorithm>

#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

void add_to(float* to, const float* from, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) to[i] += from[i];
}

/// Rows of a table that tokens looked up, with the sum of their gradients: one row for each that occurs.
std::map<std::int64_t, std::vector<float>> rows_looked_up(const TableGradient& table, const UnitGradients& unit) {
    std::map<std::int64_t, std::vector<float>> out;
    const float* delta = table.delta.const_data_ptr<float>();
    const std::int64_t width = table.op->columns;
    for (std::int64_t t = 0; t < unit.batch.tokens(); ++t) {
        const std::int64_t id = table.op->in[0] == "tokens" ? unit.ids[std::size_t(t)] : t % unit.batch.length;
        auto& row = out.try_emplace(id + table.op->offset, std::size_t(width)).first->second;
        add_to(row.data(), delta + t * width, width);
    }
    return out;
}

}  // namespace

GradientSum::GradientSum(std::string tensor, std::int64_t rows, std::int64_t columns, bool squares)
    : squares_(squares) {
    sum_.tensor = std::move(tensor);
    sum_.rows = rows;
    sum_.columns = columns;
    sum_.mean.resize(std::size_t(rows * columns));
    if (squares) sum_.squares.resize(sum_.mean.size());
}

/// Everything but looked-up rows. `fresh`: `to` holds nothing yet.
void GradientSum::add_products(const UnitGradients& unit, float* to, bool fresh) const {
    if (fresh) std::fill_n(to, sum_.mean.size(), 0.0f);
    for (const auto& piece : unit.pieces) {
        for (const auto& linear : piece.linears) {
            const std::int64_t rows = linear.x.size(0), out = linear.op->rows, in = linear.op->columns;
            const float* delta = linear.delta.const_data_ptr<float>();
            if (linear.op->weight == sum_.tensor && rows > 0)
                linalg::gemm<float>(true, false, out, in, rows, 1.0f, delta, out, linear.x.const_data_ptr<float>(), in,
                                    1.0f, to, in);
            if (linear.op->bias == sum_.tensor)
                for (std::int64_t r = 0; r < rows; ++r) add_to(to, delta + r * out, out);
        }
        for (const auto& vector : piece.vectors)
            if (vector.tensor == sum_.tensor) add_to(to, vector.value.const_data_ptr<float>(), sum_.columns);
    }
}

/// Few rows of a table change: their squares are taken by themselves, with what a tied head gave them before.
void GradientSum::add_table(const UnitGradients& unit) {
    for (const auto& piece : unit.pieces)
        for (const auto& table : piece.tables) {
            if (table.op->weight != sum_.tensor) continue;
            for (const auto& [row, gradient] : rows_looked_up(table, unit)) {
                const auto at = std::size_t(row * sum_.columns);
                add_to(sum_.mean.data() + at, gradient.data(), sum_.columns);
                if (!squares_) continue;
                const float* tied = nullptr;
                if (unit.tied == sum_.tensor) {
                    const auto token = std::find(unit.ids.begin(), unit.ids.end(), row - table.op->offset);
                    tied = unit.tied_rows.const_data_ptr<float>() + (token - unit.ids.begin()) * sum_.columns;
                }
                // (h + g)² = h² + g (2 h + g), of which h² was added with the head
                for (std::size_t i = 0; i < gradient.size(); ++i)
                    sum_.squares[at + i] += gradient[i] * (2 * (tied ? tied[i] : 0.0f) + gradient[i]);
            }
        }
}

at::Tensor GradientSum::add(const UnitGradients& unit, std::span<const std::int64_t> rows_of) {
    at::Tensor out;
    if (!squares_) {
        add_products(unit, sum_.mean.data(), false);
    } else {
        std::vector<float> one(sum_.mean.size());
        add_products(unit, one.data(), true);
        for (std::size_t i = 0; i < one.size(); ++i) {
            sum_.mean[i] += one[i];
            sum_.squares[i] += one[i] * one[i];
        }
        if (!rows_of.empty()) out = at::empty({std::int64_t(rows_of.size()), sum_.columns}, at::kFloat);
        for (std::size_t i = 0; i < rows_of.size(); ++i)
            std::copy_n(one.data() + rows_of[i] * sum_.columns, sum_.columns,
                        out.data_ptr<float>() + std::int64_t(i) * sum_.columns);
    }
    add_table(unit);
    return out;
}

TensorGradient GradientSum::finish(std::int64_t windows) && {
    const float share = float(1 / double(windows));
    constexpr std::int64_t grain = 1 << 16;
    for (auto* values : {&sum_.mean, &sum_.squares})
        parallel_for(std::int64_t(values->size()), grain, [&](std::int64_t lo, std::int64_t hi) {
            for (std::int64_t i = lo; i < hi; ++i) (*values)[std::size_t(i)] *= share;
        });
    if (first_non_finite(sum_.mean) >= 0 || first_non_finite(sum_.squares) >= 0)
        throw Error(Fault::numeric, text(sum_.tensor,
                                         ": its gradient is not finite; the weights are too large for "
                                         "float32, or the checkpoint is damaged"));
    return std::move(sum_);
}

}  // namespace kerf::core
