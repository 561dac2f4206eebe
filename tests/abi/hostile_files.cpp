// SPDX-License-Identifier: Apache-2.0
#include <elf.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "core/support/error.hpp"
#include "host/loader/manifest.hpp"

namespace kerf::host {
namespace {

namespace fs = std::filesystem;

const std::string good_text =
    "id=org.example.tern\nversion=1.2.0\nabi=1.0\nmin_abi=1.0\ntorch=none\nmethods=tern\nadapters=plume,quill\n";

std::string note(const std::string& text, const std::string& owner = std::string("kerf\0", 5), std::uint32_t type = 1) {
    const auto padded = [](std::string s) { return s.append((4 - s.size() % 4) % 4, '\0'); };
    const Elf64_Nhdr head{static_cast<std::uint32_t>(owner.size()), static_cast<std::uint32_t>(text.size()), type};
    return std::string(reinterpret_cast<const char*>(&head), sizeof(head)) + padded(owner) + padded(text);
}

/// The smallest file that the reader takes for a plugin: ELF header, one PT_NOTE segment, notes. `change` spoils it.
struct Image {
    Elf64_Ehdr header{};
    std::vector<Elf64_Phdr> segments;
    std::string notes, tail;

    explicit Image(const std::string& text = good_text)
        : notes(note("\1\2\3\4", std::string("GNU\0", 4), 3) + note(text)) {
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = ELFCLASS64;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_ident[EI_VERSION] = EV_CURRENT;
        header.e_type = ET_DYN;
#if defined(__x86_64__)
        header.e_machine = EM_X86_64;
#else
        header.e_machine = EM_AARCH64;
#endif
        header.e_phoff = sizeof(Elf64_Ehdr);
        header.e_phentsize = sizeof(Elf64_Phdr);
        segments.push_back({PT_NOTE, PF_R, 0, 0, 0, 0, 0, 4});
        place();
    }
    /// Where the notes are, after they or the number of segments changed.
    Image& place() {
        header.e_phnum = static_cast<Elf64_Half>(segments.size());
        for (auto& segment : segments) {
            segment.p_offset = sizeof(Elf64_Ehdr) + segments.size() * sizeof(Elf64_Phdr);
            segment.p_filesz = notes.size();
        }
        return *this;
    }
    std::string bytes() const {
        std::string out(reinterpret_cast<const char*>(&header), sizeof(header));
        for (const auto& segment : segments) out.append(reinterpret_cast<const char*>(&segment), sizeof(segment));
        return out + notes + tail;
    }
};

Image with(const std::function<void(Image&)>& change) {
    Image image;
    change(image);
    return image;
}
std::string text_without(const std::string& line) {
    auto text = good_text;
    return text.erase(text.find(line), line.size());
}
std::string text_with(const std::string& line, const std::string& instead) {
    auto text = good_text;
    return text.replace(text.find(line), line.size(), instead);
}

class HostileFiles : public testing::Test {
protected:
    void SetUp() override {
        folder_ = fs::temp_directory_path() / ("kerf-hostile-" + std::to_string(getpid()));
        fs::create_directories(folder_);
    }
    void TearDown() override { fs::remove_all(folder_); }

    fs::path write(const std::string& bytes) {
        const auto file = folder_ / "plugin.so";
        std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
        chmod(file.c_str(), 0644);
        return file;
    }
    std::string refusal(const fs::path& file) {
        try {
            check_compatible(read_manifest(file), this_host(), file);
        } catch (const core::Error& error) {
            EXPECT_NE(error.fault(), core::Fault::internal);
            return error.what();
        }
        return "taken";
    }
    void expect_refused(const std::string& bytes, const std::string& reason) {
        const auto said = refusal(write(bytes));
        EXPECT_NE(said.find(reason), std::string::npos) << "said: " << said << "\nnot: " << reason;
        EXPECT_NE(said.find("plugin.so"), std::string::npos) << said;
    }

