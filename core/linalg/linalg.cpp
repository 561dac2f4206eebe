// SPDX-License-Identifier: Apache-2.0
#include "core/linalg/linalg.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "core/linalg/blas.hpp"
#include "core/linalg/tiles.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

/// A function that LibTorch's libraries may or may not bring with them.
template <class Function>
Function* optional_symbol(const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

}  // namespace

void blas::make_reproducible() {
    // MKL's dgemm takes other paths for other alignments of its inputs, and malloc's alignment follows the history of
    // the heap: runs would differ in their last bits. MKL_CBWR_AUTO, "conditional numerical reproducibility" at full
    // speed, ends that (measured: the same GFLOP/s). Only MKL's internal name of MKL_CBWR_Set is exported.
    constexpr int automatic_branch = 2;
    static const bool once = [] {
        const auto set = optional_symbol<int(int)>("mkl_serv_cbwr_set");
        return set != nullptr && set(automatic_branch) == 0;
    }();
    static_cast<void>(once);
}

namespace linalg {
namespace {

/// BLAS and OpenMP (LibTorch's own loops) each in one thread, for the calling thread.
void one_blas_thread() {
    MKL_Set_Num_Threads_Local(1);
    if (const auto set = optional_symbol<void(int)>("omp_set_num_threads")) set(1);
}

/// How a result is cut: by its shape alone, never by the number of threads, or bytes would follow it. Tiles are as
/// large as leaves 32 of them: packing costs BLAS about one pass over a tile's inputs, and 512 makes that 1/256 of the
/// work.
struct Tiles {
    std::int64_t rows = 512, columns = 512;
    Tiles(std::int64_t m, std::int64_t n) {
        while (ceil_div(m, rows) * ceil_div(n, columns) < 32 && std::max(rows, columns) > 64)
            (rows >= columns ? rows : columns) /= 2;
    }
};

/// Below this a product takes less than waking the threads does (about 20 µs).
constexpr std::int64_t small_product = 1 << 20;

}  // namespace

void initialise() {
    blas::make_reproducible();
    one_blas_thread();
    on_thread_start(one_blas_thread);
}

template <class Real>
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, Real alpha, const Real* a,
          std::int64_t lda, const Real* b, std::int64_t ldb, Real beta, Real* c, std::int64_t ldc) {
    if (m <= 0 || n <= 0) return;
    if (m * n * std::max<std::int64_t>(k, 1) <= small_product) {
        blas::gemm_tile(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    const Tiles tile(m, n);
    const std::int64_t across = ceil_div(n, tile.columns);
    parallel_for(ceil_div(m, tile.rows) * across, 1, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t t = lo; t < hi; ++t) {
            const std::int64_t i = t / across * tile.rows, j = t % across * tile.columns;
            blas::gemm_tile(transpose_a, transpose_b, std::min(tile.rows, m - i), std::min(tile.columns, n - j), k,
                            alpha, a + (transpose_a ? i : i * lda), lda, b + (transpose_b ? j * ldb : j), ldb, beta,
                            c + i * ldc + j, ldc);
        }
    });
}

template <class Real>
void gemm_in_piece(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, Real alpha,
                   const Real* a, std::int64_t lda, const Real* b, std::int64_t ldb, Real beta, Real* c,
                   std::int64_t ldc) {
    if (m > 0 && n > 0) blas::gemm_tile(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template <class Real>
void syrk(std::int64_t n, std::int64_t k, Real alpha, const Real* a, std::int64_t lda, Real beta, Real* c,
          std::int64_t ldc) {
    const std::int64_t tile = n >= 1024 ? 256 : n >= 256 ? 128 : 64;
    const std::int64_t side = ceil_div(n, tile);
    parallel_for(side * (side + 1) / 2, 1, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t t = lo; t < hi; ++t) {
            const auto [row, column] = lower_tile(t);
            const std::int64_t i = row * tile, j = column * tile;
            blas::gram_tile(i == j, std::min(tile, n - i), std::min(tile, n - j), k, alpha, a + i, lda, a + j, lda,
                            beta, c + i * ldc + j, ldc);
        }
    });
}

