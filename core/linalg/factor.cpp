// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/linalg/blas.hpp"
#include "core/linalg/linalg.hpp"
#include "core/linalg/tiles.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core::linalg {
namespace {

/// The block that one thread factors while the others wait: of n³/3 work it is a share of (block / n)², but updates
/// that are thinner than 128 run below BLAS's full speed.
std::int64_t block_size(std::int64_t n) {
    return n >= 3072 ? 256 : 128;
}

/// Edge of the tiles of a trailing update.
std::int64_t tile_size(std::int64_t n) {
    return n >= 3072 ? 512 : n >= 1024 ? 256 : 128;
}

/// a = L Lᵀ of one block, lower triangle. Returns -1 or the first pivot that is not positive.
template <class Real>
std::int64_t factor_block(std::int64_t n, Real* a, std::int64_t lda) {
    const blas::OneThread one;
    const int size = blas::narrow(n), stride = blas::narrow(lda);
    int info = 0;
    blas::potrf("U", &size, a, &stride, &info);  // Fortran's upper triangle is our lower one
    const std::int64_t done = info > 0 ? info - 1 : n;
    for (std::int64_t i = 0; i < done; ++i)
        if (!(a[i * lda + i] > 0) || !std::isfinite(a[i * lda + i])) return i;  // LAPACK lets NaN through
    return info > 0 ? done : -1;
}

/// The same for a = R Rᵀ, R upper, from a's upper triangle: R is the index-reversed lower factor of the index-reversed
/// a.
template <class Real>
std::int64_t factor_block_reversed(std::int64_t n, Real* a, std::int64_t lda, std::vector<Real>& scratch) {
    scratch.resize(static_cast<std::size_t>(n * n));
    const auto reversed = [&](std::int64_t i, std::int64_t j) -> Real& {
        return scratch[static_cast<std::size_t>((n - 1 - i) * n + n - 1 - j)];
    };
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = i; j < n; ++j) reversed(i, j) = a[i * lda + j];
    const std::int64_t failed = factor_block(n, scratch.data(), n);
    if (failed >= 0) return n - 1 - failed;
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = i; j < n; ++j) a[i * lda + j] = reversed(i, j);
    return -1;
}

/// to[j · ld_to + i] = from[i · ld_from + j]: 16 × 16 squares, a cache line on each side.
template <class Real>
void transpose(std::int64_t rows, std::int64_t columns, const Real* from, std::int64_t ld_from, Real* to,
               std::int64_t ld_to) {
    constexpr std::int64_t square = 16;
    for (std::int64_t i0 = 0; i0 < rows; i0 += square)
        for (std::int64_t j0 = 0; j0 < columns; j0 += square)
            for (std::int64_t j = j0; j < std::min(columns, j0 + square); ++j)
                for (std::int64_t i = i0; i < std::min(rows, i0 + square); ++i)
                    to[j * ld_to + i] = from[i * ld_from + j];
}

/// panel ← panel · t⁻ᵀ, panel [rows, n], t [n, n] triangular. Solved as t x = panelᵀ on a transposed copy, because
/// MKL's solve from that side runs at twice the speed (34 against 15 GFLOP/s of 82, n = 128, AVX2).
template <class Real>
void solve_panel(bool upper, std::int64_t rows, std::int64_t n, const Real* t, Real* panel, std::int64_t ld) {
    constexpr std::int64_t grain = 256;
    parallel_for(rows, grain, [&](std::int64_t lo, std::int64_t hi) {
        std::vector<Real> turned(static_cast<std::size_t>(n * (hi - lo)));
        transpose(hi - lo, n, panel + lo * ld, ld, turned.data(), hi - lo);
        blas::trsm_tile(true, upper, false, n, hi - lo, t, ld, turned.data(), hi - lo);
        transpose(n, hi - lo, turned.data(), hi - lo, panel + lo * ld, ld);
    });
}

/// c ← c - panel panelᵀ on one triangle's tiles of c [n, n], panel [n, depth]; all rows `ld` apart.
template <class Real>
void update_triangle(bool upper, std::int64_t n, std::int64_t depth, std::int64_t tile, const Real* panel, Real* c,
                     std::int64_t ld) {
    const std::int64_t side = ceil_div(n, tile);
    parallel_for(side * (side + 1) / 2, 1, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t t = lo; t < hi; ++t) {
            auto [row, column] = lower_tile(t);
            if (upper) std::swap(row, column);
            const std::int64_t i = row * tile, j = column * tile;
            blas::gemm_tile(false, true, std::min(tile, n - i), std::min(tile, n - j), depth, Real(-1), panel + i * ld,
                            ld, panel + j * ld, ld, Real(1), c + i * ld + j, ld);
        }
    });
}

/// h = R Rᵀ, R into the upper triangle: blocks from the last to the first, right-looking.
template <class Real>
std::int64_t cholesky_reversed(std::int64_t n, Real* h, std::int64_t ld) {
    const std::int64_t block = block_size(n), tile = tile_size(n);
    std::vector<Real> scratch;
    for (std::int64_t end = n; end > 0;) {
        const std::int64_t k = (end - 1) / block * block, size = end - k;
        Real* diagonal = h + k * ld + k;
        const std::int64_t failed = factor_block_reversed(size, diagonal, ld, scratch);
        if (failed >= 0) return k + failed;
        solve_panel(true, k, size, diagonal, h + k, ld);
        update_triangle(true, k, size, tile, h + k, h, ld);
        end = k;
    }
    return -1;
}

