// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "kerf/obs_exchange.hpp"
#include "options.hpp"

namespace slimgpt {

/// Which units of one axis go. Works on W [rows, n], all linears that read the axis, and A = H⁻¹.
class Choice {
public:
    using Indices = std::vector<std::int64_t>;

    /// `count` units are to go.
    Choice(const Options& opt, const kerf::Axis& axis, std::int64_t count, const kerf::Job& job)
        : opt_(opt), axis_(axis), count_(count), job_(job), columns_(axis.columns()) {}

    /// Whether `run` leaves A as it was.
    bool keeps_inverse() const { return one_by_one(); }

    /// W becomes what the original makes of it, unless least squares will say what it is. Takes A, or keeps it.
    Indices run(kerf::Matrix<double>& w, kerf::Matrix<double>& a) const {
        std::optional<kerf::Matrix<double>> inverse;  // rounds use A up
        if (opt_.swaps > 0) {
            inverse.emplace(job_.matrix<double>(a.shape()));
            kerf::obs::detail::copy(a, *inverse, job_);
        }
        Indices units = one_by_one() ? columns_one_by_one(w, a) : in_rounds(w, std::move(a));
        if (inverse) exchange(w, std::move(*inverse), units);
        std::sort(units.begin(), units.end());
        return units;
    }

    /// The error on the way: of the first units that go, of one unit of each balanced run more, and so on.
    std::vector<double> errors(kerf::Matrix<double>& w, kerf::Matrix<double>& a) const {
        std::vector<double> steps, out{0.0};
        if (one_by_one())
            columns_one_by_one(w, a, &steps);
        else
            in_rounds(w, std::move(a), &steps);
        const auto runs = static_cast<std::size_t>(this->runs());
        for (std::size_t i = 0; i < steps.size(); i += runs)
            out.push_back(std::accumulate(steps.begin() + static_cast<std::ptrdiff_t>(i),
                                          steps.begin() + static_cast<std::ptrdiff_t>(i + runs), out.back()));
        return out;
    }

private:
    std::int64_t runs() const { return axis_.shape().balanced; }
    bool channels() const { return columns_[0].size() == 1 && runs() == 1; }
    /// Whether the left-looking form does it: single columns, each chosen with fresh scores.
    bool one_by_one() const {
        return opt_.exact() && opt_.ffn_group <= 1 && channels() && axis_.size() == axis_.shape().in;
    }

    Indices columns_one_by_one(const kerf::Matrix<double>& w, const kerf::Matrix<double>& a,
                               std::vector<double>* errors = nullptr) const {
        Indices unit_at(static_cast<std::size_t>(axis_.size())), out;
        for (std::int64_t u = 0; u < axis_.size(); ++u) unit_at[static_cast<std::size_t>(columns_[u][0])] = u;
        for (const auto column : kerf::obs::greedy_columns(w, a, count_, job_, errors))
            out.push_back(unit_at[static_cast<std::size_t>(column)]);
        return out;
    }

    /// Rounds of scoring and elimination. `errors`: takes what each of them adds.
    Indices in_rounds(kerf::Matrix<double>& w, kerf::Matrix<double>&& a, std::vector<double>* errors = nullptr) const {
        auto own = job_.matrix<double>(w.shape());
        kerf::obs::detail::copy(w, own, job_);
        kerf::obs::State state(std::move(own), std::move(a), job_);
        std::vector<bool> gone(static_cast<std::size_t>(axis_.size()), false);
        const std::int64_t each = axis_.size() / runs();
        Indices out;
        for (const std::int64_t group : groups()) {
            // Of balanced runs, one unit of each in turn.
            for (std::int64_t run = 0; run < runs(); ++run) {
                Indices s;
                for (const auto u : best(scores(state, gone), run * each, each, group)) {
                    s.insert(s.end(), columns_[u].begin(), columns_[u].end());
                    gone[static_cast<std::size_t>(u)] = true;
                    out.push_back(u);
                }
                const double error = state.eliminate(s, opt_.compensate || opt_.exact());
                if (errors) errors->push_back(error);
            }
        }
        if (opt_.compensate && !opt_.refits()) kerf::obs::detail::copy(state.weight(), w, job_);
        return out;
    }

    /// How many units go in each round.
    Indices groups() const {
        const std::int64_t rounds = count_ / runs();
        if (channels() && opt_.ffn_group == 0 && !opt_.exact()) return dynamic_groups(count_);
        const std::int64_t group = channels() ? std::max<std::int64_t>(1, opt_.ffn_group) : 1;
        Indices out(static_cast<std::size_t>(rounds / group), group);
        if (rounds % group > 0) out.push_back(rounds % group);
        return out;
    }

    std::vector<double> scores(const kerf::obs::State& state, const std::vector<bool>& gone) const {
        const bool single = columns_[0].size() == 1;
        const auto by_column = single ? state.column_scores() : std::vector<double>();
        std::vector<double> out(gone.size(), std::numeric_limits<double>::infinity());
        for (std::size_t u = 0; u < out.size(); ++u) {
            if (gone[u]) continue;
            const auto s = columns_[static_cast<std::int64_t>(u)];
            out[u] = single         ? by_column[static_cast<std::size_t>(s[0])]
                     : opt_.exact() ? state.exact_score(s)
                                    : state.diagonal_score(s);
        }
        return out;
    }

    /// The `count` units of [first, first + each) with the lowest scores; ties: the lowest index first.
    static Indices best(const std::vector<double>& score, std::int64_t first, std::int64_t each, std::int64_t count) {
        Indices order(static_cast<std::size_t>(each));
        std::iota(order.begin(), order.end(), first);
        std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
            return score[static_cast<std::size_t>(a)] < score[static_cast<std::size_t>(b)];
        });
        order.resize(static_cast<std::size_t>(count));
        return order;
    }

    void exchange(const kerf::Matrix<double>& w, kerf::Matrix<double>&& a, Indices& units) const {
        auto own = job_.matrix<double>(w.shape());
        kerf::obs::detail::copy(w, own, job_);
        kerf::obs::Exchange table(std::move(own), std::move(a), job_);
        const std::int64_t each = axis_.size() / runs();
        const auto changed = kerf::obs::exchange(
            table, columns_, [&](std::int64_t unit) { return unit / each; }, units, opt_.swaps);
        job_.metric("swapped", static_cast<double>(changed));
    }

    const Options& opt_;
    const kerf::Axis& axis_;
    std::int64_t count_;
    const kerf::Job& job_;
    const kerf::UnitList columns_;
};

}  // namespace slimgpt
