// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "kerf/error.hpp"
#include "kerf/panel_kernels.hpp"
#include "kerf/tensor.hpp"

/// What methods that go through a weight column by column share (GPTQ, SparseGPT): rows never see each other, so 32 of
/// them lie transposed side by side as a *panel*, [columns][32] floats, and a column is a few vector registers. The
/// products of panels are in panel_kernels.hpp, compiled once for each instruction set.
namespace kerf::inline v1 {

/// What a file of kernels may be compiled for; the later ones hold all of the earlier ones.
enum class Isa : std::int32_t { portable, avx2, avx512 };
/// The best that this processor has.
inline Isa best_isa() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return Isa::avx512;
    if (avx2) return Isa::avx2;
#endif
    return Isa::portable;
}

/// body(i) for i in [0, n), in any order and number of threads.
using Parallel = std::function<void(std::int64_t n, const std::function<void(std::int64_t)>& body)>;
/// The threads of a job, which has to outlive it.
template <class Job>
Parallel parallel_over(const Job& job) {
    return [&job](std::int64_t n, const std::function<void(std::int64_t)>& body) {
        job.parallel_for(n, 1, [&](auto range) {
            for (const auto i : range) body(i);
        });
    };
}

/// The weight of one layer as panels, in memory of the caller, with the strips of whatever they are multiplied by.
class Panels {
public:
    static constexpr std::int64_t lanes = panel_lanes;
    struct Layer {
        MatrixView<const float> weight;       ///< [out, in]
        std::span<const std::int64_t> order;  ///< order[k]: the original column at place k
        std::span<const std::uint8_t> dead;   ///< by original column
    };
    struct Memory {
        float* panels;         ///< floats(weight)
        float* packed;         ///< columns × the widest run of columns that is packed, rounded up to strip_width
        std::uint32_t* zeros;  ///< zero_words(weight), or null
    };
    static std::int64_t count(Shape weight) { return (weight.rows + lanes - 1) / lanes; }
    static std::int64_t floats(Shape weight) { return count(weight) * lanes * weight.columns; }
    static std::int64_t zero_words(Shape weight) { return count(weight) * weight.columns; }

    Panels(Layer layer, Memory memory, SubtractProduct subtract, Parallel parallel)
        : layer_(layer), memory_(memory), subtract_(subtract), parallel_(std::move(parallel)) {}

    std::int64_t rows() const { return layer_.weight.rows(); }
    std::int64_t columns() const { return layer_.weight.columns(); }
    std::int64_t count() const { return count(layer_.weight.shape()); }
    std::int64_t original(std::int64_t place) const { return layer_.order[static_cast<std::size_t>(place)]; }
    /// Rows of the layer that panel p holds; lanes past them hold zeros.
    std::int64_t rows_of(std::int64_t p) const { return std::min(lanes, rows() - p * lanes); }
    float* panel(std::int64_t p) const { return memory_.panels + p * columns() * lanes; }
    /// Bit l of word k: row l of panel p had the weight 0 in column k when it was loaded. Null without that memory.
    std::uint32_t* zeros(std::int64_t p) const { return memory_.zeros ? memory_.zeros + p * columns() : nullptr; }
    const float* packed() const { return memory_.packed; }
    float* packed() { return memory_.packed; }
    const Parallel& parallel() const { return parallel_; }

    /// Rows of panel p, transposed; columns in the order of the loop or as stored. Columns without influence are 0
    /// unless they are to be kept. Throws Error(numeric) for weights that are not finite.
    void load(std::int64_t p, bool ordered, bool keep_dead) const {
        const std::int64_t first = p * lanes, count = rows_of(p);
        float* to = panel(p);
        std::uint32_t* zero = zeros(p);
        for (std::int64_t k = 0; k < columns(); ++k, to += lanes) {
            const std::int64_t c = ordered ? original(k) : k;
            const bool dead = layer_.dead[static_cast<std::size_t>(c)] != 0 && !keep_dead;
            float magnitude = 0;
            std::uint32_t bits = 0;
            for (std::int64_t l = 0; l < lanes; ++l) {
                const float w = l < count ? layer_.weight(first + l, c) : 0.0f;
                magnitude += std::fabs(w);
                bits |= static_cast<std::uint32_t>(w == 0) << l;
                to[l] = dead ? 0.0f : w;
            }
            if (zero) zero[k] = bits;
            if (!std::isfinite(magnitude))
                throw Error(Code::numeric, "the weight has a NaN, an infinity or absurdly large values in rows ", first,
                            " to ", first + count - 1, " of column ", c, ": the checkpoint is damaged");
        }
    }
    void load_all(bool ordered, bool keep_dead) const {
        parallel_(count(), [&](std::int64_t p) { load(p, ordered, keep_dead); });
    }

