// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/curvature/gram.hpp"
#include "core/linalg/blas.hpp"
#include "core/linalg/linalg.hpp"
#include "core/linalg/tiles.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

constexpr std::size_t kept_factors = 4;
constexpr int raises = 8;
constexpr double first_damp = 1e-4;  ///< where raising starts from when no damping was asked for

using Order = std::vector<std::int64_t>;

/// Stable, so that ties keep the lower index first.
void sort_descending(const std::vector<double>& diagonal, Order::iterator begin, Order::iterator end) {
    std::stable_sort(begin, end, [&](std::int64_t a, std::int64_t b) {
        return diagonal[static_cast<std::size_t>(a)] > diagonal[static_cast<std::size_t>(b)];
    });
}

/// GPTQ §7.4: the columns of each group by descending diagonal, the groups by their largest; a short last group stays
/// last.
Order group_aware(const std::vector<double>& diagonal, std::int64_t group_size) {
    const auto n = static_cast<std::int64_t>(diagonal.size());
    Order within(diagonal.size()), heads, order;
    std::iota(within.begin(), within.end(), 0);
    for (std::int64_t g = 0; g < n; g += group_size) {
        const std::int64_t end = std::min(n, g + group_size);
        sort_descending(diagonal, within.begin() + g, within.begin() + end);
        if (end - g == group_size) heads.push_back(g);
    }
    // A group is known by the place of its first, largest column.
    std::stable_sort(heads.begin(), heads.end(), [&](std::int64_t a, std::int64_t b) {
        const auto largest = [&](std::int64_t g) {
            return diagonal[static_cast<std::size_t>(within[static_cast<std::size_t>(g)])];
        };
        return largest(a) > largest(b);
    });
    if (n % group_size != 0) heads.push_back(n / group_size * group_size);
    for (const std::int64_t g : heads)
        order.insert(order.end(), within.begin() + g, within.begin() + std::min(n, g + group_size));
    return order;
}

Order make_order(std::int32_t kind, std::int64_t group_size, const std::vector<double>& diagonal) {
    Order order(diagonal.size());
    std::iota(order.begin(), order.end(), 0);
    if (kind == KERF_ORDER_DESCENDING) sort_descending(diagonal, order.begin(), order.end());
    if (kind == KERF_ORDER_GROUP_AWARE) {
        const auto n = static_cast<std::int64_t>(diagonal.size());
        order = group_aware(diagonal, group_size > 0 ? std::min(group_size, n) : n);
    }
    return order;
}

/// to = h in the given order, λ and, at dead columns, 1 added to the diagonal.
void permute_damped(const std::vector<float>& h, const Order& order, const std::vector<double>& diagonal, double lambda,
                    std::vector<float>& to) {
    const auto n = static_cast<std::int64_t>(order.size());
    parallel_for(n, 64, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t i = lo; i < hi; ++i) {
            const float* from = h.data() + order[static_cast<std::size_t>(i)] * n;
            float* row = to.data() + i * n;
            for (std::int64_t j = 0; j < n; ++j) row[j] = from[order[static_cast<std::size_t>(j)]];
            row[i] =
                static_cast<float>(diagonal[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] + lambda);
        }
    });
}

}  // namespace

struct Curvature::Made {
    std::int32_t order;
    std::int64_t group_size;
    double damp;
    Factor factor;
};

Curvature::Curvature(std::string input_name, std::int64_t features, std::int64_t tokens, std::vector<float> gram)
    : Curvature(std::move(input_name), features, tokens, InputMoments{std::move(gram), {}, {}, {}}) {}

Curvature::Curvature(std::string input_name, std::int64_t features, std::int64_t tokens, InputMoments moments)
    : name_(std::move(input_name)),
      features_(features),
      tokens_(tokens),
      gram_(std::move(moments.gram)),
      diagonal_(std::move(moments.diagonal)),
      mean_(std::move(moments.mean)),
      dense_gram_(std::move(moments.dense_gram)) {
    const auto n = static_cast<std::size_t>(std::max<std::int64_t>(0, features_));
    if (n == 0 || (gram_.size() != n * n && (!gram_.empty() || diagonal_.size() != n)))
        internal_error(name_, ": a Gram matrix of ", gram_.size(), " numbers for ", features_, " features");
    if (gram_.empty()) return;
    diagonal_.resize(n);
    for (std::size_t j = 0; j < n; ++j) diagonal_[j] = gram_[j * n + j];
}

const Curvature::Factor& Curvature::factor(std::int32_t order, std::int64_t group_size, double damp) {
    if (order != KERF_ORDER_NONE && order != KERF_ORDER_DESCENDING && order != KERF_ORDER_GROUP_AWARE)
        bad_input(name_, ": column order ", order,
                  " is unknown; there are 0 (as stored), 1 (descending) and 2 (group aware)");
    if (gram_.empty()) internal_error(name_, ": a factor was asked for where only the Gram matrix's diagonal is");
    if (!std::isfinite(damp) || damp < 0) bad_input(name_, ": damp = ", damp, " must be a number that is not negative");
    if (order != KERF_ORDER_GROUP_AWARE) group_size = 0;  // has no meaning there: one factor for all

    const std::lock_guard hold(*lock_);
    const auto same = [&](const auto& made) {
        return made->order == order && made->group_size == group_size && made->damp == damp;
    };
    if (const auto found = std::find_if(made_.begin(), made_.end(), same); found != made_.end()) {
        std::rotate(found, found + 1, made_.end());
        return made_.back()->factor;
    }
    if (made_.size() == kept_factors) made_.erase(made_.begin());  // first, so that its memory is there for the new one
    made_.push_back(std::make_shared<Made>(Made{order, group_size, damp, make(order, group_size, damp)}));
    return made_.back()->factor;
}

