// SPDX-License-Identifier: Apache-2.0
#include "core/support/file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/support/error.hpp"
#include "test_files.hpp"

namespace kerf::core {
namespace {

using test::TemporaryFolder;

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text));
}

TEST(Sha256, GivesThePublishedDigests) {
    // FIPS 180-4 examples.
    EXPECT_EQ(sha256({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(sha256(bytes_of("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(sha256(bytes_of(std::string(1'000'000, 'a'))),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, OfAFileIsThatOfItsBytes) {
    const TemporaryFolder folder;
    std::string content(3'000'001, 'x');  // three pieces of reading, the last short
    for (std::size_t i = 0; i < content.size(); i += 7) content[i] = static_cast<char>(i);
    EXPECT_EQ(sha256_file(folder.write("x", content)), sha256(bytes_of(content)));
    EXPECT_EQ(sha256_file(folder.write("empty", "")), sha256({}));
}

TEST(WriteAtomically, ReplacesTheWholeFileAndLeavesNothingElse) {
    const TemporaryFolder folder;
    folder.write("x", "a long old content");
    write_atomically(folder / "x", "new");
    EXPECT_EQ(test::read_file(folder / "x"), "new");
    write_atomically(folder / "y", "");
    EXPECT_EQ(test::read_file(folder / "y"), "");
    std::size_t files = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) ++files;
    EXPECT_EQ(files, 2u);
}

TEST(WriteAtomically, KeepsTheOldFileWhenItFails) {
    const TemporaryFolder folder;
    folder.write("x", "old");
    std::filesystem::create_directory(folder / "x.tmp");  // stands where the temporary file would be
    test::message_of([&] { write_atomically(folder / "x", "new"); }, Fault::environment);
    EXPECT_EQ(test::read_file(folder / "x"), "old");
    test::message_of([&] { write_atomically(folder / "none/x", "new"); }, Fault::environment);
}

TEST(File, ReadsWhatItWrote) {
    const TemporaryFolder folder;
    File file = File::open(folder / "x", File::Mode::write_new);
    file.resize(10);
    file.write_at(4, bytes_of("abcd"));
    file.append("end");
    file.sync();
    EXPECT_EQ(file.size(), 13u);
    std::string back(7, '\0');
    file.read_at(6, std::as_writable_bytes(std::span(back)));
    EXPECT_EQ(back, std::string("cd\0\0end", 7));
}

TEST(File, SaysWhereAFileEnds) {
    const TemporaryFolder folder;
    const File file = File::open(folder.write("x", "1234"), File::Mode::read);
    std::string back(8, '\0');
    const auto message = test::message_of([&] { file.read_at(2, std::as_writable_bytes(std::span(back))); });
    EXPECT_NE(message.find("ends at byte 4"), std::string::npos) << message;
    EXPECT_NE(test::message_of([&] { File::open(folder / "none", File::Mode::read); }, Fault::environment).find("none"),
              std::string::npos);
}

TEST(File, HasOneOwner) {
    const TemporaryFolder folder;
    File first = File::open(folder.write("x", "1"), File::Mode::read);
    const int descriptor = first.descriptor();
    File second = std::move(first);
    EXPECT_EQ(second.descriptor(), descriptor);
    EXPECT_LT(first.descriptor(), 0);
    second = File();
    struct stat status {};
    EXPECT_NE(::fstat(descriptor, &status), 0) << "closed with its owner";
}

TEST(MappedFile, ShowsTheBytesAlsoAfterForgettingThem) {
    const TemporaryFolder folder;
    const std::string content(100'000, 'q');
    const MappedFile mapped = MappedFile::open(folder.write("x", content));
    mapped.forget(mapped.bytes().subspan(10, 50'000));
    EXPECT_EQ(sha256(mapped.bytes()), sha256(bytes_of(content)));
    EXPECT_TRUE(MappedFile::open(folder.write("empty", "")).bytes().empty());
}

TEST(ReadText, RefusesWhatIsMissingAFolderOrTooLarge) {
    const TemporaryFolder folder;
    EXPECT_EQ(read_text(folder.write("x", "hello")), "hello");
    EXPECT_EQ(read_text(folder.write("empty", "")), "");
    EXPECT_NE(test::message_of([&] { read_text(folder / "none"); }).find("no such file"), std::string::npos);
    EXPECT_NE(test::message_of([&] { read_text(folder.path()); }).find("is a folder"), std::string::npos);
    EXPECT_NE(test::message_of([&] { read_text(folder / "x", 4); }).find("more than"), std::string::npos);
}

}  // namespace
}  // namespace kerf::core
