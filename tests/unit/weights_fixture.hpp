// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <zlib.h>

#include <cstdint>
#include <string>
#include <vector>

#include "test_files.hpp"

namespace kerf::test {

/// A safetensors file of this header and these data, right or wrong.
inline std::string safetensors_file(const std::string& header, const std::string& data) {
    return raw<std::uint64_t>(header.size()) + header + data;
}

/// Builds a zip archive of stored entries; the settings make it lie.
struct ZipBuilder {
    struct Entry {
        std::string name, bytes;
        std::uint16_t method = 0, flags = 0x808;
        std::uint32_t claimed_size = 0;  // 0: the true one
        std::string local_name;          // empty: the true one
        std::uint32_t offset = 0;        // filled in; a value before build() is kept
        bool keep_offset = false;
    };
    std::vector<Entry> entries;
    bool zip64 = false;
    std::uint16_t extra_entries = 0;  // claimed but not there

    void add(const std::string& name, const std::string& bytes) {
        Entry entry;
        entry.name = name;
        entry.bytes = bytes;
        entries.push_back(entry);
    }
    std::string build() {
        std::string file, directory;
        for (auto& entry : entries) {
            if (!entry.keep_offset) entry.offset = static_cast<std::uint32_t>(file.size());
            file += local(entry);
            directory += listed(entry);
        }
        const auto start = static_cast<std::uint32_t>(file.size());
        file += directory;
        if (zip64) file += wide_end(start, directory.size());
        const auto count = static_cast<std::uint16_t>(entries.size() + extra_entries);
        return file + "PK\5\6" + raw<std::uint32_t>(0) + raw(count) + raw(count) +
               raw(static_cast<std::uint32_t>(directory.size())) + raw(zip64 ? 0xffffffffu : start) +
               raw<std::uint16_t>(0);
    }

private:
    static std::uint32_t crc(const Entry& entry) {
        return static_cast<std::uint32_t>(
            ::crc32_z(0, reinterpret_cast<const Bytef*>(entry.bytes.data()), entry.bytes.size()));
    }
    static std::string local(const Entry& entry) {
        const std::string name = entry.local_name.empty() ? entry.name : entry.local_name;
        return "PK\3\4" + raw<std::uint16_t>(0) + raw(entry.flags) + raw(entry.method) + std::string(16, '\0') +
               raw(static_cast<std::uint16_t>(name.size())) + raw<std::uint16_t>(0) + name + entry.bytes;
    }
    std::string listed(const Entry& entry) const {
        const auto size = entry.claimed_size ? entry.claimed_size : static_cast<std::uint32_t>(entry.bytes.size());
        const std::string extra = zip64 ? raw<std::uint16_t>(1) + raw<std::uint16_t>(24) + raw<std::uint64_t>(size) +
                                              raw<std::uint64_t>(size) + raw<std::uint64_t>(entry.offset)
                                        : "";
        const std::uint32_t narrow = zip64 ? 0xffffffffu : size;
        return "PK\1\2" + raw<std::uint32_t>(0) + raw(entry.flags) + raw(entry.method) + raw<std::uint32_t>(0) +
               raw(crc(entry)) + raw(narrow) + raw(narrow) + raw(static_cast<std::uint16_t>(entry.name.size())) +
               raw(static_cast<std::uint16_t>(extra.size())) + std::string(10, '\0') +
               raw(zip64 ? 0xffffffffu : entry.offset) + entry.name + extra;
    }
    std::string wide_end(std::uint64_t start, std::uint64_t bytes) const {
        const std::uint64_t at = start + bytes, count = entries.size();
        return "PK\6\6" + raw<std::uint64_t>(44) + std::string(12, '\0') + raw(count) + raw(count) + raw(bytes) +
               raw(start) + "PK\6\7" + raw<std::uint32_t>(0) + raw(at) + raw<std::uint32_t>(1);
    }
};

/// The pickle of a state dictionary, and the archive around it.
struct ArchiveBuilder {
    ZipBuilder zip;
    std::string pickle = "\x80\x02}(";
    bool finished = false;

    static std::string word(const std::string& text) {
        return core::text('X', raw(static_cast<std::uint32_t>(text.size())), text);
    }
    static std::string integer(std::int64_t number) { return "\x8a\x08" + raw(number); }
    static std::string tuple(const std::vector<std::int64_t>& numbers) {
        std::string out = "(";
        for (const auto number : numbers) out += integer(number);
        return out + "t";
    }
    static std::string storage(const std::string& type, const std::string& key, std::int64_t elements) {
        return core::text("(", word("storage"), "ctorch\n", type, "\n", word(key), word("cpu"), integer(elements),
                          "tQ");
    }
    static std::string tensor(const std::string& storage, std::int64_t offset, const std::vector<std::int64_t>& shape,
                              const std::vector<std::int64_t>& strides) {
        return core::text("ctorch._utils\n_rebuild_tensor_v2\n(", storage, integer(offset), tuple(shape),
                          tuple(strides),
                          "\x89"
                          "ccollections\nOrderedDict\n)RtR");
    }
    void add(const std::string& name, const std::string& value) { pickle += word(name) + value; }
    void add_storage(const std::string& key, const std::string& bytes) { zip.add("archive/data/" + key, bytes); }
    std::string build() {
        zip.add("archive/data.pkl", finished ? pickle : pickle + "u.");
        return zip.build();
    }
};

}  // namespace kerf::test
