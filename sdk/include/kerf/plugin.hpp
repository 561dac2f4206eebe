// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "kerf/error.hpp"
#include "kerf/info.hpp"

namespace kerf::inline v1::detail {

template <class Tag, class Component, class Table, std::size_t Size>
void add_table(std::array<const Table*, Size>& tables, std::size_t& count) {
    if constexpr (std::is_base_of_v<Tag, Component>) tables[count++] = Component::template kerf_table<Component>();
}

/// The tables of a plugin, made when the host asks for them: nothing runs at load.
template <class... Components>
struct Tables {
    std::array<const kerf_method*, sizeof...(Components)> methods{};
    std::array<const kerf_adapter*, sizeof...(Components)> adapters{};
    std::size_t method_count = 0, adapter_count = 0;
    Tables() {
        (add_table<MethodTag, Components>(methods, method_count), ...);
        (add_table<AdapterTag, Components>(adapters, adapter_count), ...);
    }
};

template <class... Components>
kerf_code enter(const kerf_host* host, kerf_plugin* out, kerf_error* error) noexcept {
    static_assert(((std::is_base_of_v<MethodTag, Components> != std::is_base_of_v<AdapterTag, Components>)&&...),
                  "a component derives from kerf::Method<Options> or from kerf::Adapter");
    return guarded(error, [&] {
        if (!host || !out) throw Error(Code::argument, "the plugin's entry point was called without a table");
        if (host->abi >> 16 != KERF_ABI_MAJOR || host->struct_size < sizeof(kerf_host))
            throw Error(Code::version, "built for kerf's plugin ABI ", KERF_ABI_MAJOR, ".", KERF_ABI_MINOR,
                        ", this kerf has ", host->abi >> 16, ".", host->abi & 0xffff);
        if (out->struct_size < sizeof(kerf_plugin)) throw Error(Code::version, "the host's plugin table is too small");
        static const Tables<Components...> tables;
        out->method_count = static_cast<std::uint32_t>(tables.method_count);
        out->adapter_count = static_cast<std::uint32_t>(tables.adapter_count);
        out->methods = tables.methods.data();
        out->adapters = tables.adapters.data();
    });
}

}  // namespace kerf::inline v1::detail

/// Once in each plugin, outside any namespace: its components (methods, adapters). Makes the manifest that the host
/// reads before it loads the file, the tables, and the one exported symbol. The first component names the plugin.
#define KERF_PLUGIN(...)                                                                                             \
    namespace {                                                                                                      \
    [[gnu::used, gnu::section(KERF_NOTE_SECTION), gnu::aligned(4)]] constexpr auto kerf_manifest_note =              \
        ::kerf::detail::make_note<__VA_ARGS__>();                                                                    \
    }                                                                                                                \
    extern "C" KERF_EXPORT kerf_code kerf_plugin_entry(const kerf_host* host, kerf_plugin* out, kerf_error* error) { \
        return ::kerf::detail::enter<__VA_ARGS__>(host, out, error);                                                 \
    }
