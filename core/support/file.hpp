// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace kerf::core {

/// An open file descriptor with one owner.
class File {
public:
    enum class Mode { read, write_new, read_write };

    /// Throws Error(environment) with the path and the system's reason. write_new truncates what is there.
    static File open(const std::filesystem::path& path, Mode mode);

    /// A nameless file in `folder` that vanishes with its descriptor: nothing is left behind, however the process ends.
    static File temporary(const std::filesystem::path& folder);
    /// Where the file system knows no nameless files, names that begin so exist for a moment.
    static constexpr std::string_view temporary_prefix = "kerf-spill-";

    File() = default;
    File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}
    File& operator=(File&& other) noexcept;
    ~File();

    std::uint64_t size() const;
    /// Whole or an Error; never short.
    void read_at(std::uint64_t offset, std::span<std::byte> into) const;
    void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
    void append(std::string_view bytes);
    /// New bytes are zero and have their room on the disk.
    void resize(std::uint64_t bytes);
    /// Data and metadata on the disk before it returns.
    void sync();
    int descriptor() const noexcept { return fd_; }
    const std::filesystem::path& path() const noexcept { return path_; }

private:
    int fd_ = -1;
    std::filesystem::path path_;
};

/// A file mapped read-only. `forget` hands the pages of a range back to the system, so that resident memory stays
/// bounded.
class MappedFile {
public:
    static MappedFile open(const std::filesystem::path& path);
    MappedFile() = default;
    MappedFile(MappedFile&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    MappedFile& operator=(MappedFile&& other) noexcept;
    ~MappedFile();
    std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
    void forget(std::span<const std::byte> range) const noexcept;
    /// Asks the system to read a range before it is needed; returns at once.
    void prefetch(std::span<const std::byte> range) const noexcept;

private:
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

/// The whole file as text; Error(input) when it is missing or larger than `limit`.
std::string read_text(const std::filesystem::path& path, std::uint64_t limit = 64u << 20);

/// Writes a sibling temporary file, syncs it, renames it over `path`, syncs the folder: the old content or the new,
/// never a part.
void write_atomically(const std::filesystem::path& path, std::string_view content);

/// Renames a folder onto a place that is free or holds another folder; the two then change places in one step.
void replace_folder(const std::filesystem::path& from, const std::filesystem::path& to);

/// Makes a rename or a new file in this folder durable.
void sync_folder(const std::filesystem::path& folder);

/// Lower-case hex SHA-256 of a file or of bytes.
std::string sha256_file(const std::filesystem::path& path);
std::string sha256(std::span<const std::byte> bytes);

}  // namespace kerf::core
