// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/linalg/linalg.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

template <class Real>
class Factors : public ::testing::Test {
protected:
    using Matrix = std::vector<Real>;
    static constexpr double roundoff = std::numeric_limits<Real>::epsilon() / 2;

    static Matrix random(std::int64_t rows, std::int64_t columns, unsigned seed) {
        std::mt19937 engine(seed);
        std::normal_distribution<Real> normal;
        Matrix m(static_cast<std::size_t>(rows * columns));
        for (auto& x : m) x = normal(engine);
        return m;
    }
    /// Gᵀ G / n + I: condition number below about 6, whatever n.
    static Matrix positive_definite(std::int64_t n, unsigned seed) {
        const Matrix g = random(n, n, seed);
        Matrix a(g.size());
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j <= i; ++j) {
                double sum = i == j ? 1.0 : 0.0;
                for (std::int64_t k = 0; k < n; ++k)
                    sum += static_cast<double>(g[static_cast<std::size_t>(k * n + i)]) *
                           static_cast<double>(g[static_cast<std::size_t>(k * n + j)]) / static_cast<double>(n);
                a[static_cast<std::size_t>(i * n + j)] = a[static_cast<std::size_t>(j * n + i)] =
                    static_cast<Real>(sum);
            }
        return a;
    }
    static double at(const Matrix& m, std::int64_t n, std::int64_t i, std::int64_t j) {
        return static_cast<double>(m[static_cast<std::size_t>(i * n + j)]);
    }
    ~Factors() override { set_threads(0); }
};

using Reals = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Factors, Reals);

// 127..129 and 300 cross block boundaries; 1 to 3 are smaller than any tile.
constexpr std::int64_t sizes[] = {1, 2, 3, 17, 64, 127, 128, 129, 257, 300};

TYPED_TEST(Factors, CholeskyTimesItsTransposeIsTheMatrix) {
    for (const std::int64_t n : sizes) {
        const auto a = this->positive_definite(n, 1);
        auto l = a;
        ASSERT_EQ(linalg::cholesky(n, l.data(), n), -1);
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j <= i; ++j) {
                double sum = 0;
                for (std::int64_t k = 0; k <= j; ++k) sum += this->at(l, n, i, k) * this->at(l, n, j, k);
                // Higham, Accuracy and Stability, theorem 10.3: |LLᵀ - A| ≤ γ(n+1) |L||Lᵀ|, and a_ii ≤ 6 here.
                ASSERT_NEAR(sum, this->at(a, n, i, j), static_cast<double>(n + 1) * this->roundoff * 6) << n;
            }
    }
}

TYPED_TEST(Factors, ReadOneTriangleOnly) {
    const std::int64_t n = 300;
    const auto a = this->positive_definite(n, 2);
    auto whole = a, lower = a, upper = a, whole_inverse = a;
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < i; ++j) {
            lower[static_cast<std::size_t>(j * n + i)] = std::numeric_limits<TypeParam>::quiet_NaN();
            upper[static_cast<std::size_t>(i * n + j)] = std::numeric_limits<TypeParam>::quiet_NaN();
        }
    ASSERT_EQ(linalg::cholesky(n, whole.data(), n), -1);
    ASSERT_EQ(linalg::cholesky(n, lower.data(), n), -1);
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j <= i; ++j) ASSERT_EQ(this->at(lower, n, i, j), this->at(whole, n, i, j));
    ASSERT_EQ(linalg::inverse_factor(n, whole_inverse.data(), n), -1);
    ASSERT_EQ(linalg::inverse_factor(n, upper.data(), n), -1);
    EXPECT_EQ(upper, whole_inverse);
}

