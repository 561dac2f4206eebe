// SPDX-License-Identifier: Apache-2.0
// The reader by itself: what is in a file, and what becomes of a hostile one.
#include <gtest/gtest.h>

#include <functional>

#include "core/weights/gguf.hpp"
#include "tests/unit/gguf_fixture.hpp"

namespace kerf::test {
namespace {

using core::GgufFile;

TEST(GgufFileReader, ReadsMetadataOfEveryType) {
    GgufBuilder builder;
    builder.value("k.u8", GgufBuilder::u8, raw<std::uint8_t>(200))
        .value("k.i8", GgufBuilder::i8, raw<std::int8_t>(-3))
        .value("k.u64", GgufBuilder::u64, raw<std::uint64_t>(1ull << 40))
        .count("k.u32", 7)
        .real("k.f32", 1e-5f)
        .value("k.f64", 12, raw(0.1))
        .flag("k.yes", true)
        .text("k.text", "caf\u00e9")
        .texts("k.texts", {"a", "", "b c"})
        .reals("k.reals", {0.5f, -2})
        .integers("k.integers", {1, -1})
        .value("k.nested", GgufBuilder::array,
               raw(GgufBuilder::array) + raw<std::uint64_t>(1) + raw(GgufBuilder::u8) + raw<std::uint64_t>(2) + "xy");
    const MemoryFile stored(builder.build());
    const GgufFile file(stored.path());
    EXPECT_EQ(file.count("k.u8"), 200u);
    EXPECT_EQ(file.count("k.u64"), 1ull << 40);
    EXPECT_EQ(file.count("k.u32"), 7u);
    EXPECT_EQ(file.count("k.absent", 9), 9u);
    EXPECT_EQ(file.real("k.f32", 0), 1e-5) << "the decimal that the float32 was made of";
    EXPECT_EQ(file.real("k.f64", 0), 0.1);
    EXPECT_EQ(file.real("k.i8", 0), -3);
    EXPECT_TRUE(file.flag("k.yes", false));
    EXPECT_EQ(file.text("k.text"), "caf\u00e9");
    EXPECT_EQ(file.texts("k.texts"), (std::vector<std::string_view>{"a", "", "b c"}));
    EXPECT_EQ(file.numbers("k.reals"), (std::vector<double>{0.5, -2}));
    EXPECT_EQ(file.numbers("k.integers"), (std::vector<double>{1, -1}));
    EXPECT_TRUE(file.is_array("k.nested"));
    for (const auto& [body, word] : std::vector<std::pair<std::function<void()>, std::string>>{
             {[&] { file.count("k.i8"); }, "k.i8 = -3"},
             {[&] { file.count("k.f32"); }, "k.f32 is of type f32"},
             {[&] { file.count("k.none"); }, "lacks the metadata k.none"},
             {[&] { file.flag("k.u32", true); }, "k.u32 is of type u32, not a bool"},
             {[&] { file.text("k.texts"); }, "k.texts is of type array, not a text"},
             {[&] { file.texts("k.reals"); }, "k.reals is not an array of texts"},
             {[&] { file.numbers("k.nested"); }, "k.nested is not an array of numbers"}})
        EXPECT_NE(message_of(body).find(word), std::string::npos) << word;
}

TEST(GgufFileReader, ReadsVersion2AndTensorsInAnyOrderAndAlignment) {
    GgufBuilder builder;
    builder.version = 2;
    builder.alignment = 64;
    builder.count("general.alignment", 64).floats("z", {2, 3}, {1, 2, 3, 4, 5, 6}).floats("a", {1}, {7});
    builder.tensors[0].offset = 64;
    builder.tensors[1].offset = 0;
    std::swap(builder.tensors[0].bytes, builder.tensors[1].bytes);  // "a" lies first
    const MemoryFile stored(builder.build());
    const GgufFile file(stored.path());
    ASSERT_EQ(file.tensors().size(), 2u);
    EXPECT_EQ(file.tensors()[0].name, "a");
    EXPECT_EQ(file.described(file.tensors()[1]).shape, (std::vector<std::int64_t>{2, 3}));
    std::vector<float> values(6);
    core::to_float32(file.tensors()[1], values);
    EXPECT_EQ(values, (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

struct Hostile {
    friend std::ostream& operator<<(std::ostream& out, const Hostile& h) { return out << h.name; }
    const char* name;
    std::function<std::string()> make;
    const char* says;
};

std::string with(const std::function<void(GgufBuilder&)>& change) {
    GgufBuilder builder;
    builder.floats("w", {2, 32}, std::vector<float>(64, 1));
    change(builder);
    return builder.build();
}
std::string patched(std::size_t at, const std::string& bytes) {
    return with([](GgufBuilder&) {}).replace(at, bytes.size(), bytes);
}
std::string one_value(std::uint32_t type, const std::string& bytes) {
    return with([&](GgufBuilder& b) { b.value("k", type, bytes); });
}

constexpr std::uint64_t huge = std::uint64_t{1} << 60;
const std::vector<Hostile> hostile{
    {"Empty", [] { return std::string(); }, "no GGUF file"},
    {"WrongMagic", [] { return patched(0, "GGML"); }, "does not begin with \"GGUF\""},
    {"BigEndian", [] { return patched(4, std::string("\0\0\0\3", 4)); }, "big-endian"},
    {"Version1", [] { return patched(4, raw(1u)); }, "GGUF version 1"},
    {"Version9", [] { return patched(4, raw(9u)); }, "GGUF version 9"},
    {"AbsurdTensors", [] { return with([](GgufBuilder& b) { b.claimed_tensors = huge; }); },
     "claims 1152921504606846976"},
    {"AbsurdValues", [] { return with([](GgufBuilder& b) { b.claimed_values = huge; }); }, "values of metadata"},
    {"MoreTensorsThanThere", [] { return with([](GgufBuilder& b) { b.claimed_tensors = 3; }); }, "tensor name"},
    {"HugeText", [] { return one_value(GgufBuilder::string, raw(huge)); }, "text of 1152921504606846976 bytes"},
    {"HugeKey", [] { return patched(24, raw(huge)); }, "tensor name of 1152921504606846976 bytes"},
    {"HugeArray", [] { return one_value(GgufBuilder::array, raw(GgufBuilder::u64) + raw(huge)); },
     "claims 1152921504606846976 elements of k"},
    {"HugeArrayOfTexts", [] { return one_value(GgufBuilder::array, raw(GgufBuilder::string) + raw(huge)); },
     "elements of k"},
    {"DeeplyNestedArrays",
     [] {
         std::string bytes = raw(GgufBuilder::array) + raw<std::uint64_t>(1);
         for (int i = 0; i < 6; ++i) bytes += bytes.substr(0, 12);
         return one_value(GgufBuilder::array, bytes);
     },
     "nests the arrays of k"},
    {"UnknownValueType", [] { return one_value(13, raw(0u)); }, "type 13"},
    {"BoolOf2", [] { return one_value(GgufBuilder::boolean, "\2"); }, "neither 0 nor 1"},
    {"ControlCharactersInAKey", [] { return with([](GgufBuilder& b) { b.count("k\x1b[2J", 1); }); },
     "control characters"},
    {"KeyTwice", [] { return with([](GgufBuilder& b) { b.count("k", 1).count("k", 1); }); }, "key k twice"},
    {"TensorTwice", [] { return with([](GgufBuilder& b) { b.floats("w", {1}, {0}); }); }, "two tensors of the name w"},
    {"NoDimensions", [] { return with([](GgufBuilder& b) { b.tensors[0].dimensions.clear(); }); }, "0 dimensions"},
    {"FiveDimensions", [] { return with([](GgufBuilder& b) {
                                b.tensors[0].dimensions = {32, 2, 1, 1, 1};
                            }); },
     "5 dimensions"},
    {"DimensionOf0", [] { return with([](GgufBuilder& b) {
                              b.tensors[0].dimensions = {32, 0};
                          }); }, "dimension of 0"},
    {"DimensionBeyond63Bits",
     [] { return with([](GgufBuilder& b) { b.tensors[0].dimensions = {~std::uint64_t{0}}; }); },
     "dimension of 18446744073709551615"},
    {"DimensionsThatOverflow",
     [] { return with([](GgufBuilder& b) {
              b.tensors[0].dimensions = {1u << 31, 1u << 31, 4};
          }); },
     "larger than any file"},
    {"UnknownTensorType", [] { return with([](GgufBuilder& b) { b.tensors[0].type = 77; }); }, "type 77"},
    {"QuantisationWithoutDecoder", [] { return with([](GgufBuilder& b) { b.tensors[0].type = 23; }); }, "is IQ4_XS"},
    {"RowsThatBlocksDoNotFill", [] { return with([](GgufBuilder& b) { b.tensors[0].type = 12; }); }, "blocks of 256"},
    {"OffsetBeyondTheFile", [] { return with([](GgufBuilder& b) { b.tensors[0].offset = 1 << 20; }); }, "cut off"},
    {"OffsetThatOverflows", [] { return with([](GgufBuilder& b) { b.tensors[0].offset = INT64_MAX - 31; }); },
     "but there are only"},
    {"Misaligned", [] { return with([](GgufBuilder& b) { b.tensors[0].offset = 4; }); }, "not aligned to 32"},
    {"Overlapping",
     [] {
         return with([](GgufBuilder& b) {
             b.floats("v", {64}, std::vector<float>(64));
             b.tensors[1].offset = 32;
         });
     },
     "tensor v overlaps tensor w"},
    {"AlignmentOf0", [] { return with([](GgufBuilder& b) { b.count("general.alignment", 0); }); }, "general.alignment"},
    {"AlignmentOf24", [] { return with([](GgufBuilder& b) { b.count("general.alignment", 24); }); }, "power of two"}};

class HostileGguf : public testing::TestWithParam<Hostile> {};

TEST_P(HostileGguf, IsRefusedInOneSentenceThatNamesTheFile) {
    const MemoryFile stored(GetParam().make());
    const std::string message = message_of([&] { const GgufFile file(stored.path()); });
    EXPECT_NE(message.find(GetParam().says), std::string::npos) << message;
    EXPECT_TRUE(message.starts_with(stored.path().string() + ": ")) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(Files, HostileGguf, testing::ValuesIn(hostile),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(GgufFileReader, RefusesAFileCutOffAtAnyByte) {
    const std::string whole = smallest_llama().build();
    for (std::size_t size = 0; size < whole.size(); ++size) {
        const MemoryFile stored(whole.substr(0, size));
        message_of([&] { const GgufFile file(stored.path()); });
        if (HasFailure()) FAIL() << "cut off at byte " << size;
    }
}

TEST(GgufFileReader, ReadsOrRefusesAFileWithAnyByteChanged) {
    const std::string whole = smallest_llama().build();
    for (std::size_t at = 0; at < whole.size(); ++at) {
        for (const char other : {'\0', '\xff', static_cast<char>(whole[at] ^ 0x10)}) {
            std::string changed = whole;
            changed[at] = other;
            const MemoryFile stored(changed);
            ASSERT_TRUE(ends_well([&] {
                const GgufFile file(stored.path());
                for (const auto& tensor : file.tensors()) {
                    std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
                    core::to_float32(tensor, values);
                }
            })) << "byte "
                << at;
        }
    }
}

}  // namespace
}  // namespace kerf::test