Curvature::Factor Curvature::make(std::int32_t order, std::int64_t group_size, double damp) const {
    const auto n = static_cast<std::size_t>(features_);
    Factor made;
    made.dead.resize(n);
    std::vector<double> diagonal(n);
    for (std::size_t j = 0; j < n; ++j) {
        diagonal[j] = static_cast<double>(gram_[j * n + j]);
        made.dead[j] = diagonal[j] == 0;
        if (made.dead[j] != 0) diagonal[j] = 1;
    }
    const double mean = std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(n);
    made.order = make_order(order, group_size, diagonal);
    made.upper.resize(n * n);
    made.damp = damp;
    for (;; ++made.attempts) {
        permute_damped(gram_, made.order, diagonal, made.damp * mean, made.upper);
        const std::int64_t failed = linalg::inverse_factor(features_, made.upper.data(), features_);
        if (failed < 0) return made;
        if (made.attempts > raises) {
            const std::int64_t column = made.order[static_cast<std::size_t>(failed)];
            throw Error(
                Fault::numeric,
                text(name_, ": Gram matrix not positive definite at pivot ", failed, " of ", features_, " (column ",
                     column, ", ", tokens_, " calibration tokens) even with damp raised ", raises, " times from ", damp,
                     " to ", made.damp, "; more calibration tokens or a larger damp usually cure it"));
        }
        made.damp = std::max(made.damp, first_damp / std::sqrt(10.0)) * std::sqrt(10.0);
    }
}

Curvature Curvature::without(const std::vector<bool>& lost) const {
    std::vector<std::int64_t> kept;
    for (std::int64_t i = 0; i < features_; ++i)
        if (!lost[static_cast<std::size_t>(i)]) kept.push_back(i);
    const auto square = [&](const std::vector<float>& from) {
        std::vector<float> part;
        if (from.empty()) return part;
        part.reserve(kept.size() * kept.size());
        for (const auto row : kept)
            for (const auto column : kept) part.push_back(from[static_cast<std::size_t>(row * features_ + column)]);
        return part;
    };
    const auto vector = [&](const std::vector<float>& from) {
        std::vector<float> part;
        for (const auto i : from.empty() ? std::vector<std::int64_t>() : kept)
            part.push_back(from[static_cast<std::size_t>(i)]);
        return part;
    };
    return {name_, static_cast<std::int64_t>(kept.size()), tokens_,
            InputMoments{square(gram_), vector(diagonal_), vector(mean_), square(dense_gram_)}};
}

void Curvature::forget_factors() {
    const std::lock_guard hold(*lock_);
    made_.clear();
}

std::uint64_t Curvature::factor_memory(std::int64_t features) {
    const auto n = static_cast<std::uint64_t>(features);
    return n * n * sizeof(float) + n * (sizeof(std::int64_t) + 1);
}

double Curvature::quadratic_of_diagonal(const float* difference, std::int64_t rows) const {
    std::vector<double> part(static_cast<std::size_t>(std::max<std::int64_t>(0, rows)));
    parallel_for(rows, 16, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t r = lo; r < hi; ++r)
            for (std::int64_t j = 0; j < features_; ++j) {
                const double d = static_cast<double>(difference[r * features_ + j]);
                part[static_cast<std::size_t>(r)] +=
                    d * d * static_cast<double>(diagonal_[static_cast<std::size_t>(j)]);
            }
    });
    return std::accumulate(part.begin(), part.end(), 0.0);
}

double Curvature::quadratic(const float* difference, std::int64_t rows) const {
    if (gram_.empty()) return quadratic_of_diagonal(difference, rows);
    constexpr std::int64_t tile_rows = 128, tile_columns = 256;
    const std::int64_t n = features_, across = linalg::ceil_div(n, tile_columns);
    const std::int64_t tiles = linalg::ceil_div(rows, tile_rows) * across;
    std::vector<double> part(static_cast<std::size_t>(std::max<std::int64_t>(0, tiles)));
    parallel_for(tiles, 1, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t t = lo; t < hi; ++t) {
            const std::int64_t row = t / across * tile_rows, column = t % across * tile_columns;
            part[static_cast<std::size_t>(t)] = quadratic_tile(difference + row * n, std::min(tile_rows, rows - row),
                                                               column, std::min(tile_columns, n - column));
        }
    });
    return std::accumulate(part.begin(), part.end(), 0.0);
}

/// The share of columns [column, column + columns): Σ_j d_j (H_jj d_j + 2 Σ_{k>j} H_kj d_k), H being symmetric, with j
/// and k blocks of columns. In float64: D is small just where H is large, so float32 would cancel.
double Curvature::quadratic_tile(const float* d, std::int64_t rows, std::int64_t column, std::int64_t columns) const {
    const std::int64_t n = features_;
    constexpr std::int64_t depth = 256;
    std::vector<double> left(static_cast<std::size_t>(rows * depth)), h(static_cast<std::size_t>(depth * columns)),
        product(static_cast<std::size_t>(rows * columns));
    for (std::int64_t k = column; k < n; k += depth) {
        const std::int64_t size = std::min(depth, n - k);
        for (std::int64_t i = 0; i < rows; ++i) std::copy_n(d + i * n + k, size, left.data() + i * size);
        for (std::int64_t i = 0; i < size; ++i)
            std::copy_n(gram_.data() + (k + i) * n + column, columns, h.data() + i * columns);
        blas::gemm_tile(false, false, rows, columns, size, k == column ? 1.0 : 2.0, left.data(), size, h.data(),
                        columns, 1.0, product.data(), columns);
    }
    double sum = 0;
    for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j)
            sum += product[static_cast<std::size_t>(i * columns + j)] * static_cast<double>(d[i * n + column + j]);
    return sum;
}

}  // namespace kerf::core