TYPED_TEST(Factors, InverseFactorInvertsTheMatrix) {
    for (const std::int64_t n : sizes) {
        const auto h = this->positive_definite(n, 3);
        auto u = h;
        ASSERT_EQ(linalg::inverse_factor(n, u.data(), n), -1);
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < i; ++j) ASSERT_EQ(this->at(u, n, i, j), 0) << "below the diagonal";
        // (U h) Uᵀ = I follows from UᵀU = h⁻¹ and keeps the errors small.
        std::vector<double> uh(static_cast<std::size_t>(n * n));
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t k = i; k < n; ++k)
                for (std::int64_t j = 0; j < n; ++j)
                    uh[static_cast<std::size_t>(i * n + j)] += this->at(u, n, i, k) * this->at(h, n, k, j);
        const double tolerance = 8 * static_cast<double>(n + 1) * this->roundoff;  // condition number below 6
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
                double sum = 0;
                for (std::int64_t k = j; k < n; ++k)
                    sum += uh[static_cast<std::size_t>(i * n + k)] * this->at(u, n, j, k);
                ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, tolerance) << n << ": " << i << ' ' << j;
            }
    }
}

TYPED_TEST(Factors, InverseTimesTheMatrixIsOne) {
    for (const std::int64_t n : sizes) {
        const auto h = this->positive_definite(n, 3);
        auto a = h;
        ASSERT_EQ(linalg::inverse(n, a.data(), n), -1);
        const double tolerance = 8 * static_cast<double>(n + 1) * this->roundoff;  // condition number below 6
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
                ASSERT_EQ(this->at(a, n, i, j), this->at(a, n, j, i));
                double sum = 0;
                for (std::int64_t k = 0; k < n; ++k) sum += this->at(a, n, i, k) * this->at(h, n, j, k);
                ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, tolerance) << n << ": " << i << ' ' << j;
            }
    }
}

TYPED_TEST(Factors, InverseFactorStaysInsideItsRows) {
    const std::int64_t n = 130, ld = 137;
    const auto h = this->positive_definite(n, 4);
    auto tight = h;
    std::vector<TypeParam> wide(static_cast<std::size_t>(n * ld), TypeParam(-7));
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(h.data() + i * n, n, wide.data() + i * ld);
    ASSERT_EQ(linalg::inverse_factor(n, tight.data(), n), -1);
    ASSERT_EQ(linalg::inverse_factor(n, wide.data(), ld), -1);
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < ld; ++j) {
            const auto expected = j < n ? tight[static_cast<std::size_t>(i * n + j)] : TypeParam(-7);
            ASSERT_EQ(wide[static_cast<std::size_t>(i * ld + j)], expected);
        }
}

TYPED_TEST(Factors, NameThePivotThatIsNotPositive) {
    // Block diagonal with one bad entry: only that pivot can fail, in both directions of elimination.
    for (const std::int64_t n : {5, 128, 300})
        for (const std::int64_t pivot : {std::int64_t{0}, n / 2, n - 1})
            for (const TypeParam bad : {TypeParam(-1), TypeParam(0), std::numeric_limits<TypeParam>::quiet_NaN()}) {
                std::vector<TypeParam> a(static_cast<std::size_t>(n * n));
                for (std::int64_t i = 0; i < n; ++i) a[static_cast<std::size_t>(i * n + i)] = i == pivot ? bad : 2;
                auto b = a, c = a;
                EXPECT_EQ(linalg::inverse(n, c.data(), n), pivot) << n << ' ' << bad;
                EXPECT_EQ(linalg::cholesky(n, a.data(), n), pivot) << n << ' ' << bad;
                EXPECT_EQ(linalg::inverse_factor(n, b.data(), n), pivot) << n << ' ' << bad;
            }
}

TYPED_TEST(Factors, FindsTheFirstPivotInEliminationOrder) {
    const std::int64_t n = 200;
    auto a = this->positive_definite(n, 5);
    for (const std::int64_t i : {40, 150}) a[static_cast<std::size_t>(i * n + i)] = -100;
    auto b = a;
    EXPECT_EQ(linalg::cholesky(n, a.data(), n), 40);         // from the first to the last
    EXPECT_EQ(linalg::inverse_factor(n, b.data(), n), 150);  // from the last to the first
}

