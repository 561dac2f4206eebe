// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "kerf/error.hpp"
#include "kerf/info.hpp"
#include "kerf/schema.hpp"

namespace kerf::inline v1 {

/// What a method declares as `static constexpr auto can = …`.
enum Capability : std::uint64_t {
    ParallelLayers = KERF_CAN_PARALLEL_LAYERS,  ///< compress() of one instance may run for several layers at once
    Resumable = KERF_CAN_RESUME,                ///< same inputs, same bytes
    Prunes = KERF_PRUNES                        ///< removes weights; refused on weights that lie in integer codes
};
constexpr Capability operator|(Capability a, Capability b) {
    return static_cast<Capability>(static_cast<std::uint64_t>(a) | static_cast<std::uint64_t>(b));
}

/// For methods without options.
struct NoOptions {};

namespace detail {

/// What methods of every scope have in common: a method M with its options, made and destroyed by the host.
template <class M, class Options>
struct Instance {
    const kerf_host* host = nullptr;
    M method;

    static Schema<Options> schema() {
        Schema<Options> out;
        if constexpr (requires { M::options(out); }) M::options(out);
        return out;
    }
    static kerf_code create(const kerf_host* host, const kerf_values* values, void** self, kerf_error* error) noexcept {
        return guarded(error, [&] {
            auto instance = std::make_unique<Instance>();
            instance->host = host;
            instance->method.opt = schema().read(Config(host, values, M::info.name(), "options"));
            instance->method.check();
            *self = instance.release();
        });
    }
    static void destroy(void* self) noexcept { delete static_cast<Instance*>(self); }

    /// A table with everything but the functions of one scope.
    static kerf_method table() {
        static const std::string json = schema().json();
        kerf_method t{};
        t.struct_size = sizeof(kerf_method);
        t.abi = KERF_ABI_VERSION;
        t.id = text(M::info.name());
        t.version = text(M::info.version);
        t.summary = text(M::info.summary);
        t.options_schema = text(json);
        if constexpr (requires { M::can; }) t.capabilities = static_cast<std::uint64_t>(M::can);
        if constexpr (requires { M::needs; }) t.needs = static_cast<std::uint64_t>(M::needs);
        if constexpr (requires(const M& method) { method.needs_now(); })
            t.needs_of = [](void* self) noexcept -> std::uint64_t {
                return static_cast<std::uint64_t>(static_cast<const Instance*>(self)->method.needs_now());
            };
        t.create = create;
        t.destroy = destroy;
        return t;
    }
};

}  // namespace detail
}  // namespace kerf::inline v1
