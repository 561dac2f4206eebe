// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "core/support/error.hpp"

/// Private to core/linalg and core/curvature: the few BLAS and LAPACK routines that LibTorch's library exports (Fortran
/// names, 32-bit integers), on row-major matrices, each in one thread whatever the calling thread is set to.
extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
            const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
            const double*, const int*, const double*, double*, const int*);
void strsm_(const char*, const char*, const char*, const char*, const int*, const int*, const float*, const float*,
            const int*, float*, const int*);
void dtrsm_(const char*, const char*, const char*, const char*, const int*, const int*, const double*, const double*,
            const int*, double*, const int*);
void spotrf_(const char*, const int*, float*, const int*, int*);
void dpotrf_(const char*, const int*, double*, const int*, int*);
void ssyevd_(const char*, const char*, const int*, float*, const int*, float*, float*, const int*, int*, const int*,
             int*);
void dsyevd_(const char*, const char*, const int*, double*, const int*, double*, double*, const int*, int*, const int*,
             int*);
// The C one: mkl_set_num_threads_local, in lower case, is the Fortran one, which takes a pointer.
int MKL_Set_Num_Threads_Local(int);
}

namespace kerf::core::blas {

/// Makes results independent of where memory lies. Before BLAS is first used, by anybody, or it has no effect.
void make_reproducible();

/// While it lives, BLAS uses one thread in this thread of ours.
class OneThread {
public:
    OneThread() {
        make_reproducible();
        before_ = MKL_Set_Num_Threads_Local(1);
    }
    ~OneThread() { MKL_Set_Num_Threads_Local(before_); }
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

private:
    int before_ = 0;
};

inline int narrow(std::int64_t value) {
    if (value < 0 || value > std::numeric_limits<int>::max())
        internal_error("linear algebra: a dimension of ", value, " does not fit BLAS's 32-bit integers");
    return static_cast<int>(value);
}

inline void gemm(const char* ta, const char* tb, const int* m, const int* n, const int* k, const float* alpha,
                 const float* a, const int* lda, const float* b, const int* ldb, const float* beta, float* c,
                 const int* ldc) {
    sgemm_(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
inline void gemm(const char* ta, const char* tb, const int* m, const int* n, const int* k, const double* alpha,
                 const double* a, const int* lda, const double* b, const int* ldb, const double* beta, double* c,
                 const int* ldc) {
    dgemm_(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
inline void trsm(const char* side, const char* uplo, const char* trans, const int* m, const int* n, const float* one,
                 const float* t, const int* ldt, float* b, const int* ldb) {
    strsm_(side, uplo, trans, "N", m, n, one, t, ldt, b, ldb);
}
inline void trsm(const char* side, const char* uplo, const char* trans, const int* m, const int* n, const double* one,
                 const double* t, const int* ldt, double* b, const int* ldb) {
    dtrsm_(side, uplo, trans, "N", m, n, one, t, ldt, b, ldb);
}
inline void potrf(const char* uplo, const int* n, float* a, const int* lda, int* info) {
    spotrf_(uplo, n, a, lda, info);
}
inline void potrf(const char* uplo, const int* n, double* a, const int* lda, int* info) {
    dpotrf_(uplo, n, a, lda, info);
}
inline void syevd(const int* n, float* a, const int* lda, float* w, float* work, const int* lwork, int* iwork,
                  const int* liwork, int* info) {
    ssyevd_("V", "U", n, a, lda, w, work, lwork, iwork, liwork, info);
}
inline void syevd(const int* n, double* a, const int* lda, double* w, double* work, const int* lwork, int* iwork,
                  const int* liwork, int* info) {
    dsyevd_("V", "U", n, a, lda, w, work, lwork, iwork, liwork, info);
}

/// Row-major c[m, n] = alpha op(a) op(b) + beta c: to Fortran, which reads each matrix transposed, it is cᵀ = op(b)ᵀ
/// op(a)ᵀ.
template <class Real>
void gemm_tile(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, Real alpha,
               const Real* a, std::int64_t lda, const Real* b, std::int64_t ldb, Real beta, Real* c, std::int64_t ldc) {
    const OneThread one;
    const int rows = narrow(m), columns = narrow(n), depth = narrow(k);
    const int stride_a = narrow(lda), stride_b = narrow(ldb), stride_c = narrow(ldc);
    gemm(transpose_b ? "T" : "N", transpose_a ? "T" : "N", &columns, &rows, &depth, &alpha, b, &stride_b, a, &stride_a,
         &beta, c, &stride_c);
}

/// Row-major c[m, n] = alpha aᵀ b + beta c, a [k, m], b [k, n]. On a diagonal tile (a and b the same) strips of 64 rows
/// end at the diagonal; what lies right of them stays as it is.
template <class Real>
void gram_tile(bool diagonal, std::int64_t m, std::int64_t n, std::int64_t k, Real alpha, const Real* a,
               std::int64_t lda, const Real* b, std::int64_t ldb, Real beta, Real* c, std::int64_t ldc) {
    const std::int64_t strip = diagonal ? 64 : m;
    for (std::int64_t i = 0; i < m; i += strip) {
        const std::int64_t rows = m - i < strip ? m - i : strip;
        gemm_tile(true, false, rows, diagonal ? i + rows : n, k, alpha, a + i, lda, b, ldb, beta, c + i * ldc, ldc);
    }
}

/// Row-major x op(t) = b (right) or op(t) x = b (left) in place of b[m, n], t triangular.
template <class Real>
void trsm_tile(bool left, bool upper, bool transpose, std::int64_t m, std::int64_t n, const Real* t, std::int64_t ldt,
               Real* b, std::int64_t ldb) {
    const OneThread one_thread;
    const int rows = narrow(m), columns = narrow(n), stride_t = narrow(ldt), stride_b = narrow(ldb);
    const Real one = 1;
    trsm(left ? "R" : "L", upper ? "L" : "U", transpose ? "T" : "N", &columns, &rows, &one, t, &stride_t, b, &stride_b);
}

}  // namespace kerf::core::blas
