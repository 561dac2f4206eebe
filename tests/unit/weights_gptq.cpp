// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "core/codec/gptq_format.hpp"
#include "core/weights/tensor_file.hpp"
#include "weights_fixture.hpp"

namespace kerf::core {
namespace {

template <class T>
std::vector<T> plain(const StoredTensor& tensor) {
    std::vector<T> values(tensor.bytes.size() / sizeof(T));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
}

std::vector<std::byte> copy_of(const StoredTensor& tensor) {
    return {tensor.bytes.begin(), tensor.bytes.end()};
}

/// A layer that GPTQModel packed.
class Golden : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        const auto folder = std::filesystem::path(KERF_TEST_DATA) / "golden";
        file_ = open_safetensors(folder / "gptq-case.safetensors");
        const auto settings =
            nlohmann::json::parse(test::read_file(folder / "gptq.json"))["case"]["packing"]["cases"][GetParam()];
        const auto& shape = tensor("codes").shape;
        layout_ = {GetParam(), shape[0], shape[1], settings["bits"], settings["group_size"]};
    }
    const StoredTensor& tensor(const std::string& part) { return named("pack." + GetParam() + "." + part); }
    const StoredTensor& named(const std::string& name) {
        const auto* found = file_->find(name);
        if (!found) throw std::runtime_error("the golden file lacks " + name);
        return *found;
    }
    std::vector<float> floats(const StoredTensor& stored) {
        std::vector<float> values(static_cast<std::size_t>(stored.elements()));
        to_float32(stored, values);
        return values;
    }
    GptqPackedView packed(GptqVersion version) {
        return {tensor("gptq.qweight").bytes,
                tensor(version == GptqVersion::v1 ? "gptq.qzeros_v1" : "gptq.qzeros_v2").bytes, tensor("gptq.scales"),
                tensor("gptq.g_idx").bytes};
    }

    std::unique_ptr<TensorFile> file_;
    GptqLayout layout_;
};

TEST_P(Golden, PacksToTheSameBytes) {
    const auto codes = plain<std::uint8_t>(tensor("codes"));
    const auto scales = floats(named(GetParam() + ".scale")), zeros = floats(named(GetParam() + ".zero"));
    const auto groups = plain<std::int32_t>(tensor("gptq.g_idx"));
    const GptqView layer{codes, scales, zeros, groups};
    const auto packed_v2 = gptq_pack(layout_, layer, GptqVersion::v2);
    EXPECT_EQ(packed_v2.qweight, copy_of(tensor("gptq.qweight")));
    EXPECT_EQ(packed_v2.qzeros, copy_of(tensor("gptq.qzeros_v2")));
    EXPECT_EQ(packed_v2.scales, copy_of(tensor("gptq.scales")));
    EXPECT_EQ(packed_v2.g_idx, copy_of(tensor("gptq.g_idx")));
    const bool has_zero = std::find(zeros.begin(), zeros.end(), 0.0f) != zeros.end();
    if (has_zero) {
        const auto message = test::message_of([&] { gptq_pack(layout_, layer, GptqVersion::v1); });
        EXPECT_NE(message.find(GetParam() + ": a zero of 0 has no code"), std::string::npos) << message;
    } else {
        EXPECT_EQ(gptq_pack(layout_, layer, GptqVersion::v1).qzeros, copy_of(tensor("gptq.qzeros_v1")));
    }
}

TEST_P(Golden, UnpacksToCodesScalesZerosAndGroups) {
    auto scales = floats(named(GetParam() + ".scale"));
    round_to(DType::f16, scales);
    const auto zeros = floats(named(GetParam() + ".zero"));
    for (const auto version : {GptqVersion::v1, GptqVersion::v2}) {
        const auto layer = gptq_unpack(layout_, packed(version), version);
        EXPECT_EQ(layer.codes, plain<std::uint8_t>(tensor("codes")));
        EXPECT_EQ(layer.scales, scales);
        EXPECT_EQ(layer.zeros, zeros);
        EXPECT_EQ(layer.group_index, plain<std::int32_t>(tensor("gptq.g_idx")));
    }
}

TEST_P(Golden, DecodesToTheWeightThatTheReferenceQuantised) {
    const auto wanted = floats(named(GetParam() + ".Q"));
    std::vector<float> weight(wanted.size());
    gptq_decode(layout_, packed(GptqVersion::v2), GptqVersion::v2, weight);
    // The only difference is the scale, rounded to float16: half a unit of 11 bits, and float32's own rounding.
    for (std::size_t i = 0; i < wanted.size(); ++i)
        ASSERT_LE(std::abs(weight[i] - wanted[i]), std::abs(wanted[i]) * (0x1p-11f + 0x1p-22f)) << i;
}

