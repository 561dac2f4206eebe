// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/curvature/gram.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "core/weights/tensor_file.hpp"
#include "kernels/cpu/gram_bf16.hpp"
#include "tests/unit/bf16_units.hpp"

namespace kerf::core {
namespace {

constexpr double roundoff = 5.9604644775390625e-8;  // 2^-24

std::vector<float> random_activations(std::int64_t tokens, std::int64_t features, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(tokens * features));
    for (auto& value : x) value = normal(engine);
    return x;
}

std::uint16_t to_bf16(float x) {
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16);
}

std::vector<std::uint16_t> truncated(const std::vector<float>& x) {
    std::vector<std::uint16_t> out;
    for (const float value : x) out.push_back(to_bf16(value));
    return out;
}

std::vector<float> widened(const std::vector<std::uint16_t>& x) {
    std::vector<float> out;
    for (const std::uint16_t value : x) out.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16));
    return out;
}

/// Each entry against float64: |error| ≤ (longest chain + 3) · 2^-24 · Σ |x_i x_j| / T, both triangles.
void expect_gram(const std::vector<float>& gram, const std::vector<float>& x, std::int64_t tokens,
                 std::int64_t features) {
    ASSERT_EQ(gram.size(), static_cast<std::size_t>(features * features));
    std::vector<double> value(gram.size()), size(gram.size());
    for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t i = 0; i < features; ++i)
            for (std::int64_t j = 0; j < features; ++j) {
                const double product = static_cast<double>(x[static_cast<std::size_t>(t * features + i)]) *
                                       static_cast<double>(x[static_cast<std::size_t>(t * features + j)]);
                value[static_cast<std::size_t>(i * features + j)] += product;
                size[static_cast<std::size_t>(i * features + j)] += std::fabs(product);
            }
    const auto chain = static_cast<double>(std::min(tokens, GramAccumulator::chunk_tokens) + 3);
    for (std::size_t i = 0; i < gram.size(); ++i)
        ASSERT_NEAR(static_cast<double>(gram[i]), value[i] / static_cast<double>(tokens),
                    chain * roundoff * size[i] / static_cast<double>(tokens))
            << tokens << " tokens, " << features << " features, entry " << i;
}

