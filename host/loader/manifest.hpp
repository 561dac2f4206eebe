// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::host {

struct AbiVersion {
    std::uint32_t major = 0, minor = 0;
    std::string text() const;
};

/// What a plugin says of itself in its ELF note; known before any of its code runs.
struct Manifest {
    std::string id, version;
    AbiVersion abi, min_abi;
    std::string torch;  ///< none, stable, exact:2.13.0
    std::vector<std::string> methods, adapters;
};

/// What this host offers, as far as a manifest can ask for it.
struct HostVersions {
    AbiVersion abi;
    std::string torch;  ///< "2.13.0"
};
HostVersions this_host();

/// The text of the note that makes a file a plugin, found by our own bounds-checked reader: the file is not loaded, and
/// nothing in it is believed. Error(input) names the file: no ELF file, another machine's, no plugin, damaged.
std::string read_note(const std::filesystem::path& file);

/// The lines of a note. Error(input) says which is wrong.
Manifest parse_manifest(std::string_view note, const std::filesystem::path& file);

inline Manifest read_manifest(const std::filesystem::path& file) {
    return parse_manifest(read_note(file), file);
}

/// Error(input) when a plugin with this manifest cannot work here; says what to do about it.
void check_compatible(const Manifest& manifest, const HostVersions& host, const std::filesystem::path& file);

/// Whether `id` is letters (lower case), digits, '.', '_' and '-': what ids and names of components are made of.
bool valid_id(std::string_view id);

}  // namespace kerf::host