    /// U[from:to, first:last) into strips of 4 columns, each strip contiguous, strip_stride = 4 (to − from).
    void pack_upper(MatrixView<const float> upper, std::int64_t from, std::int64_t to, std::int64_t first,
                    std::int64_t last) const {
        const std::int64_t stride = (to - from) * strip_width;
        parallel_((last - first + strip_width - 1) / strip_width, [&](std::int64_t strip) {
            const std::int64_t c = first + strip * strip_width, width = std::min<std::int64_t>(strip_width, last - c);
            float* out = memory_.packed + strip * stride;
            for (std::int64_t r = from; r < to; ++r, out += strip_width) {
                const float* row = upper.row(r).data() + c;
                for (std::int64_t i = 0; i < strip_width; ++i) out[i] = i < width ? row[i] : 0.0f;
            }
        });
    }
    /// The same of H, whose rows and columns are in storage order. H is symmetric: its row c is read for column c.
    void pack_gram(MatrixView<const float> gram, std::int64_t from, std::int64_t to, std::int64_t first,
                   std::int64_t last, bool ordered) const {
        const std::int64_t stride = (to - from) * strip_width;
        parallel_((last - first + strip_width - 1) / strip_width, [&](std::int64_t strip) {
            float* out = memory_.packed + strip * stride;
            for (std::int64_t i = 0; i < strip_width; ++i) {
                const std::int64_t c = first + strip * strip_width + i;
                const float* row = c < last ? gram.row(ordered ? original(c) : c).data() : nullptr;
                for (std::int64_t r = from; r < to; ++r)
                    out[(r - from) * strip_width + i] = row ? row[ordered ? original(r) : r] : 0.0f;
            }
        });
    }
    /// Columns [first, first + width) of panel p less what the packed strips make of its columns [from, from + depth).
    void subtract(std::int64_t p, std::int64_t strip_stride, std::int64_t from, std::int64_t depth, std::int64_t first,
                  std::int64_t width) const {
        if (depth > 0 && width > 0)
            subtract_(memory_.packed, strip_stride, depth, width, panel(p) + from * lanes, panel(p) + first * lanes);
    }

    /// tr(P H Pᵀ) of what the panels hold. H is symmetric: Σ_j p_j (H_jj p_j + 2 Σ_{i<j} H_ij p_i).
    double quadratic(MatrixView<const float> gram, bool ordered) const {
        constexpr std::int64_t width = 128;
        std::vector<double> sums(static_cast<std::size_t>(count()), 0.0);
        for (std::int64_t first = 0; first < columns(); first += width) {
            const std::int64_t last = std::min(first + width, columns()), stride = last * strip_width;
            pack_gram(gram, 0, last, first, last, ordered);
            for (std::int64_t c = first; c < last; ++c) {
                float* entry = memory_.packed + (c - first) / strip_width * stride + (c - first) % strip_width;
                for (std::int64_t r = 0; r < last; ++r) entry[r * strip_width] *= r < c ? 2.0f : r == c ? 1.0f : 0.0f;
            }
            parallel_(count(), [&](std::int64_t p) {
                alignas(64) float product[width * lanes];
                std::fill_n(product, (last - first) * lanes, 0.0f);
                subtract_(memory_.packed, stride, last, last - first, panel(p), product);
                const float* w = panel(p) + first * lanes;
                double sum = 0;
                for (std::int64_t i = 0; i < (last - first) * lanes; ++i) sum -= static_cast<double>(w[i]) * product[i];
                sums[static_cast<std::size_t>(p)] += sum;
            });
        }
        return std::accumulate(sums.begin(), sums.end(), 0.0);
    }

private:
    Layer layer_;
    Memory memory_;
    SubtractProduct subtract_;
    Parallel parallel_;
};

}  // namespace kerf::inline v1