std::string message_of(const auto& action) {
    try {
        action();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

class Gram : public ::testing::Test {
protected:
    ~Gram() override {
        set_threads(0);
        kernels::set_isa(std::nullopt);
        kernels::replace_gram_kernel_bf16(nullptr);
    }
};

TEST_F(Gram, IsTheMeanOfOuterProducts) {
    for (const std::int64_t features : {1, 2, 63, 64, 65, 128, 257})
        for (const std::int64_t tokens : {1, 3, 33, 257}) {
            const auto x = random_activations(tokens, features, 1);
            GramAccumulator gram("x", features);
            gram.add(x.data(), tokens);
            EXPECT_EQ(gram.tokens(), tokens);
            expect_gram(gram.finish(), x, tokens, features);
        }
}

TEST_F(Gram, GoesOnOverManyChunks) {
    const std::int64_t tokens = 3 * GramAccumulator::chunk_tokens + 77, features = 33;
    const auto x = random_activations(tokens, features, 2);
    GramAccumulator gram("x", features);
    gram.add(x.data(), tokens);
    expect_gram(gram.finish(), x, tokens, features);
}

TEST_F(Gram, DoesNotDependOnHowTokensAreBatched) {
    const std::int64_t tokens = 2 * GramAccumulator::chunk_tokens + 100, features = 70;
    const auto x = random_activations(tokens, features, 3);
    std::vector<float> first;
    for (const std::int64_t batch : {tokens, std::int64_t{1}, std::int64_t{31}, std::int64_t{512}}) {
        GramAccumulator gram("x", features);
        for (std::int64_t t = 0; t < tokens; t += batch) gram.add(x.data() + t * features, std::min(batch, tokens - t));
        const auto result = gram.finish();
        if (first.empty()) first = result;
        EXPECT_EQ(result, first) << "batches of " << batch;
    }
}

TEST_F(Gram, GivesTheSameBytesOnAnyNumberOfThreads) {
    const std::int64_t tokens = 2500, features = 300;
    const auto x = random_activations(tokens, features, 4);
    std::vector<float> results[3];
    const int counts[] = {1, 2, 8};
    for (int run = 0; run < 3; ++run) {
        set_threads(counts[run]);
        GramAccumulator gram("x", features);
        gram.add(x.data(), tokens);
        results[run] = gram.finish();
    }
    EXPECT_TRUE(results[0] == results[1] && results[0] == results[2]);
}

/// Number of a kernel source, or -1 for widening.
class GramOfBf16 : public Gram, public ::testing::WithParamInterface<int> {
protected:
    void SetUp() override {
        kernels::set_isa(kernels::Isa::generic);
        if (GetParam() < 0) return;
        const auto* kernel = test::kernel_from(test::kernel_sources[GetParam()]);
        if (kernel == nullptr) GTEST_SKIP() << "this processor has no " << test::kernel_source_names[GetParam()];
        kernels::replace_gram_kernel_bf16(kernel);
    }
};

TEST_P(GramOfBf16, IsAsExactAsThatOfTheWidenedNumbers) {
    for (const std::int64_t features : {1, 31, 33, 130, 257})
        for (const std::int64_t tokens : {1, 32, 95, 300}) {
            const auto x = truncated(random_activations(tokens, features, 5));
            GramAccumulator gram("x", features);
            gram.add_bf16(x.data(), tokens / 2);
            gram.add_bf16(x.data() + tokens / 2 * features, tokens - tokens / 2);
            expect_gram(gram.finish(), widened(x), tokens, features);
        }
}

TEST_P(GramOfBf16, DoesNotDependOnHowTokensAreBatched) {
    const std::int64_t tokens = GramAccumulator::chunk_tokens + 75, features = 40;
    const auto x = truncated(random_activations(tokens, features, 3));
    std::vector<float> first;
    for (const std::int64_t batch : {tokens, std::int64_t{1}, std::int64_t{31}, std::int64_t{100}}) {
        GramAccumulator gram("x", features);
        for (std::int64_t t = 0; t < tokens; t += batch)
            gram.add_bf16(x.data() + t * features, std::min(batch, tokens - t));
        const auto result = gram.finish();
        if (first.empty()) first = result;
        EXPECT_EQ(result, first) << "batches of " << batch;
    }
    expect_gram(first, widened(x), tokens, features);
}

TEST_P(GramOfBf16, GivesTheSameBytesOnAnyNumberOfThreads) {
    const std::int64_t tokens = 100, features = 300;
    const auto x = truncated(random_activations(tokens, features, 4));
    std::vector<float> results[3];
    const int counts[] = {1, 2, 8};
    for (int run = 0; run < 3; ++run) {
        set_threads(counts[run]);
        GramAccumulator gram("x", features);
        gram.add_bf16(x.data(), tokens);
        results[run] = gram.finish();
    }
    EXPECT_TRUE(results[0] == results[1] && results[0] == results[2]);
}

TEST_P(GramOfBf16, MixesWithFloat32) {
    const std::int64_t tokens = 150, features = 40;
    const auto narrow = truncated(random_activations(tokens, features, 6));
    auto all = widened(narrow);
    GramAccumulator gram("x", features);
    gram.add_bf16(narrow.data(), 50);
    gram.add(all.data() + 50 * features, 50);
    gram.add_bf16(narrow.data() + 100 * features, 50);
    expect_gram(gram.finish(), all, tokens, features);
}

TEST_P(GramOfBf16, NamesTokenAndFeatureOfANan) {
    const std::int64_t tokens = GramAccumulator::chunk_tokens + 90, features = 40;
    auto x = truncated(random_activations(tokens, features, 7));
    x[static_cast<std::size_t>((GramAccumulator::chunk_tokens + 67) * features + 21)] = 0x7fc0;
    GramAccumulator gram("model.layers.3.mlp", features);
    const std::string message = message_of([&] {
        gram.add_bf16(x.data(), tokens);
        gram.finish();
    });
    EXPECT_NE(message.find("model.layers.3.mlp: the activation of calibration token 2115, feature 21 is nan"),
              std::string::npos)
        << message;
}

std::string source_name(const ::testing::TestParamInfo<int>& info) {
    return info.param < 0 ? "Widened" : test::kernel_source_names[info.param];
}
INSTANTIATE_TEST_SUITE_P(Kernels, GramOfBf16, ::testing::Range(-1, 4), source_name);

TEST_F(Gram, NamesTheTokenAndFeatureThatAreNotFinite) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
        for (const std::int64_t token : {0, 50, 2047, 2048, 5000}) {
            const std::int64_t tokens = 5050, features = 20;
            auto x = random_activations(tokens, features, 8);
            x[static_cast<std::size_t>(token * features + 13)] = bad;
            for (const std::int64_t batch : {tokens, std::int64_t{101}}) {
                GramAccumulator gram("layers.0.in", features);
                const std::string message = message_of([&] {
                    for (std::int64_t t = 0; t < tokens; t += batch)
                        gram.add(x.data() + t * features, std::min(batch, tokens - t));
                    gram.finish();
                });
                EXPECT_NE(
                    message.find(text("layers.0.in: the activation of calibration token ", token, ", feature 13")),
                    std::string::npos)
                    << message;
            }
        }
}

TEST_F(Gram, SaysWhenFiniteActivationsOverflow) {
    std::vector<float> x(8, 1.0f);
    x[5] = 1e25f;
    GramAccumulator gram("layers.0.in", 4);
    gram.add(x.data(), 2);
    const std::string message = message_of([&] { gram.finish(); });
    EXPECT_NE(message.find("layers.0.in: the activations of feature 1 are so large"), std::string::npos) << message;
}

TEST_F(Gram, OfNoTokensIsRefused) {
    GramAccumulator gram("layers.0.in", 4);
    const std::string message = message_of([&] { gram.finish(); });
    EXPECT_NE(message.find("layers.0.in: no calibration token"), std::string::npos) << message;
}

TEST_F(Gram, KeepsDenormalSumsOfNormalActivations) {
    // 1e-19² = 1e-38 is normal, its mean over tokens with zeros in between is not; float64 sums must not lose it.
    const std::int64_t tokens = 64;
    std::vector<float> x(static_cast<std::size_t>(tokens));
    x[0] = 1.2e-19f;
    GramAccumulator gram("x", 1);
    gram.add(x.data(), tokens);
    const double expected = static_cast<double>(x[0]) * static_cast<double>(x[0]) / static_cast<double>(tokens);
    EXPECT_NEAR(static_cast<double>(gram.finish()[0]), expected, 0x1p-149 + expected * 1e-6);
}

TEST_F(Gram, MemoryCountsSumsStageAndScratch) {
    set_threads(2);
    kernels::set_isa(kernels::Isa::generic);
    // 100 features: tiles of 64, so rows of 64 × 64 and 36 × 100 sums; 2048 staged tokens; a tile for each thread.
    EXPECT_EQ(GramAccumulator::memory(100), (64u * 64u + 36u * 100u) * 8u + 2048u * 100u * 4u + 2u * 64u * 64u * 4u);
    // Half of a float64 square, and a little.
    EXPECT_LT(GramAccumulator::memory(4096), 1.3 * 4096.0 * 4096.0 * 4.0 + 2048.0 * 4096.0 * 4.0);
}

TEST_F(Gram, ReproducesTheGoldenOne) {
    const auto file = open_safetensors(std::string(KERF_TEST_DATA) + "/golden/gptq-case.safetensors");
    const auto read = [&](const char* name) {
        const StoredTensor* tensor = file->find(name);
        std::vector<float> values(static_cast<std::size_t>(tensor->elements()));
        to_float32(*tensor, values);
        return values;
    };
    const std::int64_t tokens = 512, features = 128;
    const auto x = read("X"), h = read("H");
    GramAccumulator gram("x", features);
    gram.add(x.data(), tokens);
    const auto ours = gram.finish();
    // The reference sums 2/4 · x xᵀ over four windows in float32: rounding of 512 terms, in units of the diagonals.
    for (std::int64_t i = 0; i < features; ++i)
        for (std::int64_t j = 0; j < features; ++j) {
            const auto at = [&](std::int64_t r, std::int64_t c) {
                return static_cast<double>(h[static_cast<std::size_t>(r * features + c)]);
            };
            ASSERT_NEAR(static_cast<double>(ours[static_cast<std::size_t>(i * features + j)]) * 256, at(i, j),
                        4 * std::sqrt(512.0) * roundoff * std::sqrt(at(i, i) * at(j, j)))
                << i << ' ' << j;
        }
}

}  // namespace
}  // namespace kerf::core
