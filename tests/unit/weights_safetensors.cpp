// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <random>

#include "core/weights/tensor_file.hpp"
#include "weights_fixture.hpp"

namespace kerf::core {
namespace {

using test::raw;
using test::raw_all;
using test::safetensors_file;

std::filesystem::path test_data(const std::string& name) {
    return std::filesystem::path(KERF_TEST_DATA) / name;
}

const std::string valid_header =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2],"data_offsets":[8,12]},)"
    R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"empty":{"dtype":"F32","shape":[0,4],"data_offsets":[12,12]}}   )";
const std::string valid_data = raw_all<float>({1.5f, -2.0f}) + raw_all<std::uint16_t>({0x3c00, 0xc000});

TEST(Safetensors, ShowsNamesShapesTypesAndBytes) {
    const test::TemporaryFolder folder;
    const auto file = open_safetensors(folder.write("x.safetensors", safetensors_file(valid_header, valid_data)));
    ASSERT_EQ(file->tensors().size(), 3u);
    EXPECT_EQ(file->metadata().at("format"), "pt");
    const auto* a = file->find("a");
    ASSERT_NE(a, nullptr);
    EXPECT_EQ(a->dtype, DType::f32);
    EXPECT_EQ(a->shape, (std::vector<std::int64_t>{1, 2}));
    std::vector<float> values(2);
    to_float32(*a, values);
    EXPECT_EQ(values, (std::vector<float>{1.5f, -2.0f}));
    to_float32(*file->find("b"), values);
    EXPECT_EQ(values, (std::vector<float>{1.0f, -2.0f}));
    EXPECT_EQ(file->find("empty")->elements(), 0);
    EXPECT_EQ(file->find("c"), nullptr);
    file->forget(*a);
    to_float32(*a, values);
    EXPECT_EQ(values[0], 1.5f) << "forgotten pages come back from the file";
}

TEST(Safetensors, AFileWithoutTensorsIsValid) {
    const test::TemporaryFolder folder;
    EXPECT_TRUE(open_safetensors(folder.write("x.safetensors", safetensors_file("{}", "")))->tensors().empty());
}

TEST(Safetensors, OpensARealModel) {
    const auto file = open_safetensors(test_data("models/llama-tiny/model.safetensors"));
    const auto* embedding = file->find("model.embed_tokens.weight");
    ASSERT_NE(embedding, nullptr);
    EXPECT_EQ(embedding->shape.size(), 2u);
    std::uint64_t bytes = 0;
    for (const auto& tensor : file->tensors()) bytes += tensor.bytes.size();
    EXPECT_EQ(bytes, 8'000'000u);
}

struct Hostile {
    std::string what, content, message;
};

std::string one_tensor(const std::string& fields, std::size_t data_bytes = 4) {
    return safetensors_file("{\"t\":{" + fields + "}}", std::string(data_bytes, '\0'));
}