TEST_P(Golden, PlansTheShapesOfTheReference) {
    for (const auto& planned : gptq_tensors(layout_)) {
        const std::string part = planned.name.substr(GetParam().size() + 1);
        const auto& stored = tensor("gptq." + (part == "qzeros" ? "qzeros_v1" : part));
        EXPECT_EQ(planned.shape, stored.shape) << part;
        EXPECT_EQ(planned.dtype, stored.dtype) << part;
    }
}

INSTANTIATE_TEST_SUITE_P(Gptq, Golden, testing::Values("w4_g64_sym", "w3_g32", "w2_mse", "w8", "w3_g32_act"),
                         [](const auto& info) { return info.param; });

struct RandomLayer {
    GptqLayout layout;
    std::vector<std::uint8_t> codes;
    std::vector<float> scales, zeros;
    std::vector<std::int32_t> groups;

    RandomLayer(std::mt19937& random, int bits, GptqVersion version) {
        const std::int64_t multiple = bits == 3 ? 32 : 32 / bits;
        layout = {"layer", multiple * (1 + std::int64_t(random() % 9)), multiple * (1 + std::int64_t(random() % 9)),
                  bits, -1};
        if (random() % 2) layout.group_size = 1 + std::int64_t(random() % 40);
        const unsigned range = 1u << bits;
        for (std::int64_t i = 0; i < layout.out * layout.in; ++i)
            codes.push_back(static_cast<std::uint8_t>(random() % range));
        for (std::int64_t i = 0; i < layout.out * layout.groups(); ++i) {
            scales.push_back(static_cast<float>(random() % 1000) / 512.0f -
                             0.5f);  // a multiple of 2^-9 below 2: exact in float16
            zeros.push_back(
                static_cast<float>(version == GptqVersion::v1 ? 1 + random() % (range - 1) : random() % range));
        }
        for (std::int64_t c = 0; c < layout.in; ++c)
            groups.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(layout.groups())));
    }
    GptqView view() const { return {codes, scales, zeros, groups}; }
};

GptqPackedView view_of(const GptqLayout& layout, const GptqPacked& packed) {
    return {packed.qweight,
            packed.qzeros,
            {"scales", DType::f16, {layout.groups(), layout.out}, packed.scales},
            packed.g_idx};
}

TEST(GptqFormat, EveryLayerComesBackBitForBit) {
    std::mt19937 random(2);
    for (int round = 0; round < 200; ++round) {
        const int bits = std::array{2, 3, 4, 8}[static_cast<std::size_t>(round % 4)];
        const auto version = round % 8 < 4 ? GptqVersion::v1 : GptqVersion::v2;
        const RandomLayer layer(random, bits, version);
        const auto packed = gptq_pack(layer.layout, layer.view(), version);
        const auto view = view_of(layer.layout, packed);
        const auto back = gptq_unpack(layer.layout, view, version);
        ASSERT_EQ(back.codes, layer.codes);
        ASSERT_EQ(back.scales, layer.scales);
        ASSERT_EQ(back.zeros, layer.zeros);
        ASSERT_EQ(back.group_index, layer.groups);
        std::vector<float> weight(layer.codes.size());
        gptq_decode(layer.layout, view, version, weight);
        for (std::int64_t o = 0; o < layer.layout.out; ++o)
            for (std::int64_t c = 0; c < layer.layout.in; ++c) {
                const auto i = static_cast<std::size_t>(o * layer.layout.in + c);
                const auto g =
                    static_cast<std::size_t>(o * layer.layout.groups() + layer.groups[static_cast<std::size_t>(c)]);
                ASSERT_EQ(weight[i], layer.scales[g] * (static_cast<float>(layer.codes[i]) - layer.zeros[g]));
            }
    }
}

TEST(GptqFormat, WithoutGroupIndexColumnsGroupInOrder) {
    std::mt19937 random(4);
    RandomLayer layer(random, 4, GptqVersion::v2);
    layer.layout = {"layer", 8, 32, 4, 16};
    layer.codes.assign(8 * 32, 5);
    layer.scales.assign(16, 0.5f);
    layer.zeros.assign(16, 3.0f);
    layer.groups.assign(32, 0);
    const auto packed = gptq_pack(layer.layout, layer.view(), GptqVersion::v2);
    auto view = view_of(layer.layout, packed);
    view.g_idx = {};
    const auto back = gptq_unpack(layer.layout, view, GptqVersion::v2);
    for (int c = 0; c < 32; ++c) EXPECT_EQ(back.group_index[static_cast<std::size_t>(c)], c / 16);
}

