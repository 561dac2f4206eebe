// SPDX-License-Identifier: Apache-2.0
/// Structured optimal brain surgeon over kerf.linalg/1: what removing columns S of a linear costs when the columns R
/// that stay make up for it. Notation: W [rows, n] (all linears that read the input, one below the other), H the damped
/// Gram matrix of the input, A = H⁻¹. All in float64.
///
///   error of removing S            tr(W_S (A_SS)⁻¹ W_Sᵀ) = ‖L⁻¹ W_Sᵀ‖²,  A_SS = L Lᵀ
///   update of what stays           W_R ← W_R − W_S (A_SS)⁻¹ A_SR
///   inverse of what stays          A_RR ← A_RR − A_RS (A_SS)⁻¹ A_SR      (a Schur complement; nothing is inverted
///   again) all removals together          W_R = W⁰ H_{:,R} (H_RR)⁻¹             (least squares, whatever the order)
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "kerf/structure.hpp"

namespace kerf::inline v1::obs {

using Columns = std::span<const std::int64_t>;

/// H + λI [n, n], λ = damp · mean(diag H); then columns that calibration never excites get H_jj = 1. The 1 has no part
/// in the mean: H is a mean over tokens, and beside it 1 can be large.
struct System {
    Matrix<double> h;
    std::vector<std::uint8_t> dead;
    double damp = 0, lambda = 0;
    int attempts = 1;
};

namespace detail {

inline System damped_system(const Gram& gram, double damp, const Job& job) {
    const std::int64_t n = gram.size();
    System out{job.matrix<double>({n, n}), std::vector<std::uint8_t>(static_cast<std::size_t>(n)), damp, 0, 1};
    for (std::int64_t j = 0; j < n; ++j) out.dead[static_cast<std::size_t>(j)] = gram.matrix()(j, j) == 0;
    out.lambda = damp * gram.mean_diagonal();
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j) out.h(i, j) = static_cast<double>(gram.matrix()(i, j));
    for (std::int64_t j = 0; j < n; ++j)
        out.h(j, j) = (out.dead[static_cast<std::size_t>(j)] ? 1.0 : out.h(j, j)) + out.lambda;
    return out;
}

inline void copy(MatrixView<const double> from, MatrixView<double> to) {
    for (std::int64_t r = 0; r < from.rows(); ++r) std::copy_n(from.row(r).data(), from.columns(), to.row(r).data());
}

}  // namespace detail

/// A = (H + λI)⁻¹ and the system it is of. Where that is not positive definite, the damping is raised by √10, at most 8
/// times, with a warning; `strict` refuses at once.
struct Inverse {
    System system;
    Matrix<double> a;
};
inline Inverse invert(const Gram& gram, double damp, const Job& job, std::string_view name, bool strict = false) {
    constexpr int raises = 8;
    constexpr double first_damp = 1e-8;
    double share = damp;
    for (int attempt = 1;; ++attempt) {
        System system = detail::damped_system(gram, share, job);
        system.attempts = attempt;
        const std::int64_t n = system.h.rows();
        auto factor = job.matrix<double>({n, n});
        detail::copy(system.h, factor);
        try {
            job.linalg().inverse_factor(factor.view());
        } catch (const NotPositiveDefinite& failure) {
            if (strict)
                throw Error(Code::numeric, "Gram matrix not positive definite at pivot ", failure.pivot, " of ", n,
                            " (", gram.tokens(), " calibration tokens) with damp = ", damp,
                            "; more calibration tokens or a larger damp usually cure it, and strict = false raises "
                            "damp by itself");
            if (attempt > raises)
                throw Error(Code::numeric, "Gram matrix not positive definite at pivot ", failure.pivot, " of ", n,
                            " (", gram.tokens(), " calibration tokens) even with damp raised ", raises, " times from ",
                            damp, " to ", share, "; more calibration tokens or a larger damp usually cure it");
            share = std::max(share, first_damp / std::sqrt(10.0)) * std::sqrt(10.0);
            continue;
        }
        auto a = job.matrix<double>({n, n});
        job.linalg().syrk(1, factor, 0, a.view());
        if (attempt > 1) {
            std::ostringstream text;
            text << name << ": the Gram matrix was not positive definite with damp = " << damp << "; damp = " << share
                 << " was used (" << gram.tokens() << " calibration tokens, more usually cure it)";
            job.log(Level::warn, text.str());
        }
        return {std::move(system), std::move(a)};
    }
}

/// A set of columns that shrinks: W and A of those that are left.
class State {
public:
    /// Takes both; W's dead columns should be 0.
    State(Matrix<double>&& w, Matrix<double>&& a, const Job& job)
        : w_(std::move(w)), a_(std::move(a)), job_(job), alive_(static_cast<std::size_t>(w_.columns()), true) {}

    MatrixView<const double> weight() const { return w_.view(); }
    MatrixView<const double> inverse() const { return a_.view(); }

