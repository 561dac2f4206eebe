// SPDX-License-Identifier: Apache-2.0
#include <elf.h>

#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "host/loader/manifest.hpp"
#include "kerf/abi.h"

namespace kerf::host {
namespace {

using core::bad_input;

#if defined(__x86_64__)
constexpr int this_machine = EM_X86_64;
constexpr const char* this_machine_name = "x86-64";
#elif defined(__aarch64__)
constexpr int this_machine = EM_AARCH64;
constexpr const char* this_machine_name = "AArch64";
#else
#error "add this machine's ELF number"
#endif
static_assert(std::endian::native == std::endian::little);

// Far above what linkers write, far below what could hurt.
constexpr std::uint64_t most_segments = 512, largest_note_segment = 1u << 20, largest_manifest = 64u << 10;

/// An ELF file of unknown honesty: every access is checked against its real size.
class Elf {
public:
    explicit Elf(const std::filesystem::path& path)
        : file_(core::File::open(path, core::File::Mode::read)), size_(file_.size()) {}

    std::string note() {
        read_header();
        for (std::uint64_t i = 0; i < header_.e_phnum; ++i) {
            const auto segment = read<Elf64_Phdr>(header_.e_phoff + i * sizeof(Elf64_Phdr), "the program headers");
            // One segment may be listed twice; its note counts once.
            if (segment.p_type == PT_NOTE && seen_.insert(segment.p_offset).second) read_segment(segment);
        }
        if (found_ == 0) fail("is no kerf plugin: it has no ", KERF_NOTE_SECTION, " note");
        return std::move(text_);
    }

private:
    template <class... Pieces>
    [[noreturn]] void fail(const Pieces&... pieces) const {
        bad_input(file_.path().string(), " ", pieces...);
    }
    void need(std::uint64_t offset, std::uint64_t bytes, const char* what) const {
        if (offset > size_ || bytes > size_ - offset) fail("is damaged: ", what, " reach past the end of the file");
    }
    template <class T>
    T read(std::uint64_t offset, const char* what) const {
        need(offset, sizeof(T), what);
        T out;
        file_.read_at(offset, std::as_writable_bytes(std::span(&out, 1)));
        return out;
    }
    void read_header() {
        unsigned char ident[EI_NIDENT] = {};
        if (size_ >= sizeof(ident)) file_.read_at(0, std::as_writable_bytes(std::span(ident)));
        if (std::memcmp(ident, ELFMAG, SELFMAG) != 0) fail("is no kerf plugin: not a shared library (no ELF file)");
        if (ident[EI_CLASS] != ELFCLASS64) fail("is no kerf plugin: a 32-bit library");
        if (ident[EI_DATA] != ELFDATA2LSB) fail("is no kerf plugin: built for a big-endian machine");
        if (ident[EI_VERSION] != EV_CURRENT) fail("is damaged: unknown ELF version ", int(ident[EI_VERSION]));
        header_ = read<Elf64_Ehdr>(0, "the ELF header");
        if (header_.e_machine != this_machine)
            fail("is built for another machine (ELF machine ", header_.e_machine, "), this is ", this_machine_name);
        if (header_.e_type != ET_DYN) fail("is no kerf plugin: an ELF file, but not a shared library");
        if (header_.e_phnum == 0 || header_.e_phoff == 0) fail("is damaged: it has no program headers");
        if (header_.e_phentsize != sizeof(Elf64_Phdr) || header_.e_phnum > most_segments)
            fail("is damaged: its program headers make no sense");
        if (header_.e_phoff > size_) fail("is damaged: the program headers reach past the end of the file");
    }
    void read_segment(const Elf64_Phdr& segment) {
        need(segment.p_offset, segment.p_filesz, "the notes");
        if (segment.p_filesz > largest_note_segment) fail("is damaged: ", segment.p_filesz, " bytes of notes");
        std::string bytes(segment.p_filesz, '\0');
        file_.read_at(segment.p_offset, std::as_writable_bytes(std::span(bytes)));
        const std::uint64_t align = segment.p_align == 8 ? 8 : 4;
        for (std::uint64_t at = 0; bytes.size() - at >= sizeof(Elf64_Nhdr);) at = read_one(bytes, at, align);
    }
    /// One note at `at`; returns where the next one starts, at most bytes.size().
    std::uint64_t read_one(const std::string& bytes, std::uint64_t at, std::uint64_t align) {
        Elf64_Nhdr head;
        std::memcpy(&head, bytes.data() + at, sizeof(head));
        const auto padded = [align](std::uint64_t size) { return (size + align - 1) / align * align; };
        const std::uint64_t name = at + sizeof(head), body = name + padded(head.n_namesz), end = body + head.n_descsz;
        if (name + head.n_namesz > bytes.size() || end > bytes.size())
            fail("is damaged: a note reaches past its segment");
        if (head.n_namesz == sizeof(KERF_NOTE_OWNER) &&
            std::memcmp(bytes.data() + name, KERF_NOTE_OWNER, sizeof(KERF_NOTE_OWNER)) == 0) {
            if (head.n_type != KERF_NOTE_TYPE)
                fail("has a kerf note of type ", head.n_type, ", this kerf reads type ", KERF_NOTE_TYPE,
                     "; update kerf");
            if (++found_ > 1) fail("is damaged: it has two kerf manifests");
            if (head.n_descsz == 0 || head.n_descsz > largest_manifest)
                fail("is damaged: a manifest of ", head.n_descsz, " bytes");
            text_ = bytes.substr(body, head.n_descsz);
        }
        return std::min<std::uint64_t>(bytes.size(), body + padded(head.n_descsz));
    }

    core::File file_;
    std::uint64_t size_ = 0;
    Elf64_Ehdr header_{};
    std::set<std::uint64_t> seen_;
    int found_ = 0;
    std::string text_;
};

}  // namespace

std::string read_note(const std::filesystem::path& file) {
    std::error_code error;
    const auto status = std::filesystem::status(file, error);
    if (status.type() == std::filesystem::file_type::not_found) bad_input(file.string(), ": no such file");
    if (error) core::bad_environment(file.string(), ": ", error.message());
    if (status.type() != std::filesystem::file_type::regular)
        bad_input(file.string(), " is no kerf plugin: not a regular file");
    // Anyone on this machine could have put code into it.
    if ((status.permissions() & std::filesystem::perms::others_write) != std::filesystem::perms::none)
        bad_input(file.string(), " is writable by everybody, so it is not loaded; chmod o-w ", file.string());
    return Elf(file).note();
}

}  // namespace kerf::host
