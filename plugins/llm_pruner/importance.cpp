// SPDX-License-Identifier: Apache-2.0
#include "importance.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "kerf/error.hpp"

namespace kerf::llm_pruner {
namespace {

/// Adds S(w, g, a) of every element to its row's or its column's sum. A row's elements go to 8 sums by turns: one alone
/// would wait for itself at every step.
template <class Salience>
void add_up(const Salient& tensor, int dimension, std::vector<double>& out, const Salience& salience) {
    constexpr std::int64_t lanes = 8;
    const std::int64_t rows = tensor.weight.rows(), columns = tensor.weight.columns();
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* w = tensor.weight.row(r).data();
        // What the criterion does not ask for is not there, and not looked at.
        const float* g = tensor.gradient.rows() > 0 ? tensor.gradient.row(r).data() : w;
        const float* a = tensor.squares.rows() > 0 ? tensor.squares.row(r).data() : w;
        const auto at = [&](std::int64_t c) {
            return salience(static_cast<double>(w[c]), static_cast<double>(g[c]), static_cast<double>(a[c]));
        };
        if (dimension == 1) {
            for (std::int64_t c = 0; c < columns; ++c) out[static_cast<std::size_t>(c)] += at(c);
            continue;
        }
        std::array<double, lanes> sums{};
        const std::int64_t whole = columns / lanes * lanes;
        for (std::int64_t c = 0; c < whole; c += lanes)
            for (std::int64_t lane = 0; lane < lanes; ++lane) sums[static_cast<std::size_t>(lane)] += at(c + lane);
        for (std::int64_t c = whole; c < columns; ++c) sums[static_cast<std::size_t>(c - whole)] += at(c);
        out[static_cast<std::size_t>(r)] = std::accumulate(sums.begin(), sums.end(), 0.0);
    }
}

/// The member's values on the root's channels, [units, channels].
std::vector<double> aligned(const Member& member, std::int64_t units, std::int64_t channels, Alignment alignment) {
    if (member.each % channels != 0)
        throw Error(Code::unsupported, "a weight with ", member.each, " channels a unit is coupled to one with ",
                    channels, ": no whole number of them belongs to each");
    std::vector<double> out(static_cast<std::size_t>(units * channels));
    for (std::int64_t u = 0; u < units; ++u)
        for (std::int64_t i = 0; i < member.each; ++i) {
            const std::int64_t from = u * member.each + i;
            const std::int64_t to =
                alignment == Alignment::exact ? u * channels + i % channels : from % (units * channels);
            out[static_cast<std::size_t>(to)] += member.values[static_cast<std::size_t>(from)];
        }
    return out;
}

std::size_t index_of(Reduction reduction, std::size_t members) {
    if (reduction == Reduction::first) return 0;
    return reduction == Reduction::second ? std::min<std::size_t>(1, members - 1) : members - 1;
}

}  // namespace

std::vector<double> channel_values(Criterion criterion, const Salient& tensor, int dimension) {
    std::vector<double> out(static_cast<std::size_t>(dimension == 0 ? tensor.weight.rows() : tensor.weight.columns()));
    const auto add = [&](const auto& salience) { add_up(tensor, dimension, out, salience); };
    switch (criterion) {
        case Criterion::l1:
            add([](double w, double, double) { return std::abs(w); });
            break;
        case Criterion::l2:
            add([](double w, double, double) { return w * w; });
            break;
        case Criterion::vectorize:
            add([](double w, double g, double) { return w * g; });  // signed: the modulus is taken of the sum
            break;
        case Criterion::param_first:
            add([](double w, double g, double) { return std::abs(w * g); });
            break;
        case Criterion::param_second:
            add([](double w, double, double a) { return std::abs(w * a * w); });
            break;
        case Criterion::param_mix:
            add([](double w, double g, double a) { return std::abs(w * g - 0.5 * w * a * w); });
            break;
        case Criterion::random:
            throw Error(Code::internal, "random importance has no salience");
    }
    if (criterion == Criterion::vectorize)
        for (double& value : out) value = std::abs(value);
    return out;
}

std::vector<double> channel_importance(std::span<const Member> members, std::int64_t units, Reduction reduction,
                                       Alignment alignment) {
    if (members.empty()) throw Error(Code::internal, "a group without members has no importance");
    std::int64_t channels = members.front().each;
    for (const auto& member : members) channels = std::min(channels, member.each);
    const bool picks = reduction == Reduction::first || reduction == Reduction::second || reduction == Reduction::last;
    if (picks) return aligned(members[index_of(reduction, members.size())], units, channels, alignment);
    auto out = aligned(members.front(), units, channels, alignment);
    for (const auto& member : members.subspan(1)) {
        const auto values = aligned(member, units, channels, alignment);
        for (std::size_t i = 0; i < out.size(); ++i) {
            if (reduction == Reduction::prod)
                out[i] *= values[i];
            else if (reduction == Reduction::max)
                out[i] = std::max(out[i], values[i]);
            else
                out[i] += values[i];
        }
    }
    if (reduction == Reduction::mean)
        for (double& value : out) value /= static_cast<double>(members.size());
    return out;
}

std::vector<double> unit_importance(std::span<const double> channels, std::int64_t units) {
    const std::size_t each = channels.size() / static_cast<std::size_t>(units);
    std::vector<double> out(static_cast<std::size_t>(units));
    for (std::size_t i = 0; i < channels.size(); ++i) out[i / each] += channels[i];
    return out;
}

}  // namespace kerf::llm_pruner
