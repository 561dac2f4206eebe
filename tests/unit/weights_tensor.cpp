// SPDX-License-Identifier: Apache-2.0
#include "core/weights/tensor.hpp"

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "weights_fixture.hpp"

namespace kerf::core {
namespace {

std::vector<float> widened(DType dtype, const std::string& bytes) {
    const auto count = static_cast<std::int64_t>(bytes.size() / dtype_bytes(dtype));
    std::vector<float> out(static_cast<std::size_t>(count));
    to_float32({"t", dtype, {count}, std::as_bytes(std::span(bytes))}, out);
    return out;
}

std::uint16_t narrowed(DType dtype, float value) {
    std::uint16_t out = 0;
    from_float32(std::span(&value, 1), dtype, std::as_writable_bytes(std::span(&out, 1)));
    return out;
}

/// The value of a 16-bit code by the definition of its format.
double defined_value(std::uint16_t code, int exponent_bits) {
    const int mantissa_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (code & 0x7fff) >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);
    const double sign = (code & 0x8000) ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1) return mantissa ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

class SixteenBits : public testing::TestWithParam<std::pair<DType, int>> {};

TEST_P(SixteenBits, EveryCodeWidensToItsDefinitionAndBack) {
    const auto [dtype, exponent_bits] = GetParam();
    for (int code = 0; code < 65536; ++code) {
        const auto bits = static_cast<std::uint16_t>(code);
        const float value = widened(dtype, test::raw(bits))[0];
        const double wanted = defined_value(bits, exponent_bits);
        if (std::isnan(wanted)) {
            ASSERT_TRUE(std::isnan(value)) << code;
            ASSERT_TRUE(std::isnan(widened(dtype, test::raw(narrowed(dtype, value)))[0])) << code;
        } else {
            ASSERT_EQ(static_cast<double>(value), wanted) << code;
            ASSERT_EQ(std::signbit(value), (code & 0x8000) != 0) << code;
            ASSERT_EQ(narrowed(dtype, value), bits);
        }
    }
}

TEST_P(SixteenBits, HalfWayRoundsToEvenAndTheRestToNearest) {
    const auto [dtype, exponent_bits] = GetParam();
    const int infinity = ((1 << exponent_bits) - 1) << (15 - exponent_bits);
    for (int code = 0; code + 1 < infinity; ++code) {
        const double low = defined_value(static_cast<std::uint16_t>(code), exponent_bits);
        const double high = defined_value(static_cast<std::uint16_t>(code + 1), exponent_bits);
        const auto middle = static_cast<float>((low + high) / 2);  // exact: one bit more than 11 or 8
        ASSERT_EQ(narrowed(dtype, middle), code + code % 2) << code;
        ASSERT_EQ(narrowed(dtype, std::nextafter(middle, 0.0f)), code) << code;
        ASSERT_EQ(narrowed(dtype, std::nextafter(middle, INFINITY)), code + 1) << code;
        ASSERT_EQ(narrowed(dtype, -middle), 0x8000 + code + code % 2) << code;
    }
}

TEST_P(SixteenBits, RoundingInPlaceIsStoringAndLoading) {
    const auto [dtype, exponent_bits] = GetParam();
    std::mt19937 random(7);
    std::vector<float> values(10007);
    for (float& value : values) value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    std::string stored(values.size() * 2, '\0');
    from_float32(values, dtype, std::as_writable_bytes(std::span(stored)));
    const auto loaded = widened(dtype, stored);
    auto rounded = values;
    round_to(dtype, rounded);
    for (std::size_t i = 0; i < values.size(); ++i) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(rounded[i]), std::bit_cast<std::uint32_t>(loaded[i]));
        ASSERT_EQ(std::isnan(rounded[i]), std::isnan(values[i]));
    }
}

INSTANTIATE_TEST_SUITE_P(Formats, SixteenBits, testing::Values(std::pair{DType::f16, 5}, std::pair{DType::bf16, 8}),
                         [](const auto& info) { return std::string(dtype_name(info.param.first)); });

TEST(Tensor, Float16OverflowsFrom65520On) {
    EXPECT_EQ(narrowed(DType::f16, 65519.996f), 0x7bff);
    EXPECT_EQ(narrowed(DType::f16, 65520.0f), 0x7c00);
    EXPECT_EQ(narrowed(DType::f16, -std::numeric_limits<float>::max()), 0xfc00);
    EXPECT_EQ(narrowed(DType::bf16, std::numeric_limits<float>::max()), 0x7f80);
}

