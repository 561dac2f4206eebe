// SPDX-License-Identifier: Apache-2.0
/// Everything that the author of a compression method needs; docs/method-authors.md shows how. Header-only, C++20,
/// links nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "kerf/curvature.hpp"
#include "kerf/group_affine.hpp"
#include "kerf/info.hpp"
#include "kerf/instance.hpp"
#include "kerf/job.hpp"
#include "kerf/layer.hpp"
#include "kerf/plugin.hpp"
#include "kerf/schema.hpp"

namespace kerf::inline v1 {

/// A linear layer before any weight is read: W [out, in], `tokens` of calibration (0: none).
struct LinearShape {
    std::int64_t out = 0, in = 0, tokens = 0;
    std::string_view name;
};

/// What compressing one layer takes and leaves. Feeds `kerf plan`, the memory budget and the progress bar.
struct Cost {
    std::int64_t scratch_bytes =
        0;             ///< largest sum of live Buffer and Matrix memory during compress(), GroupAffine included
    double flops = 0;  ///< of compress(); Grams and factors are the core's
    int bits = 0;      ///< of the codes; 0 = the result is a dense float weight
    std::int64_t group_size = -1;  ///< columns that share a scale; -1 = a whole row
    double bits_per_weight =
        0;  ///< stored; 0 = follows from bits and group_size, or from the output's dtype when dense
};

/// Base of a method. `Options` is a plain struct whose member initialisers are the defaults. A method is made once a
/// stage (and once for each set of overridden options), then asked for costs, then handed layers.
template <class Options>
class Method : public detail::MethodTag {
public:
    virtual ~Method() = default;

    /// Called once `opt` is set: the place to refuse combinations of options that the schema cannot (throw
    /// bad_value(...)).
    virtual void check() const {}
    /// Reads no weight.
    virtual Cost cost(const LinearShape& layer) const = 0;
    /// Compresses one layer: reads layer.weight(), ends with layer.replace(). Throws Error to say why not.
    virtual void compress(Linear& layer, Job& job) const = 0;

    Options opt;

    template <class M>
    static const kerf_method* kerf_table();

private:
    template <class M>
    struct Thunks;
};

template <class Options>
template <class M>
struct Method<Options>::Thunks {
    using Instance = detail::Instance<M, Options>;

    static kerf_code cost(void* self, const kerf_linear_shape* shape, kerf_cost* out, kerf_error* error) noexcept {
        return detail::guarded(error, [&] {
            const auto& method = static_cast<const Instance*>(self)->method;
            const auto cost =
                method.cost({shape->out_features, shape->in_features, shape->tokens, detail::view(shape->name)});
            if (cost.scratch_bytes < 0)
                throw Error(Code::internal, "cost() gives ", cost.scratch_bytes, " bytes of scratch");
            const auto group = cost.group_size > 0 ? cost.group_size : shape->in_features;
            kerf_cost filled{};
            filled.struct_size = out->struct_size;
            filled.bits = cost.bits;
            filled.group_size = cost.group_size;
            filled.scratch_bytes = static_cast<std::uint64_t>(cost.scratch_bytes);
            filled.flops = cost.flops;
            filled.bits_per_weight = cost.bits_per_weight;
            // A 16-bit scale and a zero of `bits` bits a group: what the packed formats store.
            if (cost.bits > 0 && cost.bits_per_weight == 0)
                filled.bits_per_weight =
                    cost.bits + (16.0 + cost.bits) / static_cast<double>(std::max<std::int64_t>(1, group));
            filled.layout = detail::text(cost.bits > 0 ? "int-group/1" : "dense/1");
            std::memcpy(out, &filled, std::min<std::size_t>(out->struct_size, sizeof(filled)));
        });
    }
    static kerf_code compress(void* self, kerf_job* job, kerf_layer* layer, kerf_error* error) noexcept {
        return detail::guarded(error, [&] {
            const auto* instance = static_cast<const Instance*>(self);
            Linear linear(instance->host, layer);
            Job work(instance->host, job);
            instance->method.compress(linear, work);
        });
    }
};

template <class Options>
template <class M>
const kerf_method* Method<Options>::kerf_table() {
    static const kerf_method table = [] {
        kerf_method t = detail::Instance<M, Options>::table();
        t.cost = Thunks<M>::cost;
        t.compress = Thunks<M>::compress;
        return t;
    }();
    return &table;
}

}  // namespace kerf::inline v1
