// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/support/error.hpp"

namespace kerf::test {

/// A new folder that goes with its owner.
class TemporaryFolder {
public:
    TemporaryFolder() {
        auto pattern = (std::filesystem::temp_directory_path() / "kerf-test-XXXXXX").string();
        if (!::mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder");
        path_ = pattern;
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    const std::filesystem::path& path() const { return path_; }
    std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

    std::filesystem::path write(const std::string& name, const std::string& content) const {
        std::ofstream(path_ / name, std::ios::binary) << content;
        return path_ / name;
    }

private:
    std::filesystem::path path_;
};

/// A file that no disk holds, for tests that write thousands of them.
class MemoryFile {
public:
    explicit MemoryFile(const std::string& content) : fd_(::memfd_create("kerf-test", MFD_CLOEXEC)) {
        if (fd_ < 0 || ::write(fd_, content.data(), content.size()) != static_cast<ssize_t>(content.size()))
            throw std::runtime_error("no memory file");
    }
    MemoryFile(const MemoryFile&) = delete;
    MemoryFile& operator=(const MemoryFile&) = delete;
    ~MemoryFile() { ::close(fd_); }
    std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

private:
    int fd_;
};

inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

/// The little-endian bytes of a value.
template <class T>
std::string raw(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
}

template <class T>
std::string raw_all(const std::vector<T>& values) {
    std::string bytes;
    for (const T value : values) bytes += raw(value);
    return bytes;
}

/// A safetensors file of this header and these data, right or wrong.
inline std::string safetensors_file(const std::string& header, const std::string& data) {
    return raw<std::uint64_t>(header.size()) + header + data;
}

/// What the Error(fault) says that `body` throws; fails the test when it throws none, or another one.
template <class Body>
std::string message_of(Body body, core::Fault fault = core::Fault::input) {
    try {
        body();
    } catch (const core::Error& error) {
        EXPECT_EQ(error.fault(), fault) << error.what();
        return error.what();
    } catch (const std::exception& error) {
        ADD_FAILURE() << "threw something other than kerf::core::Error: " << error.what();
        return {};
    }
    ADD_FAILURE() << "threw nothing";
    return {};
}

/// True when `body` returns or throws Error(input) or Error(environment), the only ends that a damaged file may lead
/// to.
template <class Body>
bool ends_well(Body body) {
    try {
        body();
        return true;
    } catch (const core::Error& error) {
        return error.fault() == core::Fault::input || error.fault() == core::Fault::environment;
    } catch (...) {
        return false;
    }
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
        return "(" + word("storage") + "ctorch\n" + type + "\n" + word(key) + word("cpu") + integer(elements) + "tQ";
    }
    static std::string tensor(const std::string& storage, std::int64_t offset, const std::vector<std::int64_t>& shape,
                              const std::vector<std::int64_t>& strides) {
        return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset) + tuple(shape) + tuple(strides) +
               "\x89"
               "ccollections\nOrderedDict\n)RtR";
    }
    void add(const std::string& name, const std::string& value) { pickle += word(name) + value; }
    void add_storage(const std::string& key, const std::string& bytes) { zip.add("archive/data/" + key, bytes); }
    std::string build() {
        zip.add("archive/data.pkl", finished ? pickle : pickle + "u.");
        return zip.build();
    }
};

}  // namespace kerf::test
