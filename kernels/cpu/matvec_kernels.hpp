// SPDX-License-Identifier: Apache-2.0
#pragma once

// The matrix-vector kernels, written against a thin layer of instructions, the "unit": Sums holds the 16 partial sums
// of a dot product, whatever registers that takes. As in gram_bf16_kernels.hpp, nothing inline from the standard
// library may be used here.

#include <stdint.h>

#include "kernels/cpu/matvec.hpp"

namespace kerf::kernels::detail {

constexpr int64_t lanes = 16;

/// How far ahead weights are fetched. The hardware stops at the end of a 4 KiB page and starts anew for each short row;
/// two pages ahead keeps the memory busy across both.
constexpr int64_t ahead_bytes = 8192;

/// `rows` rows times `vectors` vectors, from column 0 to the end: rows · vectors chains of sums at once.
template <class Unit, class Element, int rows, int vectors>
inline __attribute__((always_inline)) void dot_tile(const Element* w, int64_t columns, const float* x, int64_t stride_x,
                                                    float* y, int64_t stride_y) {
    typename Unit::Sums sums[rows][vectors];
    for (auto& row : sums)
        for (auto& sum : row) Unit::zero(sum);
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) {
        typename Unit::Sums weights;
        for (int r = 0; r < rows; ++r) {
            const Element* at = w + r * columns + c;
            __builtin_prefetch(reinterpret_cast<const char*>(at) + ahead_bytes);
            Unit::load(weights, at);
            for (int t = 0; t < vectors; ++t) Unit::multiply_add(sums[r][t], weights, x + t * stride_x + c);
        }
    }
    if (c < columns) {
        // What is left of a row, filled up with zeros: they change no sum.
        float rest[vectors][lanes] = {};
        for (int t = 0; t < vectors; ++t)
            for (int64_t l = 0; l < columns - c; ++l) rest[t][l] = x[t * stride_x + c + l];
        for (int r = 0; r < rows; ++r) {
            Element last[lanes] = {};
            for (int64_t l = 0; l < columns - c; ++l) last[l] = w[r * columns + c + l];
            typename Unit::Sums weights;
            Unit::load(weights, last);
            for (int t = 0; t < vectors; ++t) Unit::multiply_add(sums[r][t], weights, rest[t]);
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int t = 0; t < vectors; ++t) y[t * stride_y + r] = Unit::total(sums[r][t]);
}

/// One vector: four rows at a time, for four independent chains of additions. More: a row stays in the first-level
/// cache while four vectors at a time go over it.
template <class Unit, class Element>
inline __attribute__((always_inline)) void dot(Rows<Element> w, Vectors<const float> x, Vectors<float> y) {
    int64_t row = 0;
    if (x.count == 1)
        for (; row + 4 <= w.rows; row += 4)
            dot_tile<Unit, Element, 4, 1>(w.at + row * w.columns, w.columns, x.at, x.stride, y.at + row, y.stride);
    for (; row < w.rows; ++row) {
        const Element* at = w.at + row * w.columns;
        int64_t t = 0;
        for (; t + 4 <= x.count; t += 4)
            dot_tile<Unit, Element, 1, 4>(at, w.columns, x.at + t * x.stride, x.stride, y.at + t * y.stride + row,
                                          y.stride);
        for (; t < x.count; ++t)
            dot_tile<Unit, Element, 1, 1>(at, w.columns, x.at + t * x.stride, x.stride, y.at + t * y.stride + row,
                                          y.stride);
    }
}

/// 64 columns at a time stay in registers over all rows.
template <class Unit>
inline __attribute__((always_inline)) void mix(Rows<float> v, const float* share, float* y) {
    constexpr int64_t wide = 4;
    int64_t c = 0;
    for (; c + wide * lanes <= v.columns; c += wide * lanes) {
        typename Unit::Sums sums[wide];
        for (auto& sum : sums) Unit::zero(sum);
        for (int64_t row = 0; row < v.rows; ++row) {
            typename Unit::Sums same;
            Unit::broadcast(same, share[row]);
            for (int64_t i = 0; i < wide; ++i)
                Unit::multiply_add(sums[i], same, v.at + row * v.columns + c + i * lanes);
        }
        for (int64_t i = 0; i < wide; ++i) Unit::store(y + c + i * lanes, sums[i]);
    }
    for (; c + lanes <= v.columns; c += lanes) {
        typename Unit::Sums sum, same;
        Unit::zero(sum);
        for (int64_t row = 0; row < v.rows; ++row) {
            Unit::broadcast(same, share[row]);
            Unit::multiply_add(sum, same, v.at + row * v.columns + c);
        }
        Unit::store(y + c, sum);
    }
    for (; c < v.columns; ++c) {
        float sum = 0;
        for (int64_t row = 0; row < v.rows; ++row) sum = __builtin_fmaf(share[row], v.at[row * v.columns + c], sum);
        y[c] = sum;
    }
}

}  // namespace kerf::kernels::detail
