// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "kerf/curvature.hpp"
#include "kerf/memory.hpp"
#include "kerf/tensor.hpp"

namespace kerf::inline v1 {

enum class Transpose : std::int32_t { no = 0, yes = 1 };
enum class Triangle : std::int32_t { lower = 0, upper = 1 };

/// The host's BLAS and LAPACK on float or double matrices. Results do not depend on the number of threads.
class Linalg {
    /// An input: whatever converts to a read-only view; the output decides on Real.
    template <class Real>
    using Read = std::type_identity_t<MatrixView<const Real>>;

public:
    Linalg(const kerf_host* host, kerf_job* job)
        : table_(detail::service<kerf_linalg_1>(host, "kerf.linalg/1", offsetof(kerf_linalg_1, inverse))),
          host_(host),
          job_(job) {}

    /// c = alpha · op(a) op(b) + beta · c
    template <class Real>
    void gemm(Transpose ta, Transpose tb, double alpha, Read<Real> a, Read<Real> b, double beta,
              MatrixView<Real> c) const {
        detail::DlView va(a), vb(b), vc(c);
        detail::call([&](kerf_error* e) {
            return table_->gemm(job_, static_cast<std::int32_t>(ta), static_cast<std::int32_t>(tb), alpha, va.get(),
                                vb.get(), beta, vc.get(), e);
        });
    }
    /// c = alpha · aᵀ a + beta · c, both triangles; a [k, n]
    template <class Real>
    void syrk(double alpha, Read<Real> a, double beta, MatrixView<Real> c) const {
        detail::DlView va(a), vc(c);
        detail::call([&](kerf_error* e) { return table_->syrk(job_, alpha, va.get(), beta, vc.get(), e); });
    }
    /// a = L Lᵀ in place, zeros above. Throws NotPositiveDefinite.
    template <class Real>
    void cholesky(MatrixView<Real> a) const {
        factorise(table_->cholesky, a);
    }
    /// h becomes U, upper triangular with Uᵀ U = h⁻¹. Throws NotPositiveDefinite.
    template <class Real>
    void inverse_factor(MatrixView<Real> h) const {
        factorise(table_->inverse_factor, h);
    }
    /// h (symmetric) becomes h⁻¹. Throws NotPositiveDefinite.
    template <class Real>
    void inverse(MatrixView<Real> h) const {
        if (!KERF_HAS(kerf_linalg_1, table_, inverse))
            throw Error(Code::version, "this kerf inverts no matrix; update kerf");
        factorise(table_->inverse, h);
    }
    /// U of a damped Gram with rows and columns taken in `order`, in memory of its own. Prefer Job::factor, which
    /// shares it.
    Matrix<float> inverse_cholesky(const DampedGram& h, std::span<const std::int64_t> order) const {
        const auto n = h.size();
        Matrix<float> u(host_, job_, {n, n});
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
                const auto from = order[static_cast<std::size_t>(i)], to = order[static_cast<std::size_t>(j)];
                u(i, j) = static_cast<float>(h.gram()(from, to) + (i == j ? h.lambda() : 0.0));
            }
        inverse_factor(u.view());
        return u;
    }
    /// op(t) x = b in place of b; t [n, n], b [n, m]
    template <class Real>
    void solve_triangular(Triangle triangle, Transpose transpose, Read<Real> t, MatrixView<Real> b) const {
        detail::DlView vt(t), vb(b);
        detail::call([&](kerf_error* e) {
            return table_->solve_triangular(job_, static_cast<std::int32_t>(triangle),
                                            static_cast<std::int32_t>(transpose), vt.get(), vb.get(), e);
        });
    }
    /// a (symmetric) becomes its eigenvectors, one a column; values ascending [n]
    template <class Real>
    void symmetric_eigen(MatrixView<Real> a, std::span<Real> values) const {
        detail::DlView va(a), vv(values);
        detail::call([&](kerf_error* e) { return table_->symmetric_eigen(job_, va.get(), vv.get(), e); });
    }

private:
    template <class Real>
    void factorise(kerf_code (*function)(kerf_job*, DLTensor*, std::int64_t*, kerf_error*), MatrixView<Real> a) const {
        detail::DlView va(a);
        std::int64_t pivot = -1;
        try {
            detail::call([&](kerf_error* e) { return function(job_, va.get(), &pivot, e); });
        } catch (const Error& error) {
            if (error.code() == Code::numeric && pivot >= 0) throw NotPositiveDefinite(pivot);
            throw;
        }
    }
    const kerf_linalg_1* table_;
    const kerf_host* host_;
    kerf_job* job_;
};

}  // namespace kerf::inline v1
