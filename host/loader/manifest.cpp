// SPDX-License-Identifier: Apache-2.0
#include "host/loader/manifest.hpp"

#include <algorithm>
#include <charconv>
#include <map>

#include "core/support/error.hpp"
#include "kerf/abi.h"

namespace kerf::host {
namespace {

using core::bad_input;
using core::text;

class Lines {
public:
    Lines(std::string_view note, const std::filesystem::path& file) : file_(file.string()) {
        while (!note.empty()) {
            const auto end = note.find('\n');
            add(note.substr(0, end));
            note = end == std::string_view::npos ? std::string_view{} : note.substr(end + 1);
        }
    }

    template <class... Pieces>
    [[noreturn]] void fail(const Pieces&... pieces) const {
        bad_input(file_, " is damaged: its manifest ", pieces...);
    }
    std::string needed(const char* key) const {
        const auto found = lines_.find(key);
        if (found == lines_.end()) fail("has no line \"", key, "=\"");
        return found->second;
    }
    std::string id(const char* key) const {
        const auto value = needed(key);
        if (!valid_id(value)) fail("has the line ", key, "=", value, ", which is no id");
        return value;
    }
    AbiVersion abi(const char* key) const {
        const auto value = needed(key);
        AbiVersion out;
        const char* end = value.data() + value.size();
        const auto major = std::from_chars(value.data(), end, out.major);
        const bool dotted = major.ec == std::errc() && major.ptr != end && *major.ptr == '.';
        const auto minor = dotted ? std::from_chars(major.ptr + 1, end, out.minor) : major;
        if (!dotted || minor.ec != std::errc() || minor.ptr != end || out.major > 0xffff || out.minor > 0xffff)
            fail("has the line ", key, "=", value, ", which is no version");
        return out;
    }
    std::vector<std::string> names(const char* key) const {
        const auto value = needed(key);
        std::vector<std::string> out;
        for (std::size_t at = 0; at < value.size();) {
            const auto end = std::min(value.find(',', at), value.size());
            out.push_back(value.substr(at, end - at));
            if (!valid_id(out.back())) fail("has the line ", key, "=", value, ", which is no list of names");
            at = end + 1;
        }
        for (std::size_t i = 0; i < out.size(); ++i)
            if (std::find(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(i), out[i]) !=
                out.begin() + static_cast<std::ptrdiff_t>(i))
                fail("lists ", out[i], " twice");
        return out;
    }

private:
    void add(std::string_view line) {
        if (line.empty()) return;
        // What is printed later must not be able to steer a terminal.
        if (std::any_of(line.begin(), line.end(),
                        [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
            fail("contains control characters");
        const auto equals = line.find('=');
        if (equals == std::string_view::npos || equals == 0) fail("has a line without \"=\"");
        if (!lines_.emplace(line.substr(0, equals), line.substr(equals + 1)).second)
            fail("has the key ", line.substr(0, equals), " twice");
    }

    std::string file_;
    std::map<std::string, std::string, std::less<>> lines_;
};

}  // namespace

std::string AbiVersion::text() const {
    return core::text(major, ".", minor);
}

HostVersions this_host() {
    return {{KERF_ABI_MAJOR, KERF_ABI_MINOR}, KERF_LIBTORCH_VERSION};
}

bool valid_id(std::string_view id) {
    return !id.empty() && id.size() <= 128 && id.front() != '.' && id.back() != '.' &&
           id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789._-") == std::string_view::npos;
}

Manifest parse_manifest(std::string_view note, const std::filesystem::path& file) {
    const Lines lines(note, file);
    Manifest out;
    out.abi = lines.abi("abi");  // first: of another major the rest may read differently
    if (out.abi.major != KERF_ABI_MAJOR) {
        out.min_abi = out.abi;
        return out;
    }
    out.id = lines.id("id");
    out.version = lines.needed("version");
    if (out.version.empty() || out.version.find_first_not_of("0123456789.") != std::string::npos)
        lines.fail("has the line version=", out.version, ", which is no version");
    out.min_abi = lines.abi("min_abi");
    out.torch = lines.needed("torch");
    out.methods = lines.names("methods");
    out.adapters = lines.names("adapters");
    if (out.methods.empty() && out.adapters.empty()) lines.fail("lists neither methods nor adapters");
    return out;
}

void check_compatible(const Manifest& manifest, const HostVersions& host, const std::filesystem::path& file) {
    if (manifest.abi.major != host.abi.major)
        bad_input(file.string(), " is built for kerf's plugin ABI ", manifest.abi.text(), ", this kerf speaks ",
                  host.abi.text(),
                  manifest.abi.major > host.abi.major ? "; update kerf, or take the plugin's build for ABI "
                                                      : "; take the plugin's build for ABI ",
                  host.abi.major);
    if (manifest.min_abi.major != host.abi.major || manifest.min_abi.minor > host.abi.minor)
        bad_input(file.string(), " needs kerf's plugin ABI ", manifest.min_abi.text(), " or newer, this kerf has ",
                  host.abi.text(), "; update kerf");
    if (manifest.torch == "none" || manifest.torch == "stable") return;
    if (manifest.torch == "exact:" + host.torch) return;
    bad_input(file.string(),
              manifest.torch.starts_with("exact:")
                  ? text(" is built with LibTorch ", manifest.torch.substr(6))
                  : text(" needs LibTorch in the unknown way \"", manifest.torch, "\""),
              ", this kerf runs LibTorch ", host.torch, "; rebuild the plugin against that version");
}

}  // namespace kerf::host
