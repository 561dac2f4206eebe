// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <functional>
#include <random>

#include "core/weights/tensor_file.hpp"
#include "weights_fixture.hpp"

namespace kerf::core {
namespace {

using test::ArchiveBuilder;
using test::raw;
using test::raw_all;

std::vector<float> values_of(const TensorFile& file, const std::string& name) {
    const auto* tensor = file.find(name);
    if (!tensor) throw std::runtime_error("no tensor " + name);
    std::vector<float> values(static_cast<std::size_t>(tensor->elements()));
    to_float32(*tensor, values);
    return values;
}

const std::string six_floats = raw_all<float>({0, 1, 2, 3, 4, 5});

/// One storage of six floats, and these tensors in it.
ArchiveBuilder archive_of(const std::vector<std::pair<std::string, std::string>>& tensors) {
    ArchiveBuilder archive;
    archive.add_storage("0", six_floats);
    for (const auto& [name, value] : tensors) archive.add(name, value);
    return archive;
}

std::string six(std::int64_t offset, const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides) {
    return ArchiveBuilder::tensor(ArchiveBuilder::storage("FloatStorage", "0", 6), offset, shape, strides);
}

std::unique_ptr<TensorFile> open_bytes(const std::string& bytes) {
    const test::MemoryFile file(bytes);
    return open_torch_archive(file.path());
}

TEST(TorchArchive, OpensARealModel) {
    const auto file = open_torch_archive(std::filesystem::path(KERF_TEST_DATA) / "models/opt-tiny/pytorch_model.bin");
    EXPECT_EQ(file->tensors().size(), 69u) << "68 storages, one of them shared";
    const auto* embedding = file->find("model.decoder.embed_tokens.weight");
    ASSERT_NE(embedding, nullptr);
    EXPECT_EQ(embedding->dtype, DType::f16);
    EXPECT_EQ(embedding->shape, (std::vector<std::int64_t>{2048, 256}));
    for (const auto& tensor : file->tensors())
        EXPECT_EQ(first_non_finite(values_of(*file, tensor.name)), -1) << tensor.name;
    const auto* head = file->find("lm_head.weight");
    ASSERT_NE(head, nullptr);
    EXPECT_EQ(head->bytes.data(), embedding->bytes.data()) << "tied weights share one storage";
}

TEST(TorchArchive, ContiguousViewsAreMappedAndStridedOnesCopied) {
    const auto file = open_bytes(archive_of({{"whole", six(0, {2, 3}, {3, 1})},
                                             {"transposed", six(0, {3, 2}, {1, 3})},
                                             {"row", six(3, {1, 3}, {100, 1})},
                                             {"column", six(1, {2}, {3})},
                                             {"one", six(4, {}, {})},
                                             {"none", six(0, {0, 3}, {3, 1})},
                                             {"unit", six(5, {1, 1}, {INT64_MAX, 7})}})
                                     .build());
    EXPECT_EQ(values_of(*file, "whole"), (std::vector<float>{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(values_of(*file, "transposed"), (std::vector<float>{0, 3, 1, 4, 2, 5}));
    EXPECT_EQ(values_of(*file, "row"), (std::vector<float>{3, 4, 5}));
    EXPECT_EQ(values_of(*file, "column"), (std::vector<float>{1, 4}));
    EXPECT_EQ(values_of(*file, "one"), (std::vector<float>{4}));
    EXPECT_EQ(values_of(*file, "none"), std::vector<float>{});
    EXPECT_EQ(values_of(*file, "unit"), (std::vector<float>{5}));
    EXPECT_EQ(file->find("row")->bytes.data(), file->find("whole")->bytes.data() + 12);
    for (const auto& tensor : file->tensors()) file->forget(tensor);
    EXPECT_EQ(values_of(*file, "transposed"), (std::vector<float>{0, 3, 1, 4, 2, 5})) << "copies are not forgotten";
    EXPECT_EQ(values_of(*file, "whole"), (std::vector<float>{0, 1, 2, 3, 4, 5}));
}

TEST(TorchArchive, RandomStridedViewsReadAsTheirDefinition) {
    std::mt19937 random(3);
    for (int round = 0; round < 200; ++round) {
        std::vector<std::int64_t> shape, strides, order{0, 1, 2};
        for (int d = 0; d < 3; ++d) shape.push_back(1 + static_cast<std::int64_t>(random() % 4));
        std::shuffle(order.begin(), order.end(), random);
        strides.assign(3, 0);
        std::int64_t stride = 1 + static_cast<std::int64_t>(random() % 2);
        for (const auto d : order) {
            strides[static_cast<std::size_t>(d)] = stride;
            stride *= shape[static_cast<std::size_t>(d)];
        }
        const auto offset = static_cast<std::int64_t>(random() % 3);
        std::vector<float> storage(static_cast<std::size_t>(offset + stride));
        for (auto& value : storage) value = static_cast<float>(random() % 1000);
        ArchiveBuilder archive;
        archive.add_storage("7", raw_all(storage));
        archive.add("t", ArchiveBuilder::tensor(
                             ArchiveBuilder::storage("FloatStorage", "7", static_cast<std::int64_t>(storage.size())),
                             offset, shape, strides));
        std::vector<float> wanted;
        for (std::int64_t i = 0; i < shape[0]; ++i)
            for (std::int64_t j = 0; j < shape[1]; ++j)
                for (std::int64_t k = 0; k < shape[2]; ++k)
                    wanted.push_back(
                        storage[static_cast<std::size_t>(offset + i * strides[0] + j * strides[1] + k * strides[2])]);
        ASSERT_EQ(values_of(*open_bytes(archive.build()), "t"), wanted) << round;
    }
}

TEST(TorchArchive, ParametersAndMetadataAreUnderstood) {
    ArchiveBuilder archive;
    archive.add_storage("0", six_floats);
    // OrderedDict() with a parameter set by SETITEM, and attributes as state_dict() hangs them on.
    archive.pickle =
        "\x80\x02"
        "ccollections\nOrderedDict\n)Rq" +
        raw<std::uint8_t>(0) + ArchiveBuilder::word("p") + "ctorch._utils\n_rebuild_parameter\n(" + six(0, {6}, {1}) +
        "\x88"
        "ccollections\nOrderedDict\n)RtRs}" +
        ArchiveBuilder::word("_metadata") + "}sb.";
    archive.finished = true;
    EXPECT_EQ(values_of(*open_bytes(archive.build()), "p"), (std::vector<float>{0, 1, 2, 3, 4, 5}));
}

TEST(TorchArchive, Zip64ArchivesOpenToo) {
    auto archive = archive_of({{"t", six(0, {6}, {1})}});
    archive.zip.zip64 = true;
    EXPECT_EQ(values_of(*open_bytes(archive.build()), "t")[5], 5.0f);
}

TEST(TorchArchive, ByteOrderIsHeeded) {
    auto little = archive_of({{"t", six(0, {6}, {1})}});
    little.zip.add("archive/byteorder", "little");
    EXPECT_NE(open_bytes(little.build())->find("t"), nullptr);
    auto big = archive_of({{"t", six(0, {6}, {1})}});
    big.zip.add("archive/byteorder", "big");
    EXPECT_NE(test::message_of([&] { open_bytes(big.build()); }).find("big-endian"), std::string::npos);
}

struct Hostile {
    std::string what, message;
    std::string pickle;  // after the protocol, whole
};

std::vector<Hostile> hostile_pickles() {
    const auto word = [](const std::string& text) { return ArchiveBuilder::word(text); };
    const std::string good = six(0, {6}, {1});
    std::string deep(200000, '(');
    deep += std::string(200000, 't') + ".";
    std::string nested = ")";
    for (int i = 0; i < 300000; ++i) nested += '\x85';
    return {
        {"os.system", "names posix.system", "cposix\nsystem\n(" + word("touch /tmp/owned") + "tR."},
        {"builtins.eval", "names builtins.eval", "cbuiltins\neval\n(" + word("1") + "tR."},
        {"old builtins", "names __builtin__.eval", "c__builtin__\neval\n."},
        {"subprocess", "names subprocess.Popen", "csubprocess\nPopen\n."},
        {"torch.load", "names torch.load", "ctorch\nload\n."},
        {"dotted name", "names torch._utils._rebuild_tensor_v2.__globals__",
         "ctorch._utils\n_rebuild_tensor_v2.__globals__\n."},
        {"escape codes in a name", "names ?[2J.x", "c\x1b[2J\nx\n."},
        {"STACK_GLOBAL", "opcode 147", word("posix") + word("system") + "\x93."},
        {"INST", "opcode 105", "(iposix\nsystem\n."},
        {"OBJ", "opcode 111", "(ccollections\nOrderedDict\no."},
        {"NEWOBJ", "opcode 129", "ccollections\nOrderedDict\n)\x81."},
        {"EXT1", "opcode 130", "\x82\x01."},
        {"PERSID", "opcode 80", "Pstorage\n."},
        {"unknown opcode", "opcode 255", "\xff."},
        {"protocol 5", "protocol 5", "\x80\x05}."},
        {"nothing", "leaves 0 values", "."},
        {"two values", "leaves 2 values", "}}."},
        {"open mark", "leaves 1 values", "(}."},
        {"more after the end", "goes on for 1 bytes", "}.}"},
        {"stack underflow", "takes more values", "R."},
        {"underflow through a mark", "takes more values", "}(\x85."},
        {"no mark", "no mark", "}u."},
        {"memo that was never kept", "recalls value 9", "h\x09."},
        {"memo of nothing", "takes more values", "q" + raw<std::uint8_t>(0) + "."},
        {"a list of tensors", "holds a list", "]."},
        {"a number as a name", "an integer as a tensor's name", "}K" + raw<std::uint8_t>(1) + good + "s."},
        {"a number as a tensor", "holds an integer under t", "}" + word("t") + "K" + raw<std::uint8_t>(1) + "s."},
        {"one name twice", "two tensors of the name t", "}(" + word("t") + good + word("t") + good + "u."},
        {"control characters in a name", "control characters", "}" + word("\x1b[2J") + good + "s."},
        {"key without a value", "key without a value", "}(" + word("t") + "u."},
        {"call of a text", "a text as what is called", word("f") + ")R."},
        {"call without a tuple", "a list as arguments", "ccollections\nOrderedDict\n]R."},
        {"OrderedDict of arguments", "OrderedDict of arguments", "ccollections\nOrderedDict\n]\x85R."},
        {"tensor of nothing", "tensor of 0 arguments", "ctorch._utils\n_rebuild_tensor_v2\n)R."},
        {"parameter of a text", "a text as a parameter's data",
         "ctorch._utils\n_rebuild_parameter\n(" + word("x") + "\x88}tR."},
        {"storage of another kind", "other than a storage", "(" + word("module") + "tQ."},
        {"storage without a type", "a text as a storage's type",
         "(" + word("storage") + word("x") + word("0") + word("cpu") + "K" + raw<std::uint8_t>(1) + "tQ."},
        {"negative storage", "storage of -1 elements", ArchiveBuilder::storage("FloatStorage", "0", -1) + "."},
        {"integer of 9 bytes", "integer of 9 bytes", "\x8a\x09" + std::string(9, '\x7f') + "."},
        {"attributes on a number", "attributes to an integer", "K" + raw<std::uint8_t>(1) + "}b."},
        {"setting items of a list", "adds to a list", "]" + word("t") + good + "s."},
        {"17 dimensions", "tensor of 17 dimensions",
         "}" + word("t") + six(0, std::vector<std::int64_t>(17, 1), std::vector<std::int64_t>(17, 1)) + "s."},
        {"sizes without strides", "numbers of sizes and strides", "}" + word("t") + six(0, {6}, {}) + "s."},
        {"a size that is a text", "a text as a size or stride",
         "}" + word("t") + "ctorch._utils\n_rebuild_tensor_v2\n(" + ArchiveBuilder::storage("FloatStorage", "0", 6) +
             "K" + raw<std::uint8_t>(0) + "(" + word("6") + "t(K" + raw<std::uint8_t>(1) + "t\x89}tRs."},
        {"view past the end", "reaches past the end", "}" + word("t") + six(1, {6}, {1}) + "s."},
        {"view that overflows", "reaches past the end", "}" + word("t") + six(0, {3, 2}, {1ll << 62, 1}) + "s."},
        {"offset past the end", "reaches past the end", "}" + word("t") + six(INT64_MAX, {1}, {1}) + "s."},
        {"negative offset", "impossible shape", "}" + word("t") + six(-1, {6}, {1}) + "s."},
        {"negative size", "impossible shape", "}" + word("t") + six(0, {-6}, {1}) + "s."},
        {"negative stride", "impossible shape", "}" + word("t") + six(5, {6}, {-1}) + "s."},
        {"size that overflows", "impossible shape", "}" + word("t") + six(0, {1ll << 40, 1ll << 40}, {0, 0}) + "s."},
        {"an exabyte by stride 0", "repeats its storage", "}" + word("t") + six(0, {1ll << 57}, {0}) + "s."},
        {"expanded rows", "repeats its storage", "}" + word("t") + six(0, {4, 6}, {0, 1}) + "s."},
        {"missing storage", "storage that the archive lacks",
         "}" + word("t") + ArchiveBuilder::tensor(ArchiveBuilder::storage("FloatStorage", "1", 6), 0, {6}, {1}) + "s."},
        {"storage outside of the folder", "storage that the archive lacks",
         "}" + word("t") + ArchiveBuilder::tensor(ArchiveBuilder::storage("FloatStorage", "../../x", 6), 0, {6}, {1}) +
             "s."},
        {"storage of another size", "has 24 bytes",
         "}" + word("t") + ArchiveBuilder::tensor(ArchiveBuilder::storage("FloatStorage", "0", 7), 0, {6}, {1}) + "s."},
        {"storage of another type", "has 24 bytes",
         "}" + word("t") + ArchiveBuilder::tensor(ArchiveBuilder::storage("DoubleStorage", "0", 6), 0, {6}, {1}) +
             "s."},
        {"deep marks", "holds a tuple", deep},
        {"deep tuples", "holds a tuple", nested + "."},
        {"a list that holds itself", "holds a list", "]q" + raw<std::uint8_t>(0) + "h" + raw<std::uint8_t>(0) + "a."},
        {"text past the end", "ends at byte", "X" + raw(0xffffffffu) + "abc"},
        {"name past the end", "ends at byte", "ctorch"},
    };
}

TEST(TorchArchive, RefusesEveryHostilePickleInWords) {
    for (const auto& hostile : hostile_pickles()) {
        SCOPED_TRACE(hostile.what);
        ArchiveBuilder archive;
        archive.add_storage("0", six_floats);
        archive.pickle = "\x80\x02" + hostile.pickle;
        archive.finished = true;
        const auto message = test::message_of([&] { open_bytes(archive.build()); });
        EXPECT_NE(message.find(hostile.message), std::string::npos) << message;
        EXPECT_LT(message.size(), 500u);
    }
}

TEST(TorchArchive, RefusesManyCopiesOfOneStorage) {
    ArchiveBuilder archive;
    archive.add_storage("0", std::string(1 << 16, '\0'));
    const auto storage = ArchiveBuilder::storage("ByteStorage", "0", 1 << 16);
    for (int i = 0; i < 100; ++i) archive.add(text("t", i), ArchiveBuilder::tensor(storage, 0, {256, 256}, {1, 256}));
    EXPECT_NE(test::message_of([&] { open_bytes(archive.build()); }).find("repeats its storage"), std::string::npos);
}

TEST(TorchArchive, RefusesHostileZipArchivesInWords) {
    using Change = std::function<void(test::ZipBuilder&)>;
    const std::vector<std::tuple<std::string, Change, std::string>> cases{
        {"compressed entry", [](auto& zip) { zip.entries[0].method = 8; }, "is compressed"},
        {"bomb: more bytes than stored", [](auto& zip) { zip.entries[0].claimed_size = 0x7fffffff; }, "ends at byte"},
        {"encrypted entry", [](auto& zip) { zip.entries[0].flags = 1; }, "encrypted"},
        {"other name in the local header", [](auto& zip) { zip.entries[0].local_name = "archive/data/1"; },
         "differs from the directory"},
        {"entry behind the directory",
         [](auto& zip) {
             zip.entries[0].offset = 1 << 30;
             zip.entries[0].keep_offset = true;
         },
         "behind the directory"},
        {"entry in the middle of another",
         [](auto& zip) {
             zip.entries[0].offset = 3;
             zip.entries[0].keep_offset = true;
         },
         "no local header"},
        {"bomb: two entries of the same bytes",
         [](auto& zip) {
             zip.entries.push_back(zip.entries[0]);
             zip.entries.back().offset = 0;
             zip.entries.back().keep_offset = true;
         },
         "share bytes"},
        {"one name twice", [](auto& zip) { zip.entries.push_back(zip.entries[0]); }, "two entries archive/data/0"},
        {"two pickles", [](auto& zip) { zip.add("other/data.pkl", "x"); }, "two pickles"},
        {"control characters in a name", [](auto& zip) { zip.add("\x1b[2J", "x"); }, "control characters"},
        {"more entries than there are", [](auto& zip) { zip.extra_entries = 1; }, "zip directory"},
        {"65000 entries more than there are", [](auto& zip) { zip.extra_entries = 65000; }, "claims 65002 entries"},
    };
    for (const auto& [what, change, wanted] : cases) {
        SCOPED_TRACE(what);
        auto archive = archive_of({{"t", six(0, {6}, {1})}});
        change(archive.zip);
        const auto message = test::message_of([&, &archive = archive] { open_bytes(archive.build()); });
        EXPECT_NE(message.find(wanted), std::string::npos) << message;
    }
}

TEST(TorchArchive, RefusesWhatTorchSaveDidNotWrite) {
    test::ZipBuilder no_pickle;
    no_pickle.add("readme.txt", "hello");
    EXPECT_NE(test::message_of([&] { open_bytes(no_pickle.build()); }).find("data.pkl"), std::string::npos);
    EXPECT_NE(test::message_of([] { open_bytes("\x80\x02}."); }).find("before 1.6"), std::string::npos);
    EXPECT_NE(test::message_of([] { open_bytes(""); }).find("too few"), std::string::npos);
    EXPECT_NE(test::message_of([] { open_bytes(std::string(100000, 'P')); }).find("no zip directory"),
              std::string::npos);
}

TEST(TorchArchive, RefusesAPickleWithAWrongChecksum) {
    std::string bytes = archive_of({{"name-of-tensor", six(0, {6}, {1})}}).build();
    bytes[bytes.find("name-of-tensor")] = 'X';
    EXPECT_NE(test::message_of([&] { open_bytes(bytes); }).find("damaged"), std::string::npos);
}

TEST(TorchArchive, RefusesAFileThatIsCutOffAnywhere) {
    const std::string whole = archive_of({{"t", six(0, {2, 3}, {3, 1})}}).build();
    for (std::size_t length = 0; length < whole.size(); ++length)
        test::message_of([&] { open_bytes(whole.substr(0, length)); });
}

/// Bytes of the pickle change before its checksum is taken, so that the changes reach the pickle reader.
TEST(TorchArchive, NoFlippedByteCrashesTheReader) {
    auto valid = archive_of({{"a", six(0, {2, 3}, {3, 1})}, {"b", six(0, {3, 2}, {1, 3})}});
    const auto start = std::chrono::steady_clock::now();
    std::mt19937 random(5);
    int opened = 0;
    for (int round = 0; round < 5000; ++round) {
        ArchiveBuilder archive = valid;
        if (round % 2) archive.pickle[2 + random() % (archive.pickle.size() - 2)] = static_cast<char>(random());
        std::string bytes = archive.build();
        if (round % 2 == 0)
            for (unsigned flips = 1 + random() % 4; flips > 0; --flips)
                bytes[random() % bytes.size()] = static_cast<char>(random());
        ASSERT_TRUE(test::ends_well([&] {
            const auto file = open_bytes(bytes);
            for (const auto& tensor : file->tensors()) {
                ASSERT_LE(tensor.bytes.size(), bytes.size());
                values_of(*file, tensor.name);
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
