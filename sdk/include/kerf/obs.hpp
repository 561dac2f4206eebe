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
/// in the mean: H is a mean over tokens, and beside it 1 can be large. Who wants a part for them says what each counts
/// as.
struct System {
    Matrix<double> h;
    std::vector<std::uint8_t> dead;
    double damp = 0, lambda = 0;
    int attempts = 1;
};

namespace detail {

inline System damped_system(const Gram& gram, double damp, double dead_diagonal, const Job& job) {
    const std::int64_t n = gram.size();
    System out{job.matrix<double>({n, n}), std::vector<std::uint8_t>(static_cast<std::size_t>(n)), damp, 0, 1};
    for (std::int64_t j = 0; j < n; ++j) out.dead[static_cast<std::size_t>(j)] = gram.matrix()(j, j) == 0;
    const auto dead = static_cast<double>(std::count(out.dead.begin(), out.dead.end(), 1));
    out.lambda = damp * (gram.mean_diagonal() + dead * dead_diagonal / static_cast<double>(n));
    job.parallel_for(n, [&](Range rows) {
        for (const auto i : rows)
            for (std::int64_t j = 0; j < n; ++j) out.h(i, j) = static_cast<double>(gram.matrix()(i, j));
    });
    for (std::int64_t j = 0; j < n; ++j)
        out.h(j, j) = (out.dead[static_cast<std::size_t>(j)] ? 1.0 : out.h(j, j)) + out.lambda;
    return out;
}

inline void copy(MatrixView<const double> from, MatrixView<double> to, const Job& job) {
    job.parallel_for(from.rows(), [&](Range rows) {
        for (const auto r : rows) std::copy_n(from.row(r).data(), from.columns(), to.row(r).data());
    });
}

}  // namespace detail

