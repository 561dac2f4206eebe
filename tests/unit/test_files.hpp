// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

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

}  // namespace kerf::test
