// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/exec/program.hpp"
#include "core/graph/graph.hpp"
#include "core/weights/tensor.hpp"

namespace kerf::core {

/// A weight matrix [rows, columns] in memory, row by row, in the element type of its ResidentWeights.
struct ResidentMatrix {
    const std::byte* at = nullptr;
    std::int64_t rows = 0, columns = 0;
};

/// One product of several that share their input: y = x Wᵀ + b, y [vectors, W's rows].
struct Product {
    const ResidentMatrix* weight = nullptr;
    const float* bias = nullptr;  ///< null for none
    float* y = nullptr;
};

/// Gives a mapping back to the system.
struct Unmap {
    std::size_t bytes = 0;
    void operator()(std::byte* at) const;
};

/// All linears of a graph in memory, ready to be streamed: in one mapping, on huge pages where the system has them.
class ResidentWeights {
public:
    /// type: f32, bf16 or f16, to which the weights are rounded. Error(environment) when this machine has less memory
    /// than they take.
    ResidentWeights(const Graph& graph, const WeightSource& source, DType type);

    const ResidentMatrix& matrix(const Op& linear) const;
    DType type() const noexcept { return type_; }
    std::uint64_t bytes() const noexcept { return bytes_; }

    /// All products for x [vectors, columns]. Up to `few` vectors go through kernels whose bits do not depend on how
    /// many there are; more through BLAS.
    void multiply(std::span<const Product> products, const float* x, std::int64_t vectors) const;
    static constexpr std::int64_t few = 8;

private:
    void stream(std::span<const Product> products, const float* x, std::int64_t vectors) const;
    void through_blas(const Product& product, const float* x, std::int64_t vectors) const;
    void dot(const ResidentMatrix& matrix, std::int64_t lo, std::int64_t hi, const float* x, std::int64_t vectors,
             float* y) const;
    void load(const Op& linear, const WeightSource& source, std::byte* to) const;

    DType type_;
    std::uint64_t bytes_ = 0;
    std::unique_ptr<std::byte, Unmap> memory_;
    std::map<std::string, ResidentMatrix, std::less<>> matrices_;
};

}  // namespace kerf::core