TEST(Tensor, EightBitFloatsAreAsTheOcpFormatsDefineThem) {
    const auto e4m3 = widened(DType::f8_e4m3, {'\x7e', '\x01', '\x38', '\xb8', '\x08', '\x7f'});
    EXPECT_EQ(std::vector<float>(e4m3.begin(), e4m3.begin() + 5), (std::vector<float>{448, 0x1p-9f, 1, -1, 0x1p-6f}));
    EXPECT_TRUE(std::isnan(e4m3[5]));
    const auto e5m2 = widened(DType::f8_e5m2, {'\x7b', '\x01', '\x3c', '\xfc'});
    EXPECT_EQ(e5m2, (std::vector<float>{57344, 0x1p-16f, 1, -INFINITY}));
}

TEST(Tensor, IntegersWidenByValue) {
    EXPECT_EQ(widened(DType::i64, test::raw_all<std::int64_t>({-3, 1ll << 40})), (std::vector<float>{-3, 0x1p40f}));
    EXPECT_EQ(widened(DType::i32, test::raw_all<std::int32_t>({-3, 70000})), (std::vector<float>{-3, 70000}));
    EXPECT_EQ(widened(DType::i16, test::raw_all<std::int16_t>({-3, 3000})), (std::vector<float>{-3, 3000}));
    EXPECT_EQ(widened(DType::i8, test::raw_all<std::int8_t>({-3, 100})), (std::vector<float>{-3, 100}));
    EXPECT_EQ(widened(DType::u8, test::raw_all<std::uint8_t>({3, 200})), (std::vector<float>{3, 200}));
    EXPECT_EQ(widened(DType::u16, test::raw_all<std::uint16_t>({3, 60000})), (std::vector<float>{3, 60000}));
    EXPECT_EQ(widened(DType::u32, test::raw_all<std::uint32_t>({3, 1u << 31})), (std::vector<float>{3, 0x1p31f}));
    EXPECT_EQ(widened(DType::u64, test::raw_all<std::uint64_t>({3, 1ull << 63})), (std::vector<float>{3, 0x1p63f}));
    EXPECT_EQ(widened(DType::f64, test::raw_all<double>({-0.5, 1e300})), (std::vector<float>{-0.5f, INFINITY}));
    EXPECT_EQ(widened(DType::boolean, test::raw_all<std::uint8_t>({0, 1, 7})), (std::vector<float>{0, 1, 1}));
}

TEST(Tensor, ReadsFromAnyAlignment) {
    const std::vector<float> values{1.5f, -2.25f};
    std::vector<std::byte> bytes(9);
    std::memcpy(bytes.data() + 1, values.data(), 8);
    std::vector<float> out(2);
    to_float32({"t", DType::f32, {2}, std::span<const std::byte>(bytes).subspan(1)}, out);
    EXPECT_EQ(out, values);
}

TEST(Tensor, FindsTheFirstNonFiniteValueWhereverItIs) {
    std::vector<float> values(10000, std::numeric_limits<float>::max());
    values[3] = -std::numeric_limits<float>::denorm_min();
    EXPECT_EQ(first_non_finite(values), -1);
    EXPECT_EQ(first_non_finite({}), -1);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
        for (const std::size_t at : {9999u, 8192u, 4096u, 4095u, 1u, 0u}) {
            values[at] = bad;
            EXPECT_EQ(first_non_finite(values), static_cast<std::int64_t>(at));
        }
        std::fill(values.begin(), values.end(), 0.0f);
    }
}

TEST(Tensor, EveryDtypeIsFoundByItsName) {
    for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
        const auto dtype = static_cast<DType>(i);
        EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
    }
    EXPECT_EQ(dtype_from_name("bfloat16"), DType::bf16);
    EXPECT_EQ(dtype_from_name("float32"), DType::f32);
    EXPECT_EQ(dtype_from_name("F4"), std::nullopt);
}

TEST(Tensor, SizesThatOverflowAreNoSizes) {
    EXPECT_EQ(tensor_bytes(DType::f32, {3, 5}), 60u);
    EXPECT_EQ(tensor_bytes(DType::f16, {}), 2u);
    EXPECT_EQ(tensor_bytes(DType::i64, {0, 1ll << 62}), 0u);
    EXPECT_EQ(tensor_bytes(DType::f32, {1ll << 31, 1ll << 31}), std::nullopt);
    EXPECT_EQ(tensor_bytes(DType::u8, {-1}), std::nullopt);
    EXPECT_EQ(tensor_bytes(DType::u8, {-1, -1}), std::nullopt);
}

TEST(Tensor, StoresOnlyTheThreeTypesOfWeights) {
    float value = 1;
    std::byte out[8]{};
    test::message_of([&] { from_float32({&value, 1}, DType::i8, std::span(out).first(1)); }, Fault::internal);
    test::message_of([&] { round_to(DType::u8, {&value, 1}); }, Fault::internal);
    test::message_of([&] { from_float32({&value, 1}, DType::f16, out); }, Fault::internal);
}

}  // namespace
}  // namespace kerf::core
