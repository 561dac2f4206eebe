// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "kerf/curvature.hpp"
#include "kerf/error.hpp"
#include "kerf/layer.hpp"
#include "kerf/linalg.hpp"
#include "kerf/memory.hpp"
#include "kerf/tensor.hpp"

namespace kerf::inline v1 {

/// A piece of [0, n): `for (const auto r : rows)`.
class Range {
public:
    class Iterator {
    public:
        explicit Iterator(std::int64_t at) : at_(at) {}
        std::int64_t operator*() const { return at_; }
        Iterator& operator++() { return (++at_, *this); }
        friend bool operator==(Iterator, Iterator) = default;

    private:
        std::int64_t at_;
    };
    Range(std::int64_t first, std::int64_t last) : first_(first), last_(last) {}
    Iterator begin() const { return Iterator(first_); }
    Iterator end() const { return Iterator(last_); }
    std::int64_t first() const { return first_; }
    std::int64_t last() const { return last_; }  ///< one past the end
    std::int64_t size() const { return last_ - first_; }

private:
    std::int64_t first_, last_;
};

enum class Level : std::int32_t {
    debug = KERF_LOG_DEBUG,
    info = KERF_LOG_INFO,
    warn = KERF_LOG_WARN,
    error = KERF_LOG_ERROR
};

/// One compress() call's way to the host: memory, threads, curvature, linear algebra, figures, messages. Valid during
/// the call. Use it from the thread that called compress(); inside parallel_for only `buffer`, `matrix` and `log`.
class Job {
public:
    Job(const kerf_host* host, kerf_job* job) : host_(host), job_(job) {}

    /// Counted memory (see memory.hpp), 64-byte aligned, not initialised.
    template <class T>
    Buffer<T> buffer(std::int64_t size) const {
        return Buffer<T>(host_, job_, size);
    }
    template <class T>
    Matrix<T> matrix(Shape shape) const {
        return Matrix<T>(host_, job_, shape);
    }

    /// body(Range) on pieces of [0, n), `grain` items each. The split depends on n and grain alone: a body that writes
    /// only to places of its own piece gives the same bytes on 1 or 64 threads. Throws what the first failing piece
    /// threw, or Error(cancelled).
    template <class Body>
    void parallel_for(std::int64_t n, std::int64_t grain, Body&& body) const {
        auto piece = [](void* context, std::int64_t lo, std::int64_t hi, kerf_error* error) noexcept -> kerf_code {
            return detail::guarded(error,
                                   [&] { (*static_cast<std::remove_reference_t<Body>*>(context))(Range(lo, hi)); });
        };
        auto* context = const_cast<void*>(static_cast<const void*>(std::addressof(body)));
        detail::call([&](kerf_error* e) { return host_->parallel_for(job_, n, grain, piece, context, e); });
    }
    /// In at most 64 pieces.
    template <class Body>
    void parallel_for(std::int64_t n, Body&& body) const {
        parallel_for(n, std::max<std::int64_t>(1, (n + 63) / 64), std::forward<Body>(body));
    }

    /// H of the layer's input, undamped; needs `Curvature::InputGram`.
    Gram gram(const Linear& layer) const {
        const DLTensor* view = nullptr;
        std::int64_t tokens = 0;
        const auto* table = curvature();
        detail::call([&](kerf_error* e) { return table->gram(layer.handle(), &view, &tokens, e); });
        return {detail::matrix_of<float>(*view, "the Gram matrix"), tokens};
    }
    /// The diagonal of H; enough for it is `Curvature::InputDiagonal`.
    std::span<const float> diagonal(const Linear& layer) const {
        std::int64_t tokens = 0;
        return moment([&](const kerf_curvature_1* t, const DLTensor** view, kerf_error* e) {
                   return t->diagonal(layer.handle(), view, &tokens, e);
               })
            .row(0);
    }
    /// m [in], the mean of the layer's input; needs `Curvature::InputMean`.
    std::span<const float> mean(const Linear& layer) const {
        return moment([&](const kerf_curvature_1* t, const DLTensor** view, kerf_error* e) {
                   return t->mean(layer.handle(), view, e);
               })
            .row(0);
    }
    /// C [in, in], rows by the uncompressed model's features; needs `Curvature::DenseGram`.
    MatrixView<const float> dense_gram(const Linear& layer) const {
        return moment([&](const kerf_curvature_1* t, const DLTensor** view, kerf_error* e) {
            return t->dense_gram(layer.handle(), view, e);
        });
    }
    /// The inverse factor of the damped, ordered H; made once for all layers and stages that read the same input.
    Factor factor(const Linear& layer, FactorRequest request) const {
        const kerf_factor_request ask{sizeof(kerf_factor_request), static_cast<std::int32_t>(request.order),
                                      request.group_size, request.damp};
        kerf_factor made{};
        made.struct_size = sizeof(kerf_factor);
        const auto* table = curvature();
        detail::call([&](kerf_error* e) { return table->factor(job_, layer.handle(), &ask, &made, e); });
        const auto upper = detail::matrix_of<float>(*made.upper, "the inverse factor");
        const auto n = static_cast<std::size_t>(upper.columns());
        return {upper, {made.order, n}, {made.dead, n}, made.damp, static_cast<int>(made.attempts)};
    }

    Linalg linalg() const { return Linalg(host_, job_); }

    /// Numbers that depend on (seed, stream, index) alone: uniform in [0, 1), or standard normal.
    void uniform(std::uint64_t seed, std::uint64_t stream, std::span<double> out, std::uint64_t first = 0) const {
        random()->uniform(seed, stream, first, out.data(), out.size());
    }
    void normal(std::uint64_t seed, std::uint64_t stream, std::span<double> out, std::uint64_t first = 0) const {
        random()->normal(seed, stream, first, out.data(), out.size());
    }

    /// A figure of this layer for metrics.jsonl and the report. A host that keeps no figures drops it.
    void metric(std::string_view name, double value) const {
        const auto* table = static_cast<const kerf_metrics_1*>(
            host_->extension(host_, detail::text("kerf.metrics/1"), sizeof(kerf_metrics_1)));
        if (table) table->metric(job_, detail::text(name), value);
    }
    void log(Level level, std::string_view message) const {
        host_->log(job_, static_cast<std::int32_t>(level), detail::text(message));
    }

    const kerf_host* host() const noexcept { return host_; }
    kerf_job* handle() const noexcept { return job_; }

private:
    template <class Get>
    MatrixView<const float> moment(const Get& get) const {
        const DLTensor* view = nullptr;
        const auto* table = curvature();
        if (!KERF_HAS(kerf_curvature_1, table, dense_gram))
            throw Error(Code::version, "this kerf gathers Gram matrices alone; update kerf");
        detail::call([&](kerf_error* e) { return get(table, &view, e); });
        return detail::matrix_of<float>(*view, "what calibration says about the input");
    }
    const kerf_curvature_1* curvature() const {
        return detail::service<kerf_curvature_1>(host_, "kerf.curvature/1", offsetof(kerf_curvature_1, diagonal));
    }
    const kerf_random_1* random() const { return detail::service<kerf_random_1>(host_, "kerf.random/1"); }

    const kerf_host* host_;
    kerf_job* job_;
};

}  // namespace kerf::inline v1
