// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace kerf::core {

/// Dense linear algebra on row-major float32 or float64, over LibTorch's BLAS and LAPACK. Work is cut into fixed tiles that
/// run through parallel_for, each in one BLAS thread: the same bytes at any number of threads.
namespace linalg {

/// Once, before anything else that uses BLAS (LibTorch's matrix products too): one BLAS and OpenMP thread for each of ours,
/// and MKL's reproducible mode, without which results depend on how memory happens to be aligned.
void initialise();

/// c[m, n] = alpha · op(a) op(b) + beta · c, op(x) = xᵀ when transposed; leading dimensions in elements.
template <class Real>
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, Real alpha, const Real* a,
          std::int64_t lda, const Real* b, std::int64_t ldb, Real beta, Real* c, std::int64_t ldc);

/// The same, uncut and in the calling thread: for the body of a parallel_for, where cutting would only cost.
template <class Real>
void gemm_in_piece(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, Real alpha, const Real* a,
                   std::int64_t lda, const Real* b, std::int64_t ldb, Real beta, Real* c, std::int64_t ldc);

/// c[n, n] = alpha · aᵀ a + beta · c on the lower triangle, a [k, n]; sums in Real. What is above the diagonal is not kept;
/// `symmetrise` makes it good.
template <class Real>
void syrk(std::int64_t n, std::int64_t k, Real alpha, const Real* a, std::int64_t lda, Real beta, Real* c, std::int64_t ldc);
template <class Real>
void symmetrise(std::int64_t n, Real* c, std::int64_t ldc);  ///< lower triangle onto the upper

/// a = L Lᵀ from the lower triangle, L into it; what is above the diagonal is neither read nor kept. Returns -1, or the
/// first pivot that is not positive (NaN is not).
template <class Real>
std::int64_t cholesky(std::int64_t n, Real* a, std::int64_t lda);

/// In place, from the upper triangle of h: h → U, upper triangular with zeros below, Uᵀ U = h⁻¹. One Cholesky of the index-reversed h (h = R Rᵀ, R
/// upper) and one triangular inverse (U = R⁻¹): 2/3 n³. Returns -1, or the pivot (in h's own numbering) that failed.
template <class Real>
std::int64_t inverse_factor(std::int64_t n, Real* h, std::int64_t ldh);

/// In place, from the upper triangle of h: h → h⁻¹, both triangles, n³. Returns as `inverse_factor`.
template <class Real>
std::int64_t inverse(std::int64_t n, Real* h, std::int64_t ldh);

/// op(t) x = b in place of b; t [n, n] triangular, b [n, m].
template <class Real>
void solve_triangular(bool upper, bool transpose, std::int64_t n, std::int64_t m, const Real* t, std::int64_t ldt, Real* b,
                      std::int64_t ldb);

/// a (symmetric) → eigenvectors as columns; values ascending [n].
template <class Real>
void symmetric_eigen(std::int64_t n, Real* a, std::int64_t lda, Real* values);

/// FLOP/s of float32 GEMM over all threads, measured for about `seconds`.
double measured_gemm_rate(double seconds);

}  // namespace linalg
}  // namespace kerf::core
