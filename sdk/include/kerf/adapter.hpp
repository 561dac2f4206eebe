// SPDX-License-Identifier: Apache-2.0
/// Everything that the author of an adapter needs; docs/adapter-authors.md shows how. Header-only, C++20, links
/// nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "kerf/architecture.hpp"
#include "kerf/info.hpp"
#include "kerf/plugin.hpp"
#include "kerf/values.hpp"

namespace kerf::inline v1 {

using arch::Architecture;

/// Base of an adapter: says what models of a family are, from their config.json.
class Adapter : public detail::AdapterTag {
public:
    virtual ~Adapter() = default;

    /// Whether this config is of the family; looks at model_type and the like.
    virtual bool accepts(const Config& config) const = 0;
    /// What the model is. Throws for every config value that it does not honour, by name (Config::must_be and friends):
    /// a model that is silently read wrong is worse than one that is refused.
    virtual Architecture describe(const Config& config) const = 0;

    template <class A>
    static const kerf_adapter* kerf_table();

private:
    template <class A>
    struct Thunks;
};

template <class A>
struct Adapter::Thunks {
    static kerf_code accepts(const kerf_host* host, const kerf_values* config, std::int32_t* yes,
                             kerf_error* error) noexcept {
        return detail::guarded(error, [&] {
            const A adapter;
            *yes = static_cast<const Adapter&>(adapter).accepts(Config(host, config, A::info.name(), "config.json"))
                       ? 1
                       : 0;
        });
    }
    static kerf_code describe(const kerf_host* host, const kerf_values* config, kerf_sink sink, void* context,
                              kerf_error* error) noexcept {
        return detail::guarded(error, [&] {
            const A adapter;
            const Config values(host, config, A::info.name(), "config.json");
            const auto document = static_cast<const Adapter&>(adapter).describe(values).json(A::info.name());
            sink(context, detail::text(document));
        });
    }
};

template <class A>
const kerf_adapter* Adapter::kerf_table() {
    static constexpr kerf_adapter table{
        sizeof(kerf_adapter),
        KERF_ABI_VERSION,
        {A::info.id.data() + (A::info.id.size() - A::info.name().size()), A::info.name().size()},
        {A::info.version.data(), A::info.version.size()},
        {A::info.summary.data(), A::info.summary.size()},
        Thunks<A>::accepts,
        Thunks<A>::describe};
    return &table;
}

}  // namespace kerf::inline v1