std::vector<Hostile> hostile_files() {
    const std::string good = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
    const auto entry = [](const std::string& name, int begin, int end) {
        return "\"" + name + R"(":{"dtype":"U8","shape":[)" + std::to_string(end - begin) + R"(],"data_offsets":[)" +
               std::to_string(begin) + "," + std::to_string(end) + "]}";
    };
    return {
        {"empty file", "", "too few"},
        {"seven bytes", "1234567", "too few"},
        {"header of 2^60 bytes", raw<std::uint64_t>(1ull << 60) + "{}", "header of 1152921504606846976 bytes"},
        {"header of 2^64 - 1 bytes", raw(~std::uint64_t{0}) + "{}", "header of 18446744073709551615 bytes"},
        {"header past the end", raw<std::uint64_t>(3) + "{}", "only 2 follow"},
        {"header of no bytes", raw<std::uint64_t>(0), "does not begin with {"},
        {"a list", safetensors_file("[]", ""), "does not begin with {"},
        {"a text", safetensors_file("\"x\"", ""), "does not begin with {"},
        {"blank before the object", safetensors_file(" {}", ""), "does not begin with {"},
        {"cut off JSON", safetensors_file("{\"t\":{", ""), "not valid JSON"},
        {"more after the object", safetensors_file("{}{}", ""), "not valid JSON"},
        {"zero byte after the object", safetensors_file(std::string("{}\0<html>", 9), ""), "zero byte"},
        {"comment", safetensors_file("{}//x", ""), "not valid JSON"},
        {"bad UTF-8", safetensors_file("{\"\xff\xfe\":{" + good + "}}", "1234"), "UTF-8"},
        {"overlong UTF-8", safetensors_file("{\"\xc0\xaf\":{" + good + "}}", "1234"), "UTF-8"},
        {"half a surrogate", safetensors_file(R"({"\ud800":{)" + good + "}}", "1234"), "not valid JSON"},
        {"control characters in a name", safetensors_file(R"({"\u001b[2J":{)" + good + "}}", "1234"),
         "control characters"},
        {"deep nesting", safetensors_file("{\"t\":" + std::string(100000, '['), ""), "a list where it cannot be"},
        {"deep objects",
         safetensors_file(
             [] {
                 std::string deep = "{";
                 for (int i = 0; i < 100000; ++i) deep += "\"t\":{";
                 return deep;
             }(),
             ""),
         "an object where it cannot be"},
        {"entry that is a number", safetensors_file("{\"t\":4}", ""), "a number where it cannot be"},
        {"entry that is null", safetensors_file("{\"t\":null}", ""), "null where it cannot be"},
        {"entry that is a list", safetensors_file("{\"t\":[]}", ""), "a list where it cannot be"},
        {"metadata that is a text", safetensors_file(R"({"__metadata__":"x"})", ""), "a text where it cannot be"},
        {"metadata of numbers", safetensors_file(R"({"__metadata__":{"a":1}})", ""), "a number where it cannot be"},
        {"metadata of objects", safetensors_file(R"({"__metadata__":{"a":{}}})", ""), "an object where it cannot be"},
        {"metadata twice", safetensors_file(R"({"__metadata__":{},"__metadata__":{}})", ""), "__metadata__ twice"},
        {"metadata key twice", safetensors_file(R"({"__metadata__":{"a":"","a":""}})", ""), "key \"a\" twice"},
        {"unknown dtype", one_tensor(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])"),
         "tensor t has the dtype \"F31\""},
        {"recipe spelling of a dtype", one_tensor(R"("dtype":"float32","shape":[1],"data_offsets":[0,4])"),
         "tensor t has the dtype"},
        {"dtype that is a number", one_tensor(R"("dtype":3,"shape":[1],"data_offsets":[0,4])"), "in tensor t"},
        {"no dtype", one_tensor(R"("shape":[1],"data_offsets":[0,4])"), "tensor t lacks"},
        {"no shape", one_tensor(R"("dtype":"F32","data_offsets":[0,4])"), "tensor t lacks"},
        {"no offsets", one_tensor(R"("dtype":"F32","shape":[1])"), "tensor t lacks"},
        {"one offset", one_tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), "tensor t lacks"},
        {"three offsets", one_tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), "more than two"},
        {"unknown field", one_tensor(good + R"(,"strides":[1])"), "in tensor t"},
        {"dtype twice", one_tensor(good + R"(,"dtype":"F32")"), "\"dtype\" of tensor t twice"},
        {"shape twice", one_tensor(good + R"(,"shape":[1])"), "\"shape\" of tensor t twice"},
        {"offsets twice", one_tensor(good + R"(,"data_offsets":[0,4])"), "\"data_offsets\" of tensor t twice"},
        {"negative shape", one_tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), "negative number -1"},
        {"fractional shape", one_tensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), "the number 1.0"},
        {"shape past 64 bits", one_tensor(R"("dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4])"),
         "the number 99999999999999999999"},
        {"shape past 63 bits", one_tensor(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4])"),
         "dimension of 9223372036854775808"},
        {"shape whose product wraps to 1",
         one_tensor(R"("dtype":"F32","shape":[6148914691236517205,3],"data_offsets":[0,4])"), "more than 2^63"},
        {"shape whose product wraps to 0",
         one_tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0), "more than 2^63"},
        {"nested shape", one_tensor(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"),
         "a list where it cannot be"},
        {"text in a shape", one_tensor(R"("dtype":"F32","shape":["1"],"data_offsets":[0,4])"),
         "a text where it cannot be"},
        {"too many dimensions",
         one_tensor(R"("dtype":"F32","shape":[1)" +
                    [] {
                        std::string ones;
                        for (int i = 0; i < 64; ++i) ones += ",1";
                        return ones;
                    }() +
                    R"(],"data_offsets":[0,4])"),
         "more than 64 dimensions"},
        {"shape and bytes differ", one_tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), "takes 8 bytes"},
        {"offsets reversed", one_tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), "before it begins"},
        {"offset past the end", one_tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), "cut off"},
        {"offset of 2^64 - 1", one_tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551615])"),
         "cut off"},
        {"hole before the first", one_tensor(R"("dtype":"U8","shape":[3],"data_offsets":[1,4])"), "hole of 1 bytes"},
        {"hole between two", safetensors_file("{" + entry("a", 0, 2) + "," + entry("b", 3, 4) + "}", "1234"),
         "tensor b begins at byte 3"},
        {"bytes after the last", safetensors_file("{" + entry("a", 0, 2) + "}", "1234"),
         "2 bytes follow the last tensor"},
        {"overlap", safetensors_file("{" + entry("a", 0, 3) + "," + entry("b", 2, 4) + "}", "1234"),
         "tensor b overlaps"},
        {"one tensor inside another", safetensors_file("{" + entry("a", 0, 4) + "," + entry("b", 1, 2) + "}", "1234"),
         "tensor b overlaps"},
        {"the same bytes twice", safetensors_file("{" + entry("a", 0, 4) + "," + entry("b", 0, 4) + "}", "1234"),
         "overlaps"},
        {"one name twice", safetensors_file("{" + entry("a", 0, 2) + "," + entry("a", 2, 4) + "}", "1234"),
         "two tensors of the name a"},
    };
}

