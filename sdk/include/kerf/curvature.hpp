// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "kerf/tensor.hpp"

namespace kerf::inline v1 {

/// What a method needs to know about its layers' surroundings; the core gathers it once for all layers and stages.
enum class Curvature : std::uint64_t {
    None = 0,
    InputGram = KERF_NEEDS_INPUT_GRAM,  ///< H = (1/T) Σ x xᵀ over the calibration tokens x of the layer's input
    InputDiagonal = KERF_NEEDS_INPUT_DIAGONAL,  ///< the diagonal of H alone
    InputMean = KERF_NEEDS_INPUT_MEAN,          ///< m = (1/T) Σ x
    DenseGram = KERF_NEEDS_DENSE_GRAM,  ///< C = (1/T) Σ d xᵀ, d being the input in the model as the stage got it
    OwnKeys = KERF_NEEDS_OWN_KEYS       ///< grouped queries get a key and value each first
};
constexpr Curvature operator|(Curvature a, Curvature b) {
    return static_cast<Curvature>(static_cast<std::uint64_t>(a) | static_cast<std::uint64_t>(b));
}

/// H + λI with λ = share · mean(diag H): the type that an inverse asks for, so that nobody inverts an undamped H.
class DampedGram {
public:
    DampedGram(MatrixView<const float> gram, double lambda) : gram_(gram), lambda_(lambda) {}
    MatrixView<const float> gram() const noexcept { return gram_; }
    double lambda() const noexcept { return lambda_; }
    std::int64_t size() const noexcept { return gram_.rows(); }
    std::vector<float> diagonal() const {
        std::vector<float> out(static_cast<std::size_t>(size()));
        for (std::int64_t i = 0; i < size(); ++i)
            out[static_cast<std::size_t>(i)] = static_cast<float>(gram_(i, i) + lambda_);
        return out;
    }

private:
    MatrixView<const float> gram_;
    double lambda_;
};

/// The Gram matrix H [in, in] of a layer's input, symmetric, both triangles, read-only and shared. Valid during the
/// job.
class Gram {
public:
    Gram(MatrixView<const float> matrix, std::int64_t tokens) : matrix_(matrix), tokens_(tokens) {}
    MatrixView<const float> matrix() const noexcept { return matrix_; }
    std::int64_t size() const noexcept { return matrix_.rows(); }
    std::int64_t tokens() const noexcept { return tokens_; }
    std::vector<float> diagonal() const { return DampedGram(matrix_, 0).diagonal(); }
    double mean_diagonal() const {
        double sum = 0;
        for (std::int64_t i = 0; i < size(); ++i) sum += matrix_(i, i);
        return size() > 0 ? sum / static_cast<double>(size()) : 0;
    }
    DampedGram damped(double share) const { return {matrix_, share * mean_diagonal()}; }

private:
    MatrixView<const float> matrix_;
    std::int64_t tokens_;
};

/// In which order columns are visited; see abi.h.
enum class Order : std::int32_t {
    none = KERF_ORDER_NONE,
    descending = KERF_ORDER_DESCENDING,
    group_aware = KERF_ORDER_GROUP_AWARE
};

struct FactorRequest {
    Order order = Order::none;
    std::int64_t group_size = 0;  ///< columns of a group, for Order::group_aware
    double damp = 0.01;           ///< share of mean(diag H); raised by the host when it is too little, and reported
};

/// U with UᵀU = (H + λI)⁻¹, rows and columns in the requested order. Valid during the job, shared, read-only.
struct Factor {
    MatrixView<const float> upper;        ///< [in, in]
    std::span<const std::int64_t> order;  ///< order[k]: the original column at place k
    std::span<const std::uint8_t> dead;   ///< by original column: 1 where the calibration never excites it
    double damp = 0;                      ///< the share that was used in the end
    int attempts = 1;                     ///< 1: the damping that was asked for was enough

    /// λ, what was added to the diagonal of `gram`; dead columns count as 1 in the mean.
    double lambda(const Gram& gram) const {
        double sum = 0;
        for (std::int64_t i = 0; i < gram.size(); ++i)
            sum += dead[static_cast<std::size_t>(i)] ? 1.0 : static_cast<double>(gram.matrix()(i, i));
        return gram.size() > 0 ? damp * sum / static_cast<double>(gram.size()) : 0;
    }
};

/// Indices by descending value; ties keep the lower index first.
inline std::vector<std::int64_t> argsort_descending(std::span<const float> values) {
    std::vector<std::int64_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
    });
    return order;
}

}  // namespace kerf::inline v1