template <class Real>
void symmetrise(std::int64_t n, Real* c, std::int64_t ldc) {
    // 64 × 64 squares, so that the strided side stays in the first cache level.
    constexpr std::int64_t square = 64;
    const std::int64_t side = ceil_div(n, square);
    parallel_for(side, 1, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t i0 = lo * square; i0 < std::min(n, hi * square); i0 += square)
            for (std::int64_t j0 = 0; j0 <= i0; j0 += square)
                for (std::int64_t i = i0; i < std::min(n, i0 + square); ++i)
                    for (std::int64_t j = j0; j < std::min(i, j0 + square); ++j) c[j * ldc + i] = c[i * ldc + j];
    });
}

template <class Real>
void solve_triangular(bool upper, bool transpose, std::int64_t n, std::int64_t m, const Real* t, std::int64_t ldt,
                      Real* b, std::int64_t ldb) {
    if (n <= 0 || m <= 0) return;
    constexpr std::int64_t columns = 128;
    parallel_for(ceil_div(m, columns), 1, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t j = lo * columns; j < std::min(m, hi * columns); j += columns)
            blas::trsm_tile(true, upper, transpose, n, std::min(columns, m - j), t, ldt, b + j, ldb);
    });
}

template <class Real>
void symmetric_eigen(std::int64_t n, Real* a, std::int64_t lda, Real* values) {
    if (n <= 0) return;
    const blas::OneThread one;
    const int size = blas::narrow(n), stride = blas::narrow(lda), ask = -1;
    int info = 0, integers_wanted = 0;
    Real wanted = 0;
    blas::syevd(&size, a, &stride, values, &wanted, &ask, &integers_wanted, &ask, &info);
    // The size comes back as a Real, rounded down when it has more digits than that holds.
    const int work_size = static_cast<int>(static_cast<double>(wanted) * 1.0001) + 8;
    std::vector<Real> work(static_cast<std::size_t>(work_size));
    std::vector<int> integers(static_cast<std::size_t>(std::max(1, integers_wanted)));
    blas::syevd(&size, a, &stride, values, work.data(), &work_size, integers.data(), &integers_wanted, &info);
    if (info != 0)
        throw Error(Fault::numeric, text("eigenvalues of a ", n, " x ", n, " matrix did not converge (LAPACK code ",
                                         info, "): it holds NaN or infinity, or entries of very different size"));
    // Fortran's columns are our rows: eigenvectors belong into columns.
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < i; ++j) std::swap(a[i * lda + j], a[j * lda + i]);
}

double measured_gemm_rate(double seconds) {
    using Clock = std::chrono::steady_clock;
    constexpr std::int64_t n = 1536;
    std::vector<float> a(n * n, 0.5f), b(n * n, 0.25f), c(n * n);
    const auto multiply = [&] {
        const auto start = Clock::now();
        gemm(false, false, n, n, n, 1.0f, a.data(), n, b.data(), n, 0.0f, c.data(), n);
        return std::chrono::duration<double>(Clock::now() - start).count();
    };
    multiply();  // starts threads, maps pages
    double best = multiply(), spent = best;
    while (spent < seconds) {
        const double took = multiply();
        best = std::min(best, took);
        spent += took;
    }
    return 2.0 * n * n * n / best;
}

template void gemm(bool, bool, std::int64_t, std::int64_t, std::int64_t, float, const float*, std::int64_t,
                   const float*, std::int64_t, float, float*, std::int64_t);
template void gemm(bool, bool, std::int64_t, std::int64_t, std::int64_t, double, const double*, std::int64_t,
                   const double*, std::int64_t, double, double*, std::int64_t);
template void syrk(std::int64_t, std::int64_t, float, const float*, std::int64_t, float, float*, std::int64_t);
template void syrk(std::int64_t, std::int64_t, double, const double*, std::int64_t, double, double*, std::int64_t);
template void gemm_in_piece(bool, bool, std::int64_t, std::int64_t, std::int64_t, float, const float*, std::int64_t,
                            const float*, std::int64_t, float, float*, std::int64_t);
template void symmetrise(std::int64_t, float*, std::int64_t);
template void symmetrise(std::int64_t, double*, std::int64_t);
template void solve_triangular(bool, bool, std::int64_t, std::int64_t, const float*, std::int64_t, float*,
                               std::int64_t);
template void solve_triangular(bool, bool, std::int64_t, std::int64_t, const double*, std::int64_t, double*,
                               std::int64_t);
template void symmetric_eigen(std::int64_t, float*, std::int64_t, float*);
template void symmetric_eigen(std::int64_t, double*, std::int64_t, double*);

}  // namespace linalg
}  // namespace kerf::core
