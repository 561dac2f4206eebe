// SPDX-License-Identifier: Apache-2.0
/// Exchanges between columns that stay and columns that went, on top of obs.hpp. One symmetric table P [n, n] and one
/// row table E [rows, n] hold both sides, R (stay) and S (went):
///
///   P_RR = −(H_RR)⁻¹,  P_RS = (H_RR)⁻¹ H_RS,  P_SS = H_SS − H_SR (H_RR)⁻¹ H_RS;   E_R = W_R,  E_S = ((W⁰ − W) H)_S
///
/// A set u changes sides by one rank-|u| update (the sweep operator). Leaving costs tr(E_u |P_uu|⁻¹ E_uᵀ), coming back
/// gains as much, by the same formula.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "kerf/obs.hpp"

namespace kerf::inline v1::obs {

class Exchange {
public:
    /// All columns stay at first: W⁰ and A = H⁻¹.
    Exchange(Matrix<double>&& w, Matrix<double>&& a, const Job& job)
        : p_(std::move(a)), e_(std::move(w)), job_(job), stays_(static_cast<std::size_t>(p_.rows()), true) {
        for (std::int64_t i = 0; i < p_.rows(); ++i)
            for (double& x : p_.row(i)) x = -x;
    }

    /// By how much the error grows when the columns, all of one side, change it (or falls, when they come back).
    double worth(Columns u) const {
        const std::size_t n = u.size();
        const double sign = stays_[static_cast<std::size_t>(u[0])] ? -1 : 1;
        std::vector<double> l(n * n), x(n);
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j <= i; ++j) {
                double v = sign * p_(u[i], u[j]);
                for (std::size_t k = 0; k < j; ++k) v -= l[i * n + k] * l[j * n + k];
                if (i == j && !(v > 0)) throw NotPositiveDefinite(u[i]);
                l[i * n + j] = i == j ? std::sqrt(v) : v / l[j * n + j];
            }
        double sum = 0;
        for (std::int64_t r = 0; r < e_.rows(); ++r)
            for (std::size_t i = 0; i < n; ++i) {
                double v = e_(r, u[i]);
                for (std::size_t k = 0; k < i; ++k) v -= l[i * n + k] * x[k];
                x[i] = v / l[i * n + i];
                sum += x[i] * x[i];
            }
        return sum;
    }

    /// The columns, all of one side, change it.
    void move(Columns u) {
        const std::int64_t c = static_cast<std::int64_t>(u.size()), n = p_.columns(), rows = e_.rows();
        if (c == 0) return;
        const double sign = stays_[static_cast<std::size_t>(u[0])] ? -1 : 1;
        auto l = job_.matrix<double>({c, c}), y = job_.matrix<double>({c, n}), z = job_.matrix<double>({c, rows});
        for (std::int64_t i = 0; i < c; ++i) {
            const auto at = u[static_cast<std::size_t>(i)];
            for (std::int64_t j = 0; j < c; ++j) l(i, j) = sign * p_(at, u[static_cast<std::size_t>(j)]);
            std::copy_n(p_.row(at).data(), n, y.row(i).data());
            for (std::int64_t r = 0; r < rows; ++r) z(i, r) = e_(r, at);
        }
        const auto linalg = job_.linalg();
        linalg.cholesky(l.view());
        // L⁻¹ in the places of u: there y becomes −sign · |P_uu|⁻¹ in the end.
        for (std::int64_t i = 0; i < c; ++i)
            for (std::int64_t j = 0; j < c; ++j) y(i, u[static_cast<std::size_t>(j)]) = i == j ? 1 : 0;
        linalg.solve_triangular(Triangle::lower, Transpose::no, l, y.view());
        linalg.solve_triangular(Triangle::lower, Transpose::no, l, z.view());
        linalg.syrk(-sign, y, 1, p_.view());
        linalg.gemm(Transpose::yes, Transpose::no, -sign, z, y, 1, e_.view());
        linalg.solve_triangular(Triangle::lower, Transpose::yes, l, y.view());
        linalg.solve_triangular(Triangle::lower, Transpose::yes, l, z.view());
        for (std::int64_t i = 0; i < c; ++i) {
            const auto at = u[static_cast<std::size_t>(i)];
            for (std::int64_t j = 0; j < n; ++j) p_(at, j) = p_(j, at) = y(i, j);
            for (std::int64_t r = 0; r < rows; ++r) e_(r, at) = z(i, r);
            stays_[static_cast<std::size_t>(at)] = !stays_[static_cast<std::size_t>(at)];
        }
        for (const auto a : u)
            for (const auto b : u) p_(a, b) *= -sign;
    }

private:
    Matrix<double> p_, e_;
    const Job& job_;
    std::vector<bool> stays_;
};

/// Tries to bring units back for others of the same run while the error falls: the one whose return gains most, then
/// the next, each against the one that costs least; at most `tries` of them. `run_of(unit)` tells the runs. Changes
/// `gone` (units, any order) and says how many changed places.
template <class Units, class RunOf>
std::int64_t exchange(Exchange& table, const Units& units, const RunOf& run_of, std::vector<std::int64_t>& gone,
                      std::int64_t tries) {
    constexpr double least_gain = 1e-9;  // relative; below it is rounding
    const auto count = units.size();
    std::vector<bool> away(static_cast<std::size_t>(count), false);
    {
        std::vector<std::int64_t> all;
        for (const auto u : gone) {
            away[static_cast<std::size_t>(u)] = true;
            all.insert(all.end(), units[u].begin(), units[u].end());
        }
        table.move(all);
    }
    const auto order = [&] {
        std::vector<std::pair<double, std::int64_t>> by_gain;
        for (const auto u : gone) by_gain.emplace_back(-table.worth(units[u]), u);
        std::sort(by_gain.begin(), by_gain.end());
        return by_gain;
    };
    std::int64_t changed = 0;
    auto candidates = order();
    for (std::size_t next = 0; next < candidates.size() && tries > 0; --tries) {
        const auto [loss, back] = candidates[next++];
        table.move(units[back]);
        std::int64_t out = -1;
        double least = 0;
        for (std::int64_t v = 0; v < count; ++v) {
            if (away[static_cast<std::size_t>(v)] || run_of(v) != run_of(back)) continue;
            const double cost = table.worth(units[v]);
            if (out < 0 || cost < least) {
                out = v;
                least = cost;
            }
        }
        if (out < 0 || !(least < -loss * (1 - least_gain))) {
            table.move(units[back]);
            continue;
        }
        table.move(units[out]);
        away[static_cast<std::size_t>(back)] = false;
        away[static_cast<std::size_t>(out)] = true;
        *std::find(gone.begin(), gone.end(), back) = out;
        ++changed;
        candidates = order();
        next = 0;
    }
    return changed;
}

}  // namespace kerf::inline v1::obs