/// A = (H + λI)⁻¹ and the system it is of. Where that is not positive definite, the damping is raised by √10, at most 8
/// times, with a warning; `strict` refuses at once.
struct Inverse {
    System system;
    Matrix<double> a;
};
inline Inverse invert(const Gram& gram, double damp, const Job& job, std::string_view name, bool strict = false,
                      double dead_diagonal = 0) {
    constexpr int raises = 8;
    constexpr double first_damp = 1e-8;
    double share = damp;
    for (int attempt = 1;; ++attempt) {
        System system = detail::damped_system(gram, share, dead_diagonal, job);
        system.attempts = attempt;
        const std::int64_t n = system.h.rows();
        auto a = job.matrix<double>({n, n});
        detail::copy(system.h, a, job);
        try {
            job.linalg().inverse(a.view());
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
        if (attempt > 1) {
            std::ostringstream text;
            text << name << ": the Gram matrix was not positive definite with damp = " << damp << "; damp = " << share
                 << " was used (" << gram.tokens() << " calibration tokens, more usually cure it)";
            job.log(Level::warn, text.str());
        }
        return {std::move(system), std::move(a)};
    }
}

namespace detail {

/// E = L⁻¹ W_Sᵀ [c, rows], A_SS = L Lᵀ.
struct Solved {
    Matrix<double> l, e;
};
inline Solved solved(MatrixView<const double> w, MatrixView<const double> a, Columns s, const Job& job) {
    const std::int64_t c = static_cast<std::int64_t>(s.size()), rows = w.rows();
    Solved out{job.matrix<double>({c, c}), job.matrix<double>({c, rows})};
    for (std::int64_t i = 0; i < c; ++i)
        for (std::int64_t j = 0; j < c; ++j)
            out.l(i, j) = a(s[static_cast<std::size_t>(i)], s[static_cast<std::size_t>(j)]);
    job.parallel_for(rows, [&](Range mine) {
        for (const auto r : mine)
            for (std::int64_t i = 0; i < c; ++i) out.e(i, r) = w(r, s[static_cast<std::size_t>(i)]);
    });
    job.linalg().cholesky(out.l.view());
    job.linalg().solve_triangular(Triangle::lower, Transpose::no, out.l, out.e.view());
    return out;
}

/// With Y = L⁻¹ A_S [c, n] besides: removing S takes Eᵀ Y from W and Yᵀ Y from A.
struct Cut {
    Matrix<double> y, e;
};
inline Cut cut(MatrixView<const double> w, MatrixView<const double> a, Columns s, const Job& job) {
    auto [l, e] = solved(w, a, s, job);
    const std::int64_t c = l.rows();
    auto y = job.matrix<double>({c, a.columns()});
    for (std::int64_t i = 0; i < c; ++i)
        std::copy_n(a.row(s[static_cast<std::size_t>(i)]).data(), a.columns(), y.row(i).data());
    job.linalg().solve_triangular(Triangle::lower, Transpose::no, l, y.view());
    return {std::move(y), std::move(e)};
}

inline double squares(const Matrix<double>& of) {
    double sum = 0;
    for (std::int64_t i = 0; i < of.rows(); ++i)
        for (const double x : of.row(i)) sum += x * x;
    return sum;
}

inline void clear(Columns s, MatrixView<double> w) {
    for (std::int64_t r = 0; r < w.rows(); ++r)
        for (const auto at : s) w(r, at) = 0;
}

}  // namespace detail

/// Takes columns S out of W, all at once, and lets the others make up for them: W_R ← W_R − W_S (A_SS)⁻¹ A_SR, W_S ← 0.
/// The same least squares as `refit`, in a system of the size of S instead of R's.
inline void remove(Columns s, MatrixView<const double> a, MatrixView<double> w, const Job& job) {
    if (s.empty()) return;
    const auto cut = detail::cut(w, a, s, job);
    job.linalg().gemm(Transpose::yes, Transpose::no, -1, cut.e, cut.y, 1, w);
    detail::clear(s, w);
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
    double exact_score(Columns s) const { return s.empty() ? 0 : detail::squares(detail::solved(w_, a_, s, job_).e); }
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
        if (s.empty()) return 0;
        const auto cut = detail::cut(w_, a_, s, job_);
        if (compensate) job_.linalg().gemm(Transpose::yes, Transpose::no, -1, cut.e, cut.y, 1, w_.view());
        job_.linalg().syrk(-1, cut.y, 1, a_.view());
        detail::clear(s, w_);
        for (const auto at : s) alive_[static_cast<std::size_t>(at)] = false;
        return detail::squares(cut.e);
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

/// Greedy removal of single columns of W [rows, n], scores refreshed after each, without touching W or A [n, n]. One
/// removal takes v vᵀ from A and v uᵀ + u vᵀ from WᵀW, with v = A_s / √A_ss, u = g − ½ ‖w_s‖²/A_ss · v and
/// g = (WᵀW)_s / √A_ss, all as the removals before left them. So a row of either is the first one less all of these:
/// O(k n) at step k, whatever the number of rows. Gives `count` columns in the order in which they go; ties: the lowest
/// first. `errors`: takes what each of them adds to the error. Memory: n² + 2 · count · n.
inline std::vector<std::int64_t> greedy_columns(MatrixView<const double> w, MatrixView<const double> a,
                                                std::int64_t count, const Job& job,
                                                std::vector<double>* errors = nullptr) {
    // A panel of columns holds its pieces of v and u of each step side by side, and the steps one behind the other.
    constexpr std::int64_t width = 64, panels_at_once = 4;
    const std::int64_t n = w.columns(), panels = (n + width - 1) / width, panel_size = count * 2 * width;
    const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
    auto gram = job.matrix<double>({n, n});
    job.linalg().syrk(1, w, 0, gram.view());
    auto history = job.buffer<double>(panels * panel_size);
    std::vector<double> norm(at(n)), pivot(at(n)), score(at(n)), own_v(at(count)), own_u(at(count));
    for (std::int64_t j = 0; j < n; ++j) {
        norm[at(j)] = gram(j, j);
        pivot[at(j)] = a(j, j);
        score[at(j)] = norm[at(j)] / pivot[at(j)];
    }
    constexpr double gone = std::numeric_limits<double>::infinity();
    std::vector<std::int64_t> order;
    for (std::int64_t step = 0; step < count; ++step) {
        const std::int64_t s = std::min_element(score.begin(), score.end()) - score.begin();
        order.push_back(s);
        if (errors) errors->push_back(score[at(s)]);
        const double root = std::sqrt(pivot[at(s)]), half = norm[at(s)] / pivot[at(s)] / 2;
        score[at(s)] = gone;
        const double* of_s = history.data() + s / width * panel_size + s % width;
        for (std::int64_t i = 0; i < step; ++i) {
            own_v[at(i)] = of_s[i * 2 * width];
            own_u[at(i)] = of_s[i * 2 * width + width];
        }
        job.parallel_for(panels, panels_at_once, [&](Range mine) {
            for (const auto panel : mine) {
                const std::int64_t first = panel * width, here = std::min(width, n - first);
                double inverse_row[width] = {}, gram_row[width] = {};
                std::copy_n(a.row(s).data() + first, here, inverse_row);
                std::copy_n(gram.row(s).data() + first, here, gram_row);
                double* past = history.data() + panel * panel_size;
                for (std::int64_t i = 0; i < step; ++i, past += 2 * width) {
                    const double vs = own_v[at(i)], us = own_u[at(i)];
                    for (std::int64_t j = 0; j < width; ++j) {
                        inverse_row[j] -= vs * past[j];
                        gram_row[j] -= vs * past[width + j] + us * past[j];
                    }
                }
                for (std::int64_t j = 0; j < width; ++j) {
                    const bool stays = j < here && score[at(first + j)] != gone;
                    const double v = stays ? inverse_row[j] / root : 0, u = stays ? gram_row[j] / root - half * v : 0;
                    past[j] = v;
                    past[width + j] = u;
                    if (!stays) continue;
                    double &x = norm[at(first + j)], &y = pivot[at(first + j)];
                    x = std::max(0.0, x - 2 * v * u);
                    y -= v * v;
                    score[at(first + j)] = x / y;
                }
            }
        });
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
        auto columns = job.matrix<double>({n, k});
        const auto at = [&](std::int64_t i) { return kept[static_cast<std::size_t>(i)]; };
        job.parallel_for(n, [&](Range rows) {  // a row of the target at a time, which may have no symmetry
            for (const auto j : rows)
                for (std::int64_t i = 0; i < k; ++i) columns(j, i) = target(j, at(i));
        });
        job.parallel_for(k, [&](Range rows) {
            for (const auto i : rows)
                for (std::int64_t j = 0; j < k; ++j) l(i, j) = system.h(at(i), at(j));
        });
        job.linalg().gemm(Transpose::yes, Transpose::yes, 1, columns, w, 0, right.view());
    }
    job.linalg().cholesky(l.view());
    job.linalg().solve_triangular(Triangle::lower, Transpose::no, l, right.view());
    job.linalg().solve_triangular(Triangle::lower, Transpose::yes, l, right.view());
    job.parallel_for(rows, [&](Range mine) {
        for (const auto r : mine) std::fill(w.row(r).begin(), w.row(r).end(), 0.0);
        for (std::int64_t i = 0; i < k; ++i)
            for (const auto r : mine) w(r, kept[static_cast<std::size_t>(i)]) = right(i, r);
    });
}
inline void refit(const System& system, Columns kept, MatrixView<double> w, const Job& job) {
    refit(system, system.h.view(), kept, w, job);
}

}  // namespace kerf::inline v1::obs