TYPED_TEST(Factors, GiveTheSameBytesOnAnyNumberOfThreads) {
    const std::int64_t n = 700;
    const auto g = this->random(n, n, 6);
    std::vector<TypeParam> h(g.size()), factor[3], lower[3], inverse[3];
    const int counts[] = {1, 2, 8};
    for (int run = 0; run < 3; ++run) {
        set_threads(counts[run]);
        linalg::syrk<TypeParam>(n, n, 1, g.data(), n, 0, h.data(), n);
        linalg::symmetrise(n, h.data(), n);
        for (std::int64_t i = 0; i < n; ++i) h[static_cast<std::size_t>(i * n + i)] += 100;
        factor[run] = lower[run] = inverse[run] = h;
        ASSERT_EQ(linalg::inverse(n, inverse[run].data(), n), -1);
        ASSERT_EQ(linalg::inverse_factor(n, factor[run].data(), n), -1);
        ASSERT_EQ(linalg::cholesky(n, lower[run].data(), n), -1);
    }
    EXPECT_TRUE(factor[0] == factor[1] && factor[0] == factor[2]);
    EXPECT_TRUE(lower[0] == lower[1] && lower[0] == lower[2]);
    EXPECT_TRUE(inverse[0] == inverse[1] && inverse[0] == inverse[2]);
}

TYPED_TEST(Factors, SolveTriangularUndoesTheProduct) {
    for (const bool upper : {false, true})
        for (const bool transpose : {false, true})
            for (const std::int64_t n : {1, 33, 150})
                for (const std::int64_t m : {1, 3, 257}) {
                    auto t = this->random(n, n, 7);
                    const auto x = this->random(n, m, 8);
                    for (std::int64_t i = 0; i < n; ++i)
                        for (std::int64_t j = 0; j < n; ++j) {
                            auto& entry = t[static_cast<std::size_t>(i * n + j)];
                            // Diagonally dominant, garbage in the other triangle.
                            entry = i == j ? 2 : (j > i) == upper ? entry / static_cast<TypeParam>(n) : TypeParam(1e6);
                        }
                    std::vector<TypeParam> b(x.size());
                    for (std::int64_t i = 0; i < n; ++i)
                        for (std::int64_t j = 0; j < m; ++j) {
                            double sum = 0;
                            for (std::int64_t k = 0; k < n; ++k) {
                                const std::int64_t r = transpose ? k : i, c = transpose ? i : k;
                                if (r == c || (c > r) == upper) sum += this->at(t, n, r, c) * this->at(x, m, k, j);
                            }
                            b[static_cast<std::size_t>(i * m + j)] = static_cast<TypeParam>(sum);
                        }
                    linalg::solve_triangular(upper, transpose, n, m, t.data(), n, b.data(), m);
                    for (std::size_t i = 0; i < b.size(); ++i)
                        ASSERT_NEAR(static_cast<double>(b[i]), static_cast<double>(x[i]),
                                    20 * static_cast<double>(n + 1) * this->roundoff);
                }
}

TYPED_TEST(Factors, EigenvectorsAreColumnsInAscendingOrder) {
    for (const std::int64_t n : {1, 2, 31, 65}) {
        const auto a = this->positive_definite(n, 9);
        auto v = a;
        std::vector<TypeParam> values(static_cast<std::size_t>(n));
        linalg::symmetric_eigen(n, v.data(), n, values.data());
        EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
        const double tolerance = 20 * static_cast<double>(n) * this->roundoff * 6;
        for (std::int64_t j = 0; j < n; ++j)
            for (std::int64_t i = 0; i < n; ++i) {
                double product = 0;
                for (std::int64_t k = 0; k < n; ++k) product += this->at(a, n, i, k) * this->at(v, n, k, j);
                ASSERT_NEAR(product, static_cast<double>(values[static_cast<std::size_t>(j)]) * this->at(v, n, i, j),
                            tolerance);
            }
    }
}

}  // namespace
}  // namespace kerf::core
