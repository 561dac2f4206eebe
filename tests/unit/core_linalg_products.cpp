// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/linalg/linalg.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

template <class Real>
class Products : public ::testing::Test {
protected:
    static constexpr double roundoff = std::numeric_limits<Real>::epsilon() / 2;
    static std::vector<Real> random(std::int64_t size, unsigned seed) {
        std::mt19937 engine(seed);
        std::uniform_real_distribution<Real> uniform(-1, 1);
        std::vector<Real> m(static_cast<std::size_t>(size));
        for (auto& x : m) x = uniform(engine);
        return m;
    }
    ~Products() override { set_threads(0); }
};

using Reals = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Products, Reals);

struct Shape {
    std::int64_t m, n, k;
};
constexpr Shape shapes[] = {{1, 1, 1},    {1, 257, 3},  {257, 1, 33},   {2, 3, 257},
                            {65, 129, 1}, {64, 64, 64}, {127, 255, 97}, {257, 130, 65}};

TYPED_TEST(Products, GemmMatchesTheSumsInEveryTransposition) {
    using Real = TypeParam;
    for (const auto& [m, n, k] : shapes)
        for (const bool ta : {false, true})
            for (const bool tb : {false, true}) {
                const std::int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 1, ldc = n + 2;
                const auto a = this->random((ta ? k : m) * lda, 1), b = this->random((tb ? n : k) * ldb, 2);
                const auto before = this->random(m * ldc, 3);
                auto c = before;
                linalg::gemm<Real>(ta, tb, m, n, k, Real(0.5), a.data(), lda, b.data(), ldb, Real(2), c.data(), ldc);
                for (std::int64_t i = 0; i < m; ++i)
                    for (std::int64_t j = 0; j < ldc; ++j) {
                        const auto at = static_cast<std::size_t>(i * ldc + j);
                        if (j >= n) {
                            ASSERT_EQ(c[at], before[at]) << "outside the result";
                            continue;
                        }
                        double sum = 0;
                        for (std::int64_t p = 0; p < k; ++p)
                            sum += static_cast<double>(a[static_cast<std::size_t>(ta ? p * lda + i : i * lda + p)]) *
                                   static_cast<double>(b[static_cast<std::size_t>(tb ? j * ldb + p : p * ldb + j)]);
                        const double expected = 0.5 * sum + 2 * static_cast<double>(before[at]);
                        // |error| ≤ (k + 3) u (Σ|ab| + |c|), entries below 1.
                        const double bound = static_cast<double>(k + 3) * this->roundoff * (static_cast<double>(k) + 2);
                        ASSERT_NEAR(static_cast<double>(c[at]), expected, bound) << m << ' ' << n << ' ' << k;
                    }
            }
}

TYPED_TEST(Products, SyrkThenSymmetriseIsTheFullGram) {
    using Real = TypeParam;
    for (const std::int64_t n : {1, 2, 63, 64, 65, 257, 300})
        for (const std::int64_t k : {1, 5, 130}) {
            const auto a = this->random(k * (n + 1), 4);
            std::vector<Real> c(static_cast<std::size_t>(n * n), Real(1));
            linalg::syrk<Real>(n, k, Real(2), a.data(), n + 1, Real(-1), c.data(), n);
            linalg::symmetrise(n, c.data(), n);
            for (std::int64_t i = 0; i < n; ++i)
                for (std::int64_t j = 0; j < n; ++j) {
                    double sum = 0;
                    for (std::int64_t p = 0; p < k; ++p)
                        sum += static_cast<double>(a[static_cast<std::size_t>(p * (n + 1) + i)]) *
                               static_cast<double>(a[static_cast<std::size_t>(p * (n + 1) + j)]);
                    ASSERT_NEAR(static_cast<double>(c[static_cast<std::size_t>(i * n + j)]), 2 * sum - 1,
                                2 * static_cast<double>(k + 3) * this->roundoff * static_cast<double>(k + 1));
                }
        }
}

TYPED_TEST(Products, GiveTheSameBytesOnAnyNumberOfThreads) {
    using Real = TypeParam;
    const std::int64_t n = 333, k = 517;
    const auto a = this->random(n * k, 5);
    std::vector<Real> results[3];
    const int counts[] = {1, 2, 8};
    for (int run = 0; run < 3; ++run) {
        set_threads(counts[run]);
        results[run].resize(static_cast<std::size_t>(2 * n * n));
        linalg::gemm<Real>(true, false, n, n, k, 1, a.data(), n, a.data(), n, 0, results[run].data(), n);
        linalg::syrk<Real>(n, k, 1, a.data(), n, 0, results[run].data() + n * n, n);
    }
    EXPECT_TRUE(results[0] == results[1] && results[0] == results[2]);
}

TYPED_TEST(Products, DoNotDependOnWhereTheMemoryLies) {
    using Real = TypeParam;
    const std::int64_t n = 130;
    const auto a = this->random(n * n, 6);
    std::vector<Real> first;
    for (std::size_t shift = 0; shift < 16; ++shift) {
        std::vector<Real> input(a.size() + 16), output(a.size() + 16);
        std::copy(a.begin(), a.end(), input.begin() + static_cast<std::ptrdiff_t>(shift));
        Real* c = output.data() + (shift * 7) % 16;
        linalg::gemm<Real>(false, true, n, n, n, 1, input.data() + shift, n, input.data() + shift, n, 0, c, n);
        if (first.empty()) first.assign(c, c + n * n);
        ASSERT_EQ(std::memcmp(first.data(), c, first.size() * sizeof(Real)), 0) << "shifted by " << shift;
    }
}

TYPED_TEST(Products, OfNothingAreNothing) {
    using Real = TypeParam;
    Real c = 5;
    linalg::gemm<Real>(false, false, 0, 3, 4, 1, nullptr, 4, nullptr, 3, 0, &c, 3);
    linalg::syrk<Real>(0, 3, 1, nullptr, 1, 0, &c, 1);
    EXPECT_EQ(linalg::cholesky<Real>(0, &c, 1), -1);
    EXPECT_EQ(linalg::inverse_factor<Real>(0, &c, 1), -1);
    linalg::solve_triangular<Real>(true, false, 0, 0, &c, 1, &c, 1);
    EXPECT_EQ(c, Real(5));
}

TEST(GemmRate, IsMeasuredAsAPositiveRate) {
    linalg::initialise();
    const double rate = linalg::measured_gemm_rate(0.05);
    EXPECT_GT(rate, 1e8);
    EXPECT_LT(rate, 1e15);
}

}  // namespace
}  // namespace kerf::core