    fs::path folder_;
};

TEST_F(HostileFiles, ASoundManifestIsRead) {
    const auto manifest = read_manifest(write(Image().bytes()));
    EXPECT_EQ(manifest.id, "org.example.tern");
    EXPECT_EQ(manifest.version, "1.2.0");
    EXPECT_EQ(manifest.abi.text(), "1.0");
    EXPECT_EQ(manifest.torch, "none");
    EXPECT_EQ(manifest.methods, std::vector<std::string>{"tern"});
    EXPECT_EQ(manifest.adapters, (std::vector<std::string>{"plume", "quill"}));
}

TEST_F(HostileFiles, WhatIsNoSharedLibraryOfThisMachineIsRefusedInWords) {
    expect_refused("", "not a shared library");
    expect_refused("#!/bin/sh\necho hello\n", "not a shared library");
    expect_refused(
        "\x7f"
        "ELF",
        "not a shared library");
    expect_refused(Image().bytes().substr(0, 40), "reach past the end");
    expect_refused(with([](Image& i) { i.header.e_ident[EI_CLASS] = ELFCLASS32; }).bytes(), "32-bit");
    expect_refused(with([](Image& i) { i.header.e_ident[EI_DATA] = ELFDATA2MSB; }).bytes(), "big-endian");
    expect_refused(with([](Image& i) { i.header.e_ident[EI_VERSION] = 9; }).bytes(), "unknown ELF version 9");
    expect_refused(with([](Image& i) { i.header.e_machine = EM_RISCV; }).bytes(), "another machine");
    expect_refused(with([](Image& i) { i.header.e_type = ET_REL; }).bytes(), "not a shared library");
    expect_refused(with([](Image& i) { i.header.e_type = ET_EXEC; }).bytes(), "not a shared library");
}

TEST_F(HostileFiles, ProgramHeadersThatLieAreRefused) {
    expect_refused(with([](Image& i) { i.header.e_phnum = 0; }).bytes(), "no program headers");
    expect_refused(with([](Image& i) { i.header.e_phoff = 0; }).bytes(), "no program headers");
    expect_refused(with([](Image& i) { i.header.e_phnum = 0xffff; }).bytes(), "make no sense");
    expect_refused(with([](Image& i) { i.header.e_phentsize = 1; }).bytes(), "make no sense");
    expect_refused(with([](Image& i) { i.header.e_phoff = ~0ull; }).bytes(), "reach past the end");
    expect_refused(with([](Image& i) { i.header.e_phoff = ~0ull - 55; }).bytes(), "reach past the end");
    expect_refused(with([](Image& i) { i.header.e_phnum = 400; }).bytes(), "reach past the end");
    expect_refused(with([](Image& i) { i.segments[0].p_offset = ~0ull; }).bytes(), "reach past the end");
    expect_refused(with([](Image& i) { i.segments[0].p_filesz = ~0ull; }).bytes(), "reach past the end");
    expect_refused(with([](Image& i) {
                       i.segments[0].p_filesz = 2u << 20;
                       i.tail.resize(3u << 20);
                   }).bytes(),
                   "bytes of notes");
}

TEST_F(HostileFiles, NotesThatAreMissingDoubleOrBrokenAreRefused) {
    expect_refused(with([](Image& i) { i.segments[0].p_type = PT_LOAD; }).bytes(), "no .note.kerf note");
    expect_refused(with([](Image& i) { i.notes = note("x", std::string("GNU\0", 4)), i.place(); }).bytes(),
                   "no .note.kerf note");
    expect_refused(with([](Image& i) { i.notes = note("x", "kerf"), i.place(); }).bytes(), "no .note.kerf note");
    expect_refused(with([](Image& i) { i.notes.clear(), i.place(); }).bytes(), "no .note.kerf note");
    expect_refused(with([](Image& i) { i.notes += note(good_text), i.place(); }).bytes(), "two kerf manifests");
    expect_refused(with([](Image& i) { i.notes = note(good_text, std::string("kerf\0", 5), 2), i.place(); }).bytes(),
                   "note of type 2");
    expect_refused(with([](Image& i) { i.notes = note(""), i.place(); }).bytes(), "a manifest of 0 bytes");
    expect_refused(with([](Image& i) { i.notes = note(std::string(100000, 'a')), i.place(); }).bytes(),
                   "a manifest of 100000 bytes");
    for (const std::uint32_t size : {0x7fffffffu, 0xfffffffcu, 0xffffffffu})
        for (const std::size_t field : {0, 4})
            expect_refused(with([&](Image& i) { std::memcpy(i.notes.data() + 20 + field, &size, 4); }).bytes(),
                           "past its segment");
    // The same segment listed twice is one note.
    EXPECT_EQ(refusal(write(with([](Image& i) { i.segments.push_back(i.segments[0]), i.place(); }).bytes())), "taken");
}

TEST_F(HostileFiles, ManifestsThatMakeNoSenseAreRefused) {
    expect_refused(Image("hello").bytes(), "a line without \"=\"");
    expect_refused(Image("=x\n" + good_text).bytes(), "a line without \"=\"");
    expect_refused(Image(good_text + std::string("x=\033[2J\n")).bytes(), "control characters");
    expect_refused(Image(good_text + std::string("x=a\0b\n", 6)).bytes(), "control characters");
    expect_refused(Image(good_text + "id=other\n").bytes(), "the key id twice");
    expect_refused(Image(text_without("abi=1.0\n")).bytes(), "no line \"abi=\"");
    expect_refused(Image(text_without("id=org.example.tern\n")).bytes(), "no line \"id=\"");
    expect_refused(Image(text_with("org.example.tern", "../../etc/passwd")).bytes(), "which is no id");
    expect_refused(Image(text_with("methods=tern\nadapters=plume,quill", "methods=\nadapters=")).bytes(),
                   "neither methods nor adapters");
    expect_refused(Image(text_with("plume,quill", "plume,,quill")).bytes(), "no list of names");
    expect_refused(Image(text_with("plume,quill", "plume,plume")).bytes(), "lists plume twice");
    expect_refused(Image(text_with("version=1.2.0", "version=new")).bytes(), "which is no version");
    expect_refused(Image(text_with("\nabi=1.0", "\nabi=1")).bytes(), "which is no version");
    expect_refused(Image(text_with("\nabi=1.0", "\nabi=1.0x")).bytes(), "which is no version");
    expect_refused(Image(text_with("\nabi=1.0", "\nabi=-1.0")).bytes(), "which is no version");
    // A key of a later minor version is passed over.
    EXPECT_EQ(refusal(write(Image(good_text + "licence=MIT\n").bytes())), "taken");
}

TEST_F(HostileFiles, OtherVersionsAreRefusedWithBothNumbersAndTheCure) {
    expect_refused(Image(text_with("\nabi=1.0", "\nabi=2.3")).bytes(),
                   "plugin ABI 2.3, this kerf speaks 1.1; update kerf");
    expect_refused(Image("abi=65535.0\nsomething=else\n").bytes(), "plugin ABI 65535.0");
    expect_refused(Image(text_with("\nabi=1.0", "\nabi=0.9")).bytes(), "take the plugin's build for ABI 1");
    expect_refused(Image(text_with("min_abi=1.0", "min_abi=1.7")).bytes(),
                   "needs kerf's plugin ABI 1.7 or newer, this kerf has 1.1");
    expect_refused(Image(text_with("torch=none", "torch=exact:1.0.0")).bytes(),
                   "built with LibTorch 1.0.0, this kerf runs LibTorch");
    expect_refused(Image(text_with("torch=none", "torch=somehow")).bytes(), "the unknown way \"somehow\"");
    // Built with a newer minor but content with an older one.
    EXPECT_EQ(refusal(write(Image(text_with("\nabi=1.0", "\nabi=1.9")).bytes())), "taken");
    EXPECT_EQ(refusal(write(Image(text_with("torch=none", "torch=exact:" + this_host().torch)).bytes())), "taken");
}

TEST_F(HostileFiles, WhatIsNoRegularSafeFileIsRefused) {
    const auto file = write(Image().bytes());
    chmod(file.c_str(), 0666);
    EXPECT_NE(refusal(file).find("writable by everybody"), std::string::npos);
    EXPECT_NE(refusal(folder_).find("not a regular file"), std::string::npos);
    EXPECT_NE(refusal(folder_ / "absent.so").find("no such file"), std::string::npos);
    fs::create_symlink("loop.so", folder_ / "loop.so");
    EXPECT_NE(refusal(folder_ / "loop.so").find("loop.so"), std::string::npos);
    ASSERT_EQ(mkfifo((folder_ / "fifo.so").c_str(), 0600), 0);
    EXPECT_NE(refusal(folder_ / "fifo.so").find("not a regular file"), std::string::npos);
}

TEST_F(HostileFiles, EveryTruncationAndManyBitFlipsEndInAManifestOrASentence) {
    const auto good = Image().bytes();
    for (std::size_t size = 0; size < good.size() - 4; ++size)
        EXPECT_NE(refusal(write(good.substr(0, size))), "taken") << size;
    std::mt19937 random(1);
    for (int i = 0; i < 600; ++i) {
        auto bytes = good;
        for (int flips = 0; flips < 1 + i % 4; ++flips)
            bytes[random() % bytes.size()] ^= static_cast<char>(1u << random() % 8);
        EXPECT_FALSE(refusal(write(bytes)).empty());
    }
}

}  // namespace
}  // namespace kerf::host
