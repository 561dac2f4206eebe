// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::core {

class BoundedReader;

/// The directory of a zip archive of stored (uncompressed) entries, as torch.save writes them, zip64 included.
/// Everything is checked when it is made: each entry lies in the file, agrees with its local header, and shares no byte
/// with another, so that no archive can stand for more data than it has. Errors are Error(input) and begin with `what`.
class ZipArchive {
public:
    struct Entry {
        std::string name;
        std::span<const std::byte> bytes;  ///< in the archive's own bytes
        std::uint32_t crc32;
    };

    ZipArchive(std::span<const std::byte> archive, std::string what);

    const std::vector<Entry>& entries() const noexcept { return entries_; }  ///< sorted by name
    const Entry* find(std::string_view name) const;
    /// Error(input) when the entry's bytes do not have its CRC-32. Reads them all.
    void verify(const Entry& entry) const;

private:
    struct Directory {
        std::uint64_t offset, bytes, entries;
    };
    struct Listed;

    Directory find_directory() const;
    std::span<const std::byte> find_end_record() const;
    Directory read_zip64(std::size_t end_record) const;
    Listed read_listed(BoundedReader& reader) const;
    std::span<const std::byte> locate(const Listed& listed, const Directory& directory) const;
    void refuse_shared_bytes(std::vector<std::span<const std::byte>> used) const;

    std::span<const std::byte> archive_;
    std::string what_;
    std::vector<Entry> entries_;
};

}  // namespace kerf::core