    /// ‖W_j‖² / A_jj, the error of removing column j alone; infinite where it is gone.
    std::vector<double> column_scores() const {
        std::vector<double> out(alive_.size(), std::numeric_limits<double>::infinity());
        job_.parallel_for(w_.columns(), 64, [&](Range columns) {
            std::vector<double> sum(static_cast<std::size_t>(columns.size()));
            for (std::int64_t r = 0; r < w_.rows(); ++r)
                for (std::int64_t j = 0; j < columns.size(); ++j) {
                    const double x = w_(r, columns.first() + j);
                    sum[static_cast<std::size_t>(j)] += x * x;
                }
            for (const auto j : columns)
                if (alive_[static_cast<std::size_t>(j)])
                    out[static_cast<std::size_t>(j)] = sum[static_cast<std::size_t>(j - columns.first())] / a_(j, j);
        });
        return out;
    }

    /// The true error of removing the columns together.
    double exact_score(Columns s) const {
        const auto l = factor(s);
        double sum = 0;
        std::vector<double> e(s.size());
        for (std::int64_t r = 0; r < w_.rows(); ++r)
            for (std::size_t i = 0; i < s.size(); ++i) {
                double x = w_(r, s[i]);
                for (std::size_t k = 0; k < i; ++k) x -= l[i * s.size() + k] * e[k];
                e[i] = x / l[i * s.size() + i];
                sum += e[i] * e[i];
            }
        return sum;
    }
    /// SlimGPT's approximation of it: the pivots of A_SS in index order, and W as it is: Σ_j ‖W_j‖² / L_jj².
    double diagonal_score(Columns s) const {
        const auto l = factor(s);
        double sum = 0;
        for (std::size_t i = 0; i < s.size(); ++i) {
            double norm = 0;
            for (std::int64_t r = 0; r < w_.rows(); ++r) norm += w_(r, s[i]) * w_(r, s[i]);
            sum += norm / (l[i * s.size() + i] * l[i * s.size() + i]);
        }
        return sum;
    }

    /// Removes the columns. Without `compensate` what stays of W is left alone. Gives the error.
    double eliminate(Columns s, bool compensate = true) {
        const std::int64_t c = static_cast<std::int64_t>(s.size()), n = w_.columns(), rows = w_.rows();
        if (c == 0) return 0;
        auto l = job_.matrix<double>({c, c}), y = job_.matrix<double>({c, n}), e = job_.matrix<double>({c, rows});
        for (std::int64_t i = 0; i < c; ++i) {
            const auto at = s[static_cast<std::size_t>(i)];
            for (std::int64_t j = 0; j < c; ++j) l(i, j) = a_(at, s[static_cast<std::size_t>(j)]);
            std::copy_n(a_.row(at).data(), n, y.row(i).data());
            for (std::int64_t r = 0; r < rows; ++r) e(i, r) = w_(r, at);
        }
        const auto linalg = job_.linalg();
        linalg.cholesky(l.view());
        linalg.solve_triangular(Triangle::lower, Transpose::no, l, y.view());
        linalg.solve_triangular(Triangle::lower, Transpose::no, l, e.view());
        if (compensate) linalg.gemm(Transpose::yes, Transpose::no, -1, e, y, 1, w_.view());
        linalg.syrk(-1, y, 1, a_.view());
        for (const auto at : s) {
            for (std::int64_t r = 0; r < rows; ++r) w_(r, at) = 0;
            alive_[static_cast<std::size_t>(at)] = false;
        }
        double error = 0;
        for (std::int64_t i = 0; i < c; ++i)
            for (const double x : e.row(i)) error += x * x;
        return error;
    }

private:
    /// The lower Cholesky factor of A_SS.
    std::vector<double> factor(Columns s) const {
        const std::size_t n = s.size();
        std::vector<double> l(n * n);
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j <= i; ++j) {
                double x = a_(s[i], s[j]);
                for (std::size_t k = 0; k < j; ++k) x -= l[i * n + k] * l[j * n + k];
                if (i == j && !(x > 0)) throw NotPositiveDefinite(s[i]);
                l[i * n + j] = i == j ? std::sqrt(x) : x / l[j * n + j];
            }
        return l;
    }

    Matrix<double> w_, a_;
    const Job& job_;
    std::vector<bool> alive_;
};

