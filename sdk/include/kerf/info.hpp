// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "kerf/abi.h"

#ifdef KERF_PLUGIN_USES_TORCH  // set by kerf_add_plugin(... TORCH) for every file of the plugin
#include <torch/headeronly/version.h>
#define KERF_TEXT_OF(value) #value
#define KERF_TEXT(value) KERF_TEXT_OF(value)
#define KERF_TORCH_TIER \
    "exact:" KERF_TEXT(TORCH_VERSION_MAJOR) "." KERF_TEXT(TORCH_VERSION_MINOR) "." KERF_TEXT(TORCH_VERSION_PATCH)
#else
#define KERF_TORCH_TIER "none"
#endif

namespace kerf::inline v1 {

/// What a component says of itself. `id` is dotted and yours alone ("org.example.tern"); recipes use its last part
/// ("tern").
struct Info {
    std::string_view id, version, summary;
    constexpr std::string_view name() const { return id.substr(id.rfind('.') + 1); }
};

namespace detail {

struct MethodTag {};
struct AdapterTag {};

constexpr bool valid_id(std::string_view id) {
    if (id.empty() || id.size() > 128 || id.front() == '.' || id.back() == '.') return false;
    for (const char c : id)
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-')) return false;
    return true;
}
constexpr bool valid_version(std::string_view version) {
    int numbers = 0;
    bool digit = false;
    for (const char c : version) {
        if (c >= '0' && c <= '9') {
            numbers += digit ? 0 : 1;
            digit = true;
        } else if (c == '.' && digit) {
            digit = false;
        } else {
            return false;
        }
    }
    return numbers == 3 && digit;
}

/// Writes into `data`, or only counts when that is NULL.
struct Piecewise {
    char* data = nullptr;
    std::size_t size = 0;
    constexpr void add(std::string_view piece) {
        for (const char c : piece) {
            if (data) data[size] = c;
            ++size;
        }
    }
    constexpr void add_number(std::uint32_t number) {
        if (number >= 10) add_number(number / 10);
        const char digit = static_cast<char>('0' + number % 10);
        add({&digit, 1});
    }
};

template <class Tag, class Component>
constexpr void add_name(Piecewise& out, bool& first) {
    if constexpr (std::is_base_of_v<Tag, Component>) {
        if (!first) out.add(",");
        out.add(Component::info.name());
        first = false;
    }
}
template <class Tag, class... Components>
constexpr void add_names(Piecewise& out) {
    bool first = true;
    (add_name<Tag, Components>(out, first), ...);
}

/// The youngest band whose slots a component cannot do without: what its base says as `abi_minor`, else 0, for every
/// feature of band 1.0 is in every host of major 1.
template <class Component>
constexpr std::uint32_t least_minor() {
    if constexpr (requires { Component::abi_minor; })
        return Component::abi_minor;
    else
        return 0;
}

/// The manifest's text; see abi.h. The first component gives the plugin its id and version.
template <class First, class... Rest>
constexpr std::size_t write_manifest(char* data) {
    Piecewise out{data};
    out.add("id=");
    out.add(First::info.id);
    out.add("\nversion=");
    out.add(First::info.version);
    out.add("\nabi=");
    out.add_number(KERF_ABI_MAJOR);
    out.add(".");
    out.add_number(KERF_ABI_MINOR);
    out.add("\nmin_abi=");
    out.add_number(KERF_ABI_MAJOR);
    out.add(".");
    out.add_number(std::max({least_minor<First>(), least_minor<Rest>()...}));
    out.add("\ntorch=" KERF_TORCH_TIER "\nmethods=");
    add_names<MethodTag, First, Rest...>(out);
    out.add("\nadapters=");
    add_names<AdapterTag, First, Rest...>(out);
    out.add("\n");
    return out.size;
}

template <std::size_t Size>
struct Note {
    std::uint32_t owner_size = 5, text_size = Size, type = KERF_NOTE_TYPE;
    char owner[8] = KERF_NOTE_OWNER;
    char body[(Size + 3) / 4 * 4] = {};
};

template <class... Components>
constexpr auto make_note() {
    static_assert(sizeof...(Components) > 0, "KERF_PLUGIN needs a component");
    static_assert((valid_id(Components::info.id) && ...), "an id is lower-case letters, digits, '.', '_' and '-'");
    static_assert((valid_version(Components::info.version) && ...), "a version is three numbers: 1.2.0");
    Note<write_manifest<Components...>(nullptr)> note;
    write_manifest<Components...>(note.body);
    return note;
}

}  // namespace detail
}  // namespace kerf::inline v1
