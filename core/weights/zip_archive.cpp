// SPDX-License-Identifier: Apache-2.0
#include "core/weights/zip_archive.hpp"

#include <zlib.h>

#include <algorithm>
#include <functional>

#include "core/support/error.hpp"
#include "core/weights/bounded.hpp"

namespace kerf::core {
namespace {

// Signatures and fixed sizes, from the PKWARE application note.
constexpr std::uint32_t local_signature = 0x04034b50, listed_signature = 0x02014b50, end_signature = 0x06054b50;
constexpr std::uint32_t zip64_end_signature = 0x06064b50, zip64_locator_signature = 0x07064b50;
constexpr std::size_t listed_bytes = 46, end_bytes = 22, zip64_locator_bytes = 20;
constexpr std::size_t comment_limit = 65535;
constexpr std::uint32_t in_zip64 = 0xffffffffu;
constexpr std::uint16_t encrypted_flag = 1, zip64_extra = 1;

}  // namespace

/// One record of the central directory.
struct ZipArchive::Listed {
    std::string name;
    std::uint16_t flags, method;
    std::uint32_t crc32;
    std::uint64_t packed_bytes, bytes, offset;
};

ZipArchive::ZipArchive(std::span<const std::byte> archive, std::string what)
    : archive_(archive), what_(std::move(what)) {
    const Directory directory = find_directory();
    if (directory.offset > archive_.size() || directory.bytes > archive_.size() - directory.offset)
        bad_input(what_, ": the zip directory lies outside of the file; is it cut off?");
    if (directory.entries > directory.bytes / listed_bytes)
        bad_input(what_, ": the zip directory claims ", directory.entries, " entries in ", directory.bytes, " bytes");
    BoundedReader reader(archive_.subspan(directory.offset, directory.bytes), what_ + ": the zip directory");
    std::vector<std::span<const std::byte>> used;
    for (std::uint64_t i = 0; i < directory.entries; ++i) {
        Listed listed = read_listed(reader);
        used.push_back(locate(listed, directory));
        const auto bytes = used.back().last(static_cast<std::size_t>(listed.bytes));
        entries_.push_back({std::move(listed.name), bytes, listed.crc32});
    }
    if (reader.left() != 0) bad_input(what_, ": the zip directory has ", reader.left(), " bytes after its last entry");
    refuse_shared_bytes(std::move(used));
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
    const auto twin = std::adjacent_find(entries_.begin(), entries_.end(),
                                         [](const Entry& a, const Entry& b) { return a.name == b.name; });
    if (twin != entries_.end()) bad_input(what_, ": the zip archive has two entries ", twin->name);
}

const ZipArchive::Entry* ZipArchive::find(std::string_view name) const {
    const auto at = std::lower_bound(entries_.begin(), entries_.end(), name,
                                     [](const Entry& entry, std::string_view wanted) { return entry.name < wanted; });
    return at != entries_.end() && at->name == name ? &*at : nullptr;
}

void ZipArchive::verify(const Entry& entry) const {
    const auto crc = ::crc32_z(0, reinterpret_cast<const Bytef*>(entry.bytes.data()), entry.bytes.size());
    if (crc != entry.crc32) bad_input(what_, ": ", entry.name, " is damaged: its CRC-32 is not the one in the archive");
}

/// The end record is the last thing in the file, but for a comment whose length it gives.
std::span<const std::byte> ZipArchive::find_end_record() const {
    if (archive_.size() < end_bytes) bad_input(what_, ": ", archive_.size(), " bytes are too few for a zip archive");
    const std::size_t last = archive_.size() - end_bytes;
    for (std::size_t back = 0; back <= std::min(last, comment_limit); ++back) {
        BoundedReader reader(archive_.subspan(last - back), what_);
        if (reader.number<std::uint32_t>() != end_signature) continue;
        reader.take(16);
        if (reader.number<std::uint16_t>() == back) return archive_.subspan(last - back);
    }
    bad_input(what_, ": has no zip directory at its end; is it cut off?");
}

ZipArchive::Directory ZipArchive::find_directory() const {
    const auto end = find_end_record();
    BoundedReader reader(end, what_);
    reader.take(4);
    const auto disk = reader.number<std::uint16_t>(), directory_disk = reader.number<std::uint16_t>();
    const auto entries_here = reader.number<std::uint16_t>(), entries = reader.number<std::uint16_t>();
    const auto bytes = reader.number<std::uint32_t>(), offset = reader.number<std::uint32_t>();
    if (entries == 0xffff || bytes == in_zip64 || offset == in_zip64) return read_zip64(archive_.size() - end.size());
    if (disk != 0 || directory_disk != 0 || entries_here != entries)
        bad_input(what_, ": is one volume of a zip archive in several");
    return {offset, bytes, entries};
}

ZipArchive::Directory ZipArchive::read_zip64(std::size_t end_record) const {
    if (end_record < zip64_locator_bytes) bad_input(what_, ": the zip64 directory is missing");
    BoundedReader locator(archive_.subspan(end_record - zip64_locator_bytes), what_);
    if (locator.number<std::uint32_t>() != zip64_locator_signature)
        bad_input(what_, ": the zip64 directory is missing");
    locator.take(4);
    const auto offset = locator.number<std::uint64_t>();
    if (offset > archive_.size()) bad_input(what_, ": the zip64 directory lies outside of the file");
    BoundedReader reader(archive_.subspan(static_cast<std::size_t>(offset)), what_ + ": the zip64 directory");
    if (reader.number<std::uint32_t>() != zip64_end_signature) bad_input(what_, ": the zip64 directory is missing");
    reader.take(8 + 2 + 2 + 4 + 4);  // its own length, versions, volumes
    const auto entries_here = reader.number<std::uint64_t>(), entries = reader.number<std::uint64_t>();
    if (entries_here != entries) bad_input(what_, ": is one volume of a zip archive in several");
    const auto bytes = reader.number<std::uint64_t>(), directory = reader.number<std::uint64_t>();
    return {directory, bytes, entries};
}

ZipArchive::Listed ZipArchive::read_listed(BoundedReader& reader) const {
    Listed listed;
    if (reader.number<std::uint32_t>() != listed_signature) bad_input(what_, ": the zip directory is damaged");
    reader.take(2 + 2);  // versions
    listed.flags = reader.number<std::uint16_t>();
    listed.method = reader.number<std::uint16_t>();
    reader.take(2 + 2);  // time
    listed.crc32 = reader.number<std::uint32_t>();
    listed.packed_bytes = reader.number<std::uint32_t>();
    listed.bytes = reader.number<std::uint32_t>();
    const auto name_bytes = reader.number<std::uint16_t>(), extra_bytes = reader.number<std::uint16_t>();
    const auto comment_bytes = reader.number<std::uint16_t>();
    reader.take(2 + 2 + 4);  // volume, attributes
    listed.offset = reader.number<std::uint32_t>();
    listed.name = reader.characters(name_bytes);
    if (has_control_characters(listed.name))
        bad_input(what_, ": the zip directory has an entry name with control characters in it");
    BoundedReader extras(reader.take(extra_bytes), what_ + ": the zip directory's entry " + listed.name);
    reader.take(comment_bytes);
    while (extras.left() >= 4) {
        const auto id = extras.number<std::uint16_t>(), size = extras.number<std::uint16_t>();
        const auto body = extras.take(size);
        if (id != zip64_extra) continue;
        // Only the values that did not fit above are here, in this order.
        BoundedReader wide(body, what_ + ": the zip64 sizes of " + listed.name);
        for (std::uint64_t* value : {&listed.bytes, &listed.packed_bytes, &listed.offset})
            if (*value == in_zip64) *value = wide.number<std::uint64_t>();
        break;
    }
    return listed;
}

/// The bytes from the entry's local header to the end of its data.
std::span<const std::byte> ZipArchive::locate(const Listed& listed, const Directory& directory) const {
    if (listed.flags & encrypted_flag) bad_input(what_, ": the zip entry ", listed.name, " is encrypted");
    if (listed.method != 0 || listed.packed_bytes != listed.bytes)
        bad_input(what_, ": the zip entry ", listed.name,
                  " is compressed; torch.save stores its entries as they are, so save it anew");
    if (listed.offset > directory.offset)
        bad_input(what_, ": the zip entry ", listed.name, " lies behind the directory");
    const auto from_header =
        archive_.first(static_cast<std::size_t>(directory.offset)).subspan(static_cast<std::size_t>(listed.offset));
    BoundedReader local(from_header, what_ + ": the zip entry " + listed.name);
    if (local.number<std::uint32_t>() != local_signature)
        bad_input(what_, ": the zip entry ", listed.name, " has no local header");
    local.take(2 + 2);  // version, flags
    const auto method = local.number<std::uint16_t>();
    local.take(2 + 2 + 4 + 4 + 4);  // time, CRC and sizes, which may be left to the directory
    const auto name_bytes = local.number<std::uint16_t>(), extra_bytes = local.number<std::uint16_t>();
    if (local.characters(name_bytes) != listed.name || method != listed.method)
        bad_input(what_, ": the zip entry ", listed.name, " has a local header that differs from the directory");
    local.take(extra_bytes);
    local.take(listed.bytes);
    return from_header.first(local.position());
}

void ZipArchive::refuse_shared_bytes(std::vector<std::span<const std::byte>> used) const {
    const std::less<const std::byte*> before;
    std::sort(used.begin(), used.end(), [&](auto a, auto b) { return before(a.data(), b.data()); });
    for (std::size_t i = 1; i < used.size(); ++i)
        if (before(used[i].data(), used[i - 1].data() + used[i - 1].size()))
            bad_input(what_, ": two entries of the zip archive share bytes");
}

}  // namespace kerf::core
