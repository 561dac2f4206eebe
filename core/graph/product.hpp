// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/weights/lazy_tensor.hpp"

namespace kerf::core {

/// A matrix Q [features, size] in float64, of orthonormal columns as a rule, shared by all tensors that are made with
/// it. Edits need its sizes alone: the values may come later, before one of those tensors is read, and go when all of
/// them have been.
class Basis {
public:
    Basis(std::int64_t features, std::int64_t size) : features_(features), size_(size) {}

    std::int64_t features() const noexcept { return features_; }
    std::int64_t size() const noexcept { return size_; }
    bool has_values() const noexcept { return !values_.empty(); }
    void set(std::vector<double> values) { values_ = std::move(values); }  ///< [features, size], row-major
    void forget() { std::vector<double>().swap(values_); }
    /// Error(internal) while there are none.
    const std::vector<double>& values() const;

private:
    std::int64_t features_, size_;
    std::vector<double> values_;
};

/// What a weight is multiplied by, from the left or from the right.
struct Factor {
    enum class Kind : std::uint8_t {
        basis,       ///< Q [features, size]
        transposed,  ///< Qᵀ
        centring,    ///< I − 11ᵀ/n: takes the mean away, of the columns from the left, of the rows from the right
        diagonal,    ///< right: diag(t + offset), t a tensor [n] or, without a name, 0
        column       ///< right: t as a matrix of one column
    };
    Kind kind = Kind::centring;
    std::shared_ptr<const Basis> basis;
    std::string tensor;
    double offset = 0;
};

/// left · source · right; factors in the order in which they are applied, those next to the source first.
struct Product {
    std::string source;   ///< a tensor; empty: the unit matrix
    bool turned = false;  ///< the source is stored as [in, out]
    std::vector<Factor> left, right;
};

/// A sum of products and a constant, worked out in float64 and rounded once.
struct ProductSum {
    std::vector<std::int64_t> shape;  ///< as stored
    bool turned = false;              ///< the result is stored as [in, out]
    std::string like;                 ///< the tensor whose dtype the result has
    std::vector<Product> terms;
    double constant = 0;  ///< added to every element
};
std::shared_ptr<const Computation> computation(ProductSum sum);

}  // namespace kerf::core