/// Greedy removal of single columns, scores refreshed after each, without touching A [n, n] or W: a left-looking
/// elimination, O(k (n + rows)) at step k. `turned` is Wᵀ [n, rows]. Gives `count` columns in the order in which they
/// go; ties: the lowest first. `errors`: takes what each of them adds to the error.
inline std::vector<std::int64_t> greedy_columns(MatrixView<const double> turned, MatrixView<const double> a,
                                                std::int64_t count, const Job& job,
                                                std::vector<double>* errors = nullptr) {
    const std::int64_t n = turned.rows(), rows = turned.columns();
    auto v = job.matrix<double>({count, n}), p = job.matrix<double>({count, rows});
    auto w = job.buffer<double>(rows);
    std::vector<double> norm(static_cast<std::size_t>(n)), pivot(norm.size()), inner(static_cast<std::size_t>(count));
    std::vector<bool> gone(norm.size(), false);
    const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
    for (std::int64_t j = 0; j < n; ++j) {
        for (const double x : turned.row(j)) norm[at(j)] += x * x;
        pivot[at(j)] = a(j, j);
    }
    std::vector<std::int64_t> order;
    for (std::int64_t step = 0; step < count; ++step) {
        std::int64_t s = -1;
        for (std::int64_t j = 0; j < n; ++j)
            if (!gone[at(j)] && (s < 0 || norm[at(j)] / pivot[at(j)] < norm[at(s)] / pivot[at(s)])) s = j;
        order.push_back(s);
        gone[at(s)] = true;
        if (errors) errors->push_back(norm[at(s)] / pivot[at(s)]);
        for (std::int64_t r = 0; r < rows; ++r) w[r] = turned(s, r);
        for (std::int64_t i = 0; i < step; ++i)
            for (std::int64_t r = 0; r < rows; ++r) w[r] -= p(i, r) * v(i, s);
        double length = 0;
        for (std::int64_t r = 0; r < rows; ++r) length += w[r] * w[r];
        for (std::int64_t i = 0; i < step; ++i) {
            inner[at(i)] = 0;
            for (std::int64_t r = 0; r < rows; ++r) inner[at(i)] += p(i, r) * w[r];
        }
        const double root = std::sqrt(pivot[at(s)]);
        job.parallel_for(n, 64, [&](Range columns) {
            std::vector<double> row(static_cast<std::size_t>(columns.size())), gamma(row.size());
            const auto first = columns.first();
            for (const auto j : columns) {
                row[at(j - first)] = a(s, j);
                double dot = 0;
                for (std::int64_t r = 0; r < rows; ++r) dot += turned(j, r) * w[r];
                gamma[at(j - first)] = dot;
            }
            for (std::int64_t i = 0; i < step; ++i) {
                const double own = v(i, s), in = inner[at(i)];
                for (const auto j : columns) {
                    row[at(j - first)] -= own * v(i, j);
                    gamma[at(j - first)] -= in * v(i, j);
                }
            }
            for (const auto j : columns) {
                const double x = gone[at(j)] ? 0 : row[at(j - first)] / root;
                v(step, j) = x;
                norm[at(j)] =
                    std::max(0.0, norm[at(j)] - 2 * x * gamma[at(j - first)] / root + x * x * length / (root * root));
                pivot[at(j)] -= x * x;
            }
        });
        for (std::int64_t r = 0; r < rows; ++r) p(step, r) = w[r] / root;
    }
    return order;
}

/// Takes the mean m of the input out of the system: H − m mᵀ. What is fitted to it leaves a constant error to the
/// linear's bias: (W⁰ − W) m.
inline void centre(System& system, std::span<const float> mean) {
    for (std::int64_t i = 0; i < system.h.rows(); ++i)
        for (std::int64_t j = 0; j < system.h.rows(); ++j)
            system.h(i, j) -=
                static_cast<double>(mean[static_cast<std::size_t>(i)]) * mean[static_cast<std::size_t>(j)];
}

/// W_R = W⁰ T_{:,R} (H_RR)⁻¹ into `w` [rows, n], other columns 0. `kept` is ascending. T [n, n] is what the outputs are
/// to be those of: H itself, or moments between the inputs of another model and these.
inline void refit(const System& system, MatrixView<const double> target, Columns kept, MatrixView<double> w,
                  const Job& job) {
    const std::int64_t n = system.h.rows(), k = static_cast<std::int64_t>(kept.size()), rows = w.rows();
    auto l = job.matrix<double>({k, k}), right = job.matrix<double>({k, rows});
    {
        auto columns = job.matrix<double>({k, n});
        for (std::int64_t i = 0; i < k; ++i) {
            for (std::int64_t j = 0; j < n; ++j) columns(i, j) = target(j, kept[static_cast<std::size_t>(i)]);
            for (std::int64_t j = 0; j < k; ++j)
                l(i, j) = system.h(kept[static_cast<std::size_t>(i)], kept[static_cast<std::size_t>(j)]);
        }
        job.linalg().gemm(Transpose::no, Transpose::yes, 1, columns, w, 0, right.view());
    }
    job.linalg().cholesky(l.view());
    job.linalg().solve_triangular(Triangle::lower, Transpose::no, l, right.view());
    job.linalg().solve_triangular(Triangle::lower, Transpose::yes, l, right.view());
    for (std::int64_t r = 0; r < rows; ++r) std::fill(w.row(r).begin(), w.row(r).end(), 0.0);
    for (std::int64_t i = 0; i < k; ++i)
        for (std::int64_t r = 0; r < rows; ++r) w(r, kept[static_cast<std::size_t>(i)]) = right(i, r);
}
inline void refit(const System& system, Columns kept, MatrixView<double> w, const Job& job) {
    refit(system, system.h.view(), kept, w, job);
}

}  // namespace kerf::inline v1::obs