TEST(Safetensors, RefusesEveryHostileFileInWords) {
    const test::TemporaryFolder folder;
    for (const auto& hostile : hostile_files()) {
        SCOPED_TRACE(hostile.what);
        const auto path = folder.write("bad.safetensors", hostile.content);
        const auto message = test::message_of([&] { open_safetensors(path); });
        EXPECT_NE(message.find(hostile.message), std::string::npos) << message;
        EXPECT_EQ(message.find(path.string()), 0u) << message;
        EXPECT_LT(message.size(), 600u);
    }
}

TEST(Safetensors, RefusesWhatIsNoFile) {
    const test::TemporaryFolder folder;
    EXPECT_NE(test::message_of([&] { open_safetensors(folder / "none"); }).find("no such file"), std::string::npos);
    EXPECT_NE(test::message_of([&] { open_safetensors(folder.path()); }).find("regular file"), std::string::npos);
}

TEST(Safetensors, RefusesAFileThatIsCutOffAnywhere) {
    const std::string whole = safetensors_file(valid_header, valid_data);
    for (std::size_t length = 0; length < whole.size(); ++length) {
        const test::MemoryFile cut(whole.substr(0, length));
        test::message_of([&] { open_safetensors(cut.path()); });
    }
}

TEST(Safetensors, NoFlippedByteCrashesTheReader) {
    const std::string whole = safetensors_file(valid_header, valid_data);
    std::mt19937 random(11);
    const auto start = std::chrono::steady_clock::now();
    int opened = 0;
    for (int round = 0; round < 5000; ++round) {
        std::string mutated = whole;
        for (unsigned flips = 1 + random() % 4; flips > 0; --flips)
            mutated[random() % mutated.size()] = static_cast<char>(random());
        const test::MemoryFile on_disk(mutated);
        ASSERT_TRUE(test::ends_well([&] {
            const auto file = open_safetensors(on_disk.path());
            for (const auto& tensor : file->tensors()) {
                std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
                ASSERT_LE(values.size(), mutated.size());
                to_float32(tensor, values);
            }
            ++opened;
        })) << "round "
            << round;
    }
    EXPECT_GT(opened, 0) << "some flips hit only the data";
    EXPECT_LT(opened, 5000);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::minutes(2));
}

}  // namespace
}  // namespace kerf::core
