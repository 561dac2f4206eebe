// SPDX-License-Identifier: Apache-2.0
#include "core/support/file.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

[[noreturn]] void system_error(const char* doing, const std::filesystem::path& path) {
    const int reason = errno;
    if (reason == ENOSPC || reason == EDQUOT)
        bad_environment(path.string(), ": the disk is full (", doing,
                        "); free some space or choose another output folder");
    bad_environment(path.string(), ": cannot ", doing, ": ", std::strerror(reason));
}

}  // namespace

File File::open(const std::filesystem::path& path, Mode mode) {
    const int flags = mode == Mode::read ? O_RDONLY : mode == Mode::read_write ? O_RDWR : O_RDWR | O_CREAT | O_TRUNC;
    File file;
    file.path_ = path;
    file.fd_ = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (file.fd_ < 0) system_error(mode == Mode::write_new ? "create" : "open", path);
    return file;
}

File File::temporary(const std::filesystem::path& folder) {
    File file;
    file.path_ = folder;
    file.fd_ = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file.fd_ >= 0) return file;
    // A file system without nameless files: one with a name, taken away at once.
    std::string name = (folder / (std::string(temporary_prefix) + "XXXXXX")).string();
    file.fd_ = ::mkostemp(name.data(), O_CLOEXEC);
    if (file.fd_ < 0) system_error("create a temporary file in", folder);
    ::unlink(name.c_str());
    return file;
}

File& File::operator=(File&& other) noexcept {
    if (this != &other) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = std::exchange(other.fd_, -1);
        path_ = std::move(other.path_);
    }
    return *this;
}

File::~File() {
    if (fd_ >= 0) ::close(fd_);
}

std::uint64_t File::size() const {
    struct stat status {};
    if (::fstat(fd_, &status) != 0) system_error("look at", path_);
    return static_cast<std::uint64_t>(status.st_size);
}

void File::read_at(std::uint64_t offset, std::span<std::byte> into) const {
    while (!into.empty()) {
        const auto got = ::pread(fd_, into.data(), into.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) system_error("read", path_);
        if (got == 0) bad_input(path_.string(), ": ends at byte ", offset, ", more was expected");
        offset += static_cast<std::uint64_t>(got);
        into = into.subspan(static_cast<std::size_t>(got));
    }
}

void File::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const auto put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) system_error("write", path_);
        offset += static_cast<std::uint64_t>(put);
        bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
}

void File::append(std::string_view bytes) {
    write_at(size(), std::as_bytes(std::span(bytes)));
}

void File::resize(std::uint64_t bytes) {
    if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) system_error("resize", path_);
    if (bytes == 0) return;
    // Room for all of it now: a full disk is found before the work, not in the middle of it.
    errno = ::posix_fallocate(fd_, 0, static_cast<off_t>(bytes));
    if (errno != 0 && errno != EOPNOTSUPP && errno != EINVAL) system_error("make room for", path_);
}

void File::sync() {
    if (::fsync(fd_) != 0) system_error("sync", path_);
}

MappedFile MappedFile::open(const std::filesystem::path& path) {
    const File file = File::open(path, File::Mode::read);
    MappedFile mapped;
    mapped.size_ = file.size();
    if (mapped.size_ == 0) return mapped;
    void* at = ::mmap(nullptr, mapped.size_, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
    if (at == MAP_FAILED) system_error("map", path);
    mapped.data_ = static_cast<const std::byte*>(at);
    return mapped;
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

MappedFile::~MappedFile() {
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

namespace {

void advise(std::span<const std::byte> range, int advice) noexcept {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto first = reinterpret_cast<std::uintptr_t>(range.data()) / page * page;
    const auto last = reinterpret_cast<std::uintptr_t>(range.data()) + range.size();
    if (last > first) ::madvise(reinterpret_cast<void*>(first), last - first, advice);
}

}  // namespace

void MappedFile::forget(std::span<const std::byte> range) const noexcept {
    advise(range, MADV_DONTNEED);
}

void MappedFile::prefetch(std::span<const std::byte> range) const noexcept {
    advise(range, MADV_WILLNEED);
}

std::string read_text(const std::filesystem::path& path, std::uint64_t limit) {
    std::error_code status;
    if (!std::filesystem::exists(path, status)) bad_input(path.string(), ": no such file");
    if (std::filesystem::is_directory(path, status)) bad_input(path.string(), ": is a folder, a file was expected");
    const File file = File::open(path, File::Mode::read);
    const auto size = file.size();
    if (size > limit)
        bad_input(path.string(), ": ", format_bytes(double(size)), ", more than the ", format_bytes(double(limit)),
                  " that such a file may have");
    std::string content(size, '\0');
    file.read_at(0, std::as_writable_bytes(std::span(content)));
    return content;
}

void write_atomically(const std::filesystem::path& path, std::string_view content) {
    const auto temporary = std::filesystem::path(path.string() + ".tmp");
    {
        File file = File::open(temporary, File::Mode::write_new);
        file.write_at(0, std::as_bytes(std::span(content)));
        file.sync();
    }
    if (::rename(temporary.c_str(), path.c_str()) != 0) system_error("rename to", path);
    sync_folder(path.parent_path());
}

void replace_folder(const std::filesystem::path& from, const std::filesystem::path& to) {
    const bool there = std::filesystem::exists(to);
    const unsigned flags = there ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) != 0) system_error("rename to", to);
    sync_folder(to.parent_path());
}

void sync_folder(const std::filesystem::path& folder) {
    const auto path = folder.empty() ? std::filesystem::path(".") : folder;
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) system_error("open", path);
    const int status = ::fsync(fd);
    ::close(fd);
    if (status != 0 && errno != EINVAL) system_error("sync", path);
}

namespace {

class Sha256 {
public:
    Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
        EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
    }
    void add(std::span<const std::byte> bytes) { EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()); }
    std::string hex() {
        std::array<unsigned char, 32> digest{};
        EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
        std::string out;
        constexpr std::string_view digits = "0123456789abcdef";
        for (const unsigned char byte : digest) {
            out += digits[byte >> 4];
            out += digits[byte & 15];
        }
        return out;
    }

private:
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string sha256(std::span<const std::byte> bytes) {
    Sha256 digest;
    digest.add(bytes);
    return digest.hex();
}

std::string sha256_file(const std::filesystem::path& path) {
    const File file = File::open(path, File::Mode::read);
    Sha256 digest;
    std::vector<std::byte> piece(1u << 20);
    for (std::uint64_t at = 0, size = file.size(); at < size; at += piece.size()) {
        const auto count = std::min<std::uint64_t>(piece.size(), size - at);
        file.read_at(at, std::span(piece).first(count));
        digest.add(std::span(piece).first(count));
    }
    return digest.hex();
}

}  // namespace kerf::core
