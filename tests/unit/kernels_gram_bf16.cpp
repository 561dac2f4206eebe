// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gram_bf16.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "tests/unit/bf16_units.hpp"

namespace kerf::kernels {
namespace {

using test::widen;

constexpr double unit_roundoff = 5.9604644775390625e-8;  // 2^-24

std::uint16_t to_bf16(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

std::vector<std::uint16_t> random_bf16(std::int64_t count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<std::uint16_t> x(static_cast<std::size_t>(count));
    for (auto& value : x) value = to_bf16(normal(engine));
    return x;
}

struct Packed {
    std::vector<std::uint32_t> pairs, turned;
    PackedBf16 form;
    Packed(const GramKernelBf16& kernel, std::int64_t tokens, std::int64_t features)
        : pairs(static_cast<std::size_t>(PackedBf16::size_of(tokens, features)), 0xdeadbeef), turned(pairs) {
        form.pairs = pairs.data();
        form.turned = kernel.turned ? turned.data() : nullptr;
        form.panels = PackedBf16::panels_of(features);
        form.panel_stride = PackedBf16::stride_of(tokens);
    }
};

std::int64_t blocks_of(std::int64_t tokens) {
    return (tokens + gram_block_tokens - 1) / gram_block_tokens;
}

/// The lower triangle, in tiles of 64.
std::vector<float> gram(const GramKernelBf16& kernel, const std::vector<std::uint16_t>& x, std::int64_t tokens,
                        std::int64_t features) {
    Packed packed(kernel, tokens, features);
    kernel.pack(x.data(), features, tokens, features, 0, packed.form.panels, 0, packed.form);
    const std::int64_t padded = packed.form.panels * gram_panel_features, edge = 64;
    std::vector<float> c(static_cast<std::size_t>(padded * padded)), out;
    for (std::int64_t i = 0; i < padded; i += edge)
        for (std::int64_t j = 0; j <= i; j += edge)
            kernel.tile(packed.form, blocks_of(tokens), i, std::min(edge, padded - i), j, std::min(edge, padded - j),
                        c.data() + i * padded + j, padded);
    for (std::int64_t i = 0; i < features; ++i)
        for (std::int64_t j = 0; j < features; ++j)
            out.push_back(j <= i ? c[static_cast<std::size_t>(i * padded + j)] : 0.0f);
    return out;
}

struct Exact {
    std::vector<double> value, size;  ///< Σ x_i x_j and Σ |x_i x_j|, lower triangle
};

Exact exact_gram(const std::vector<std::uint16_t>& x, std::int64_t tokens, std::int64_t features) {
    Exact exact{std::vector<double>(static_cast<std::size_t>(features * features)), {}};
    exact.size = exact.value;
    for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t i = 0; i < features; ++i)
            for (std::int64_t j = 0; j <= i; ++j) {
                const double product = static_cast<double>(widen(x[static_cast<std::size_t>(t * features + i)])) *
                                       static_cast<double>(widen(x[static_cast<std::size_t>(t * features + j)]));
                exact.value[static_cast<std::size_t>(i * features + j)] += product;
                exact.size[static_cast<std::size_t>(i * features + j)] += std::fabs(product);
            }
    return exact;
}

/// |error| ≤ chain · 2^-24 · Σ |x_i x_j| for sums whose longest chain of additions is `chain`: a bound, not an
/// estimate.
void expect_close(const std::vector<float>& got, const Exact& exact, double chain, const std::string& what) {
    for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_LE(std::fabs(static_cast<double>(got[i]) - exact.value[i]), chain * unit_roundoff * exact.size[i])
            << what << ", entry " << i;
}

class GramBf16 : public ::testing::TestWithParam<test::KernelSource> {
protected:
    void SetUp() override {
        kernel_ = test::kernel_from(GetParam());
        if (kernel_ == nullptr) GTEST_SKIP() << "this processor has no " << name();
    }
    static std::string name() { return test::kernel_source_names[static_cast<int>(GetParam())]; }
    const GramKernelBf16* kernel_ = nullptr;
};

TEST_P(GramBf16, MatchesFloat64ForOddTokensAndFeatures) {
    unsigned seed = 1;
    for (const std::int64_t features : {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 129, 257})
        for (const std::int64_t tokens : {1, 2, 3, 31, 32, 33, 63, 65, 97, 257}) {
            if (features > 100 && tokens > 65) continue;  // emulation takes seconds there
            const auto x = random_bf16(tokens * features, ++seed);
            expect_close(gram(*kernel_, x, tokens, features), exact_gram(x, tokens, features),
                         static_cast<double>(tokens) + 2,
                         name() + " " + std::to_string(tokens) + " x " + std::to_string(features));
        }
}

TEST_P(GramBf16, CarriesSumsOverSeveralPartsOfTheTokens) {
    // Both kernels cut tokens into parts (512 and 256): the second and third must add, not overwrite.
    const std::int64_t tokens = 1100, features = 40;
    const auto x = random_bf16(tokens * features, 7);
    expect_close(gram(*kernel_, x, tokens, features), exact_gram(x, tokens, features), tokens, name());
}

TEST_P(GramBf16, IsExactWhereFloat32Is) {
    // Integers up to 16: products up to 256, sums below 2^24, so every order of additions gives the exact integer.
    const std::int64_t tokens = 700, features = 48;
    std::mt19937 engine(3);
    std::uniform_int_distribution<int> integer(-16, 16);
    std::vector<std::uint16_t> x(static_cast<std::size_t>(tokens * features));
    for (auto& value : x) value = to_bf16(static_cast<float>(integer(engine)));
    const auto got = gram(*kernel_, x, tokens, features);
    const auto exact = exact_gram(x, tokens, features);
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(static_cast<double>(got[i]), exact.value[i]) << i;
}

TEST_P(GramBf16, IsAsAccurateAsFloat32InputsWouldBe) {
    // Positive sums of 2048 tokens. One float32 chain errs by about sqrt(2048) · 2^-24; these kernels have shorter
    // ones.
    const std::int64_t tokens = 2048, features = 32;
    auto x = random_bf16(tokens * features, 11);
    for (auto& value : x) value &= 0x7fff;
    const auto got = gram(*kernel_, x, tokens, features);
    const auto exact = exact_gram(x, tokens, features);
    double squares = 0;
    std::int64_t count = 0;
    for (std::size_t i = 0; i < got.size(); ++i)
        if (exact.value[i] != 0) {
            const double relative = (static_cast<double>(got[i]) - exact.value[i]) / exact.value[i];
            squares += relative * relative;
            ++count;
        }
    EXPECT_LE(std::sqrt(squares / static_cast<double>(count)), std::sqrt(2048.0) * unit_roundoff);
}

TEST_P(GramBf16, TakesDenormalsForZeros) {
    const std::int64_t tokens = 40, features = 33;
    auto x = random_bf16(tokens * features, 5), flushed = x;
    for (std::size_t i = 0; i < x.size(); i += 3) {
        x[i] = static_cast<std::uint16_t>(1 + i % 127);  // smaller than 2^-126
        flushed[i] = 0;
    }
    EXPECT_EQ(gram(*kernel_, x, tokens, features), gram(*kernel_, flushed, tokens, features));
}

TEST_P(GramBf16, LetsNanAndInfinityReachTheDiagonal) {
    const std::int64_t tokens = 70, features = 37;
    for (const std::uint16_t bad : {std::uint16_t{0x7fc0}, std::uint16_t{0x7f80}, std::uint16_t{0xff80}})
        for (const std::int64_t feature : {0, 17, 36}) {
            auto x = random_bf16(tokens * features, 5);
            x[static_cast<std::size_t>(65 * features + feature)] = bad;
            const auto got = gram(*kernel_, x, tokens, features);
            for (std::int64_t j = 0; j < features; ++j)
                EXPECT_EQ(std::isfinite(got[static_cast<std::size_t>(j * features + j)]), j != feature);
        }
}

TEST_P(GramBf16, PacksTheSameInOnePassAndBlockByBlock) {
    const std::int64_t tokens = 100, features = 50;
    const auto x = random_bf16(tokens * features, 9);
    Packed a(*kernel_, tokens, features), b(*kernel_, tokens, features);
    kernel_->pack(x.data(), features, tokens, features, 0, a.form.panels, 0, a.form);
    for (std::int64_t t = 0; t < tokens; t += 32)
        for (std::int64_t panel = 0; panel < b.form.panels; ++panel)
            kernel_->pack(x.data() + t * features, features, std::min<std::int64_t>(32, tokens - t), features, panel,
                          panel + 1, t / 32, b.form);
    EXPECT_EQ(a.pairs, b.pairs);
    EXPECT_EQ(a.turned, b.turned);
}

TEST_P(GramBf16, KeepsEveryPairAndItsTranspose) {
    const std::int64_t tokens = 45, features = 39;
    const auto x = random_bf16(tokens * features, 2);
    Packed packed(*kernel_, tokens, features);
    kernel_->pack(x.data(), features, tokens, features, 0, packed.form.panels, 0, packed.form);
    const auto value = [&](std::int64_t t, std::int64_t f) -> std::uint32_t {
        return t < tokens && f < features ? x[static_cast<std::size_t>(t * features + f)] : 0;
    };
    for (std::int64_t t = 0; t < 64; t += 2)
        for (std::int64_t f = 0; f < packed.form.panels * 16; ++f) {
            const std::uint32_t pair = value(t, f) | value(t + 1, f) << 16;
            const std::int64_t tile = f / 16 * packed.form.panel_stride + t / 32 * 256, p = t / 2 % 16;
            ASSERT_EQ(packed.pairs[static_cast<std::size_t>(tile + p * 16 + f % 16)], pair) << t << ' ' << f;
            if (!kernel_->turned) continue;
            ASSERT_EQ(packed.turned[static_cast<std::size_t>(tile + f % 16 * 16 + p)], pair) << t << ' ' << f;
        }
}

std::string source_name(const ::testing::TestParamInfo<test::KernelSource>& info) {
    return test::kernel_source_names[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Kernels, GramBf16, ::testing::ValuesIn(test::kernel_sources), source_name);

TEST(GramBf16Reference, IsTheSumOfProducts) {
    const std::int64_t tokens = 33, features = 21;
    const auto x = random_bf16(tokens * features, 4);
    std::vector<float> c(static_cast<std::size_t>(features * features));
    gram_reference_bf16(x.data(), features, tokens, features, c.data(), features);
    expect_close(c, exact_gram(x, tokens, features), tokens, "reference");
}

TEST(Isa, RefusesWhatTheProcessorLacks) {
    EXPECT_TRUE(set_isa(Isa::generic));
    EXPECT_EQ(active_isa(), Isa::generic);
    for (const Isa isa : {Isa::avx512_bf16, Isa::amx_bf16}) EXPECT_EQ(set_isa(isa), supports(isa));
    EXPECT_TRUE(set_isa(std::nullopt));
    EXPECT_TRUE(supports(active_isa()));
    EXPECT_EQ(gram_kernel_bf16(Isa::generic), nullptr);
    for (const Isa isa : {Isa::avx512_bf16, Isa::amx_bf16}) EXPECT_EQ(gram_kernel_bf16(isa) != nullptr, supports(isa));
}

TEST(WidenBf16, KeepsEveryBitPattern) {
    std::vector<std::uint16_t> x(1 << 16);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<std::uint16_t>(i);
    std::vector<float> wide(x.size());
    widen_bf16(x.data(), wide.data(), static_cast<std::int64_t>(x.size()));
    for (std::size_t i = 0; i < x.size(); ++i)
        ASSERT_EQ(std::bit_cast<std::uint32_t>(wide[i]), static_cast<std::uint32_t>(i) << 16);
}

}  // namespace
}  // namespace kerf::kernels
