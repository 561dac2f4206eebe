// SPDX-License-Identifier: Apache-2.0
#include "importance.hpp"

#include <algorithm>
#include <cmath>

#include "kerf/error.hpp"

namespace kerf::llm_pruner {
namespace {

/// S of one element; signed for vectorize alone, which takes the modulus after the sum.
double salience(Criterion criterion, double w, double g, double a) {
    switch (criterion) {
        case Criterion::l1:
            return std::abs(w);
        case Criterion::l2:
            return w * w;
        case Criterion::vectorize:
            return w * g;
        case Criterion::param_first:
            return std::abs(w * g);
        case Criterion::param_second:
            return std::abs(w * a * w);
        case Criterion::param_mix:
            return std::abs(w * g - 0.5 * w * a * w);
        case Criterion::random:
            break;
    }
    throw Error(Code::internal, "random importance has no salience");
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
    const std::int64_t rows = tensor.weight.rows(), columns = tensor.weight.columns();
    const bool g = needs_gradients(criterion), a = needs_squares(criterion);
    std::vector<double> out(static_cast<std::size_t>(dimension == 0 ? rows : columns));
    for (std::int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (std::int64_t c = 0; c < columns; ++c) {
            const double s = salience(criterion, tensor.weight(r, c), g ? tensor.gradient(r, c) : 0.0f,
                                      a ? tensor.squares(r, c) : 0.0f);
            if (dimension == 0)
                sum += s;
            else
                out[static_cast<std::size_t>(c)] += s;
        }
        if (dimension == 0) out[static_cast<std::size_t>(r)] = sum;
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