TEST(GptqFormat, RefusesShapesThatItCannotHoldByTheLayersName) {
    const auto message = [](std::int64_t out, std::int64_t in, int bits, std::int64_t group) {
        return test::message_of([&] { gptq_tensors({"model.layers.3.fc1", out, in, bits, group}); });
    };
    EXPECT_EQ(message(8, 12, 4, -1)
                  .find("model.layers.3.fc1: the gptq format holds 4-bit weights of a multiple of 8 inputs, not of 12"),
              0u);
    EXPECT_NE(message(12, 8, 4, -1).find("multiple of 8 outputs, not of 12"), std::string::npos);
    EXPECT_NE(message(32, 40, 3, -1).find("multiple of 32 inputs"), std::string::npos);
    EXPECT_NE(message(8, 16, 2, -1).find("multiple of 16 outputs"), std::string::npos);
    EXPECT_NE(message(0, 16, 8, -1).find("not of 0"), std::string::npos);
    EXPECT_NE(message(32, 32, 5, -1).find("not 5"), std::string::npos);
    EXPECT_NE(message(32, 32, 4, 0).find("group size of 0"), std::string::npos);
    EXPECT_NE(message(32, 32, 4, -2).find("group size of -2"), std::string::npos);
}

TEST(GptqFormat, RefusesValuesThatItCannotHold) {
    std::mt19937 random(6);
    const RandomLayer good(random, 3, GptqVersion::v1);
    const auto message = [&](auto change, GptqVersion version) {
        RandomLayer layer = good;
        change(layer);
        return test::message_of([&] { gptq_pack(layer.layout, layer.view(), version); });
    };
    const auto v1 = GptqVersion::v1, v2 = GptqVersion::v2;
    EXPECT_NE(message([](auto& layer) { layer.codes[5] = 8; }, v2).find("code 8"), std::string::npos);
    EXPECT_NE(message([](auto& layer) { layer.zeros[0] = 0; }, v1).find("gptq_v2"), std::string::npos);
    EXPECT_NE(message([](auto& layer) { layer.zeros[0] = 8; }, v1).find("from 1 to 7"), std::string::npos);
    EXPECT_NE(message([](auto& layer) { layer.zeros[0] = 8; }, v2).find("from 0 to 7"), std::string::npos);
    EXPECT_NE(message([](auto& layer) { layer.zeros[0] = 2.5f; }, v2).find("not an integer"), std::string::npos);
    EXPECT_NE(message([](auto& layer) { layer.zeros[0] = NAN; }, v2).find("not an integer"), std::string::npos);
    EXPECT_NE(message([](auto& layer) { layer.scales[0] = 65520.0f; }, v2).find("does not fit float16"),
              std::string::npos);
    EXPECT_NE(message([](auto& layer) { layer.scales[0] = NAN; }, v2).find("does not fit float16"), std::string::npos);
    EXPECT_NE(message([](auto& layer) { layer.groups[0] = 1000; }, v2).find("group 1000"), std::string::npos);
    EXPECT_NE(message([](auto& layer) { layer.groups[0] = -1; }, v2).find("group -1"), std::string::npos);
}

TEST(GptqFormat, RefusesPackedTensorsOfAnotherSize) {
    std::mt19937 random(8);
    const RandomLayer layer(random, 4, GptqVersion::v2);
    const auto packed = gptq_pack(layer.layout, layer.view(), GptqVersion::v2);
    const auto message = [&](auto change) {
        auto view = view_of(layer.layout, packed);
        change(view);
        return test::message_of([&] { gptq_unpack(layer.layout, view, GptqVersion::v2); });
    };
    EXPECT_NE(message([](auto& view) { view.qweight = view.qweight.subspan(4); }).find("layer: qweight has"),
              std::string::npos);
    EXPECT_NE(message([](auto& view) { view.qzeros = {}; }).find("layer: qzeros has 0 bytes"), std::string::npos);
    EXPECT_NE(message([](auto& view) { view.scales.bytes = {}; }).find("layer: scales has"), std::string::npos);
    EXPECT_NE(message([](auto& view) { view.g_idx = view.g_idx.first(3); }).find("layer: g_idx has 3"),
              std::string::npos);
}

}  // namespace
}  // namespace kerf::core
