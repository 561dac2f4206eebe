// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/matvec.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace kerf::kernels {
namespace {

constexpr double unit_roundoff = 5.9604644775390625e-8;  // 2^-24

std::vector<float> random_floats(std::int64_t count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> out(static_cast<std::size_t>(count));
    for (auto& value : out) value = normal(engine);
    return out;
}

std::vector<std::uint16_t> random_bits(std::int64_t count, unsigned seed, std::uint16_t mask) {
    std::mt19937 engine(seed);
    std::vector<std::uint16_t> out(static_cast<std::size_t>(count));
    for (auto& value : out) value = static_cast<std::uint16_t>(engine()) & mask;
    return out;
}

/// Finite numbers of both signs, subnormal ones too: the largest exponents are left out so that no sum overflows.
constexpr std::uint16_t bf16_mask = 0xbfff, f16_mask = 0xfbff;

class Matvec : public ::testing::TestWithParam<VectorLevel> {
protected:
    void SetUp() override {
        kernels_ = matvec_kernels(GetParam());
        if (kernels_ == nullptr) GTEST_SKIP() << "this processor has no " << vector_level_name(GetParam());
    }
    template <class Element>
    static std::vector<float> product(void (*dot)(Rows<Element>, Vectors<const float>, Vectors<float>),
                                      const std::vector<Element>& w, std::int64_t rows, std::int64_t columns,
                                      const std::vector<float>& x, std::int64_t vectors) {
        std::vector<float> y(static_cast<std::size_t>(rows * vectors), std::numeric_limits<float>::quiet_NaN());
        dot({w.data(), rows, columns}, {x.data(), vectors, columns}, {y.data(), vectors, rows});
        return y;
    }
    const MatvecKernels* kernels_ = nullptr;
    const MatvecKernels& plain_ = *matvec_kernels(VectorLevel::plain);
};

TEST_P(Matvec, IsAsNearTheExactProductAsItsChainsOfAdditionsAllow) {
    const std::int64_t rows = 9, columns = 300;
    const auto w = random_floats(rows * columns, 1), x = random_floats(columns, 2);
    const auto y = product(kernels_->dot_f32, w, rows, columns, x, 1);
    for (std::int64_t r = 0; r < rows; ++r) {
        double exact = 0, size = 0;
        for (std::int64_t c = 0; c < columns; ++c) {
            const double term = double(w[std::size_t(r * columns + c)]) * double(x[std::size_t(c)]);
            exact += term;
            size += std::abs(term);
        }
        const double chain = std::ceil(double(columns) / 16) + 4;
        EXPECT_LE(std::abs(double(y[std::size_t(r)]) - exact), chain * unit_roundoff * size) << r;
    }
}

TEST_P(Matvec, HasTheBitsOfThePlainReferenceForAnyShape) {
    unsigned seed = 3;
    for (const std::int64_t columns : {1, 15, 16, 17, 31, 48, 64, 127, 576})
        for (const std::int64_t rows : {1, 2, 3, 4, 5, 8, 11})
            for (const std::int64_t vectors : {1, 2, 4, 5, 9}) {
                const auto x = random_floats(vectors * columns, ++seed);
                const auto w = random_floats(rows * columns, ++seed);
                const auto bf16 = random_bits(rows * columns, ++seed, bf16_mask);
                const auto f16 = random_bits(rows * columns, ++seed, f16_mask);
                const std::string where =
                    std::to_string(rows) + " x " + std::to_string(columns) + " x " + std::to_string(vectors);
                ASSERT_EQ(product(kernels_->dot_f32, w, rows, columns, x, vectors),
                          product(plain_.dot_f32, w, rows, columns, x, vectors))
                    << where;
                ASSERT_EQ(product(kernels_->dot_bf16, bf16, rows, columns, x, vectors),
                          product(plain_.dot_bf16, bf16, rows, columns, x, vectors))
                    << where;
                ASSERT_EQ(product(kernels_->dot_f16, f16, rows, columns, x, vectors),
                          product(plain_.dot_f16, f16, rows, columns, x, vectors))
                    << where;
            }
}

TEST_P(Matvec, WidensEvery16BitNumberExactly) {
    std::vector<std::uint16_t> all(65536);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
    const std::vector<float> one{1.0f};
    const auto bf16 = product(kernels_->dot_bf16, all, 65536, 1, one, 1);
    const auto f16 = product(kernels_->dot_f16, all, 65536, 1, one, 1);
    for (std::uint32_t i = 0; i < 65536; ++i) {
        const float wide = std::bit_cast<float>(i << 16);
        // numbers of 10 bits of fraction: 2^(e - 25) (1024 + f), and 2^-24 f for the smallest
        const int exponent = int(i >> 10 & 31);
        const double half =
            std::ldexp(double((i & 1023) + (exponent > 0 ? 1024 : 0)), std::max(exponent, 1) - 25) * (i >> 15 ? -1 : 1);
        if (std::isnan(wide))
            ASSERT_TRUE(std::isnan(bf16[i])) << i;
        else
            ASSERT_EQ(bf16[i], wide) << i;
        if (exponent == 31)
            ASSERT_FALSE(std::isfinite(f16[i])) << i;
        else
            ASSERT_EQ(double(f16[i]), half) << i;
    }
}

TEST_P(Matvec, MixesRowsWithTheBitsOfThePlainReference) {
    unsigned seed = 77;
    for (const std::int64_t columns : {1, 16, 20, 64, 65, 80, 128, 131})
        for (const std::int64_t rows : {0, 1, 2, 7, 40}) {
            const auto v = random_floats(rows * columns, ++seed), share = random_floats(rows, ++seed);
            std::vector<float> got(static_cast<std::size_t>(columns), 9), expected(got);
            kernels_->mix({v.data(), rows, columns}, share.data(), got.data());
            plain_.mix({v.data(), rows, columns}, share.data(), expected.data());
            ASSERT_EQ(got, expected) << rows << " x " << columns;
        }
}

TEST_P(Matvec, LetsNanThroughInItsRowAlone) {
    auto w = random_floats(8 * 40, 5);
    w[3 * 40 + 21] = std::numeric_limits<float>::quiet_NaN();
    const auto y = product(kernels_->dot_f32, w, 8, 40, random_floats(40, 6), 1);
    for (std::size_t r = 0; r < y.size(); ++r) EXPECT_EQ(std::isnan(y[r]), r == 3) << r;
}

INSTANTIATE_TEST_SUITE_P(Levels, Matvec, ::testing::Values(VectorLevel::plain, VectorLevel::avx2, VectorLevel::avx512),
                         [](const auto& info) {
                             return info.param == VectorLevel::avx512 ? "avx512"
                                    : info.param == VectorLevel::avx2 ? "avx2"
                                                                      : "plain";
                         });

}  // namespace
}  // namespace kerf::kernels