/// t ← t⁻¹, upper triangular with zeros below. Block column by block column: with T = [A b; 0 d] and A⁻¹ known, the new
/// column of the inverse is [-A⁻¹ b d⁻¹; d⁻¹].
template <class Real>
void invert_upper(std::int64_t n, Real* t, std::int64_t ld) {
    const std::int64_t block = block_size(n), rows_at_once = 128;
    std::vector<Real> column(static_cast<std::size_t>(n * block)), inverse(static_cast<std::size_t>(block * block));
    for (std::int64_t k = 0; k < n; k += block) {
        const std::int64_t size = std::min(block, n - k);
        std::fill(inverse.begin(), inverse.end(), Real(0));
        for (std::int64_t i = 0; i < size; ++i) inverse[static_cast<std::size_t>(i * size + i)] = 1;
        blas::trsm_tile(true, true, false, size, size, t + k * ld + k, ld, inverse.data(), size);
        for (std::int64_t i = 0; i < size; ++i) std::copy_n(inverse.data() + i * size, size, t + (k + i) * ld + k);
        // -b d⁻¹ first, [k, size]: every tile of the product below reads all of it.
        parallel_for(k, rows_at_once, [&](std::int64_t lo, std::int64_t hi) {
            blas::gemm_tile(false, false, hi - lo, size, size, Real(-1), t + lo * ld + k, ld, inverse.data(), size,
                            Real(0), column.data() + lo * size, size);
        });
        parallel_for(k, rows_at_once, [&](std::int64_t lo, std::int64_t hi) {  // row i of A⁻¹ starts at column i
            blas::gemm_tile(false, false, hi - lo, size, k - lo, Real(1), t + lo * ld + lo, ld,
                            column.data() + lo * size, size, Real(0), t + lo * ld + k, ld);
        });
    }
}

/// The lower triangle of uᵀ u into that of u, which is upper triangular with zeros below. Tiles below the diagonal read
/// what is on and above it, so only the diagonal tiles, which come last, need a copy of what they replace.
template <class Real>
void square_upper(std::int64_t n, Real* u, std::int64_t ld) {
    const std::int64_t tile = tile_size(n), side = ceil_div(n, tile);
    const auto size = [&](std::int64_t t) { return std::min(tile, n - t * tile); };
    parallel_for(side * (side - 1) / 2, 1, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t t = lo; t < hi; ++t) {
            const auto [above, column] = lower_tile(t);
            const std::int64_t row = above + 1, i = row * tile, j = column * tile;
            blas::gemm_tile(true, false, size(row), size(column), j + size(column), Real(1), u + i, ld, u + j, ld,
                            Real(0), u + i * ld + j, ld);
        }
    });
    parallel_for(side, 1, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t t = lo; t < hi; ++t) {
            const std::int64_t j = t * tile, wide = size(t);
            Real* own = u + j * ld + j;
            std::vector<Real> before(static_cast<std::size_t>(wide * wide));
            for (std::int64_t i = 0; i < wide; ++i) std::copy_n(own + i * ld, wide, before.data() + i * wide);
            blas::gemm_tile(true, false, wide, wide, wide, Real(1), before.data(), wide, before.data(), wide, Real(0),
                            own, ld);
            blas::gemm_tile(true, false, wide, wide, j, Real(1), u + j, ld, u + j, ld, Real(1), own, ld);
        }
    });
}

}  // namespace

template <class Real>
std::int64_t cholesky(std::int64_t n, Real* a, std::int64_t lda) {
    const std::int64_t block = block_size(n), tile = tile_size(n);
    for (std::int64_t k = 0; k < n; k += block) {
        const std::int64_t size = std::min(block, n - k), rest = n - k - size;
        Real* diagonal = a + k * lda + k;
        const std::int64_t failed = factor_block(size, diagonal, lda);
        if (failed >= 0) return k + failed;
        if (rest == 0) break;
        Real* panel = diagonal + size * lda;  // [rest, size]
        solve_panel(false, rest, size, diagonal, panel, lda);
        update_triangle(false, rest, size, tile, panel, panel + size, lda);
    }
    return -1;
}

template <class Real>
std::int64_t inverse_factor(std::int64_t n, Real* h, std::int64_t ldh) {
    if (n <= 0) return -1;
    const std::int64_t failed = cholesky_reversed(n, h, ldh);
    if (failed >= 0) return failed;
    parallel_for(n, 64, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t i = lo; i < hi; ++i) std::fill_n(h + i * ldh, i, Real(0));
    });
    invert_upper(n, h, ldh);
    return -1;
}

template <class Real>
std::int64_t inverse(std::int64_t n, Real* h, std::int64_t ldh) {
    const std::int64_t failed = inverse_factor(n, h, ldh);
    if (failed >= 0 || n <= 0) return failed;
    square_upper(n, h, ldh);
    symmetrise(n, h, ldh);
    return -1;
}

template std::int64_t inverse(std::int64_t, float*, std::int64_t);
template std::int64_t inverse(std::int64_t, double*, std::int64_t);
template std::int64_t cholesky(std::int64_t, float*, std::int64_t);
template std::int64_t cholesky(std::int64_t, double*, std::int64_t);
template std::int64_t inverse_factor(std::int64_t, float*, std::int64_t);
template std::int64_t inverse_factor(std::int64_t, double*, std::int64_t);

}  // namespace kerf::core::linalg
