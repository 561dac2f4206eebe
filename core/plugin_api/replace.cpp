// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "core/plugin_api/tables.hpp"
#include "core/support/parallel.hpp"
#include "core/support/text.hpp"

namespace kerf::core {
namespace {

template <class T>
constexpr DLDataType type_of() {
    constexpr auto code = std::is_floating_point_v<T> ? kDLFloat : std::is_signed_v<T> ? kDLInt : kDLUInt;
    return {static_cast<std::uint8_t>(code), 8 * sizeof(T), 1};
}

/// The parts of one replace() call, taken by name, each once.
class Parts {
public:
    Parts(const kerf_layer& layer, const kerf_replacement& given) : layer_(layer), given_(given) {
        if (given.part_count > 0 && !given.parts) fail("part_count is ", given.part_count, " but parts is NULL");
        if (given.part_count > 16) fail("has ", given.part_count, " parts");
    }

    template <class... Pieces>
    [[noreturn]] void fail(const Pieces&... pieces) const {
        bad_input(layer_.name, ": replace with layout ", view_of(given_.layout), ": ", pieces...);
    }

    /// A copy of part `name`, which must have this shape (columns -1: a vector of `rows`).
    template <class T>
    std::vector<T> take(std::string_view name, std::int64_t rows, std::int64_t columns) {
        const DLTensor& t = find(name);
        const auto type = type_of<T>();
        if (t.dtype.code != type.code || t.dtype.bits != type.bits || t.dtype.lanes != 1)
            fail(name, " has the wrong element type");
        if (t.device.device_type != kDLCPU) fail(name, " is not in main memory");
        const bool matrix = columns >= 0;
        if (t.ndim != (matrix ? 2 : 1) || !t.shape || !t.strides)
            fail(name, " needs ", matrix ? 2 : 1, " dimensions with shape and strides");
        if (t.shape[0] != rows || (matrix && t.shape[1] != columns))
            fail(name, " has shape ", shape_text(t), ", expected ",
                 matrix ? format_shape({rows, columns}) : format_shape({rows}));
        const std::int64_t width = matrix ? columns : 1, step = matrix ? t.strides[1] : 1;
        std::vector<T> out(static_cast<std::size_t>(rows * width));
        if (out.empty()) return out;
        if (!t.data) fail(name, " has no data");
        const auto* from = static_cast<const std::byte*>(t.data) + t.byte_offset;
        for (std::int64_t r = 0; r < rows; ++r) {
            const auto* row = from + r * t.strides[0] * std::int64_t(sizeof(T));
            T* to = out.data() + r * width;
            if (step == 1)
                std::memcpy(to, row, static_cast<std::size_t>(width) * sizeof(T));
            else
                for (std::int64_t c = 0; c < width; ++c)
                    std::memcpy(to + c, row + c * step * std::int64_t(sizeof(T)), sizeof(T));
        }
        return out;
    }
    std::int64_t columns_of(std::string_view name) {
        const DLTensor& t = find(name);
        if (t.ndim != 2 || !t.shape) fail(name, " needs two dimensions");
        return t.shape[1];
    }
    bool has(std::string_view name) const {
        return std::any_of(given_.parts, given_.parts + given_.part_count,
                           [&](const kerf_part& part) { return view_of(part.name) == name; });
    }
    void expect_only(std::initializer_list<std::string_view> names) const {
        for (std::size_t i = 0; i < given_.part_count; ++i) {
            const auto name = view_of(given_.parts[i].name);
            if (std::find(names.begin(), names.end(), name) == names.end()) fail("has no part \"", name, "\"");
            for (std::size_t j = 0; j < i; ++j)
                if (view_of(given_.parts[j].name) == name) fail(name, " is given twice");
        }
    }

private:
    const DLTensor& find(std::string_view name) const {
        for (std::size_t i = 0; i < given_.part_count; ++i)
            if (view_of(given_.parts[i].name) == name && given_.parts[i].tensor) return *given_.parts[i].tensor;
        fail("the part \"", name, "\" is missing");
    }
    static std::string shape_text(const DLTensor& t) {
        return format_shape(std::vector<std::int64_t>(t.shape, t.shape + t.ndim));
    }

    const kerf_layer& layer_;
    const kerf_replacement& given_;
};

/// columns: of a matrix; 0 for a vector.
template <class T, class Fits>
void check_all(const Parts& parts, const char* name, const std::vector<T>& values, std::int64_t columns,
               const Fits& fits, const std::string& rule) {
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (fits(values[i])) continue;
        const auto at = static_cast<std::int64_t>(i);
        const auto place = columns > 0 ? text(at / columns, ", ", at % columns) : text(at);
        parts.fail(name, "[", place, "] = ", +values[i], ", ", rule);
    }
}

bool finite(float value) {
    return std::isfinite(value);
}

Replacement read_dense(const kerf_layer& layer, const kerf_replacement& given, Parts& parts) {
    parts.expect_only({"weight", "bias_shift"});
    if (given.bits != 0) parts.fail("bits = ", given.bits, ", but a dense weight has 0");
    Replacement out;
    out.weight = parts.take<float>("weight", layer.out, layer.in);
    check_all(parts, "weight", out.weight, layer.in, finite, "which is not finite");
    if (!parts.has("bias_shift")) return out;
    if (!layer.takes_bias_shift)
        throw ServiceFailure(KERF_E_UNSUPPORTED, text(layer.name,
                                                      ": a bias_shift is for linears with a bias, and for "
                                                      "methods that prune axes"));
    out.bias_shift = parts.take<float>("bias_shift", layer.out, -1);
    check_all(parts, "bias_shift", out.bias_shift, 0, finite, "which is not finite");
    return out;
}

Replacement read_int_group(const kerf_layer& layer, const kerf_replacement& given, Parts& parts) {
    parts.expect_only({"codes", "scales", "zeros", "group_index"});
    if (given.bits < 1 || given.bits > 8) parts.fail("bits = ", given.bits, ", but codes have 1 to 8 bits");
    Replacement out;
    out.bits = given.bits;
    out.groups = parts.columns_of("scales");
    if (out.groups < 1 || out.groups > std::max<std::int64_t>(layer.in, 1))
        parts.fail("scales have ", out.groups, " groups for ", layer.in, " columns");
    out.codes = parts.take<std::uint8_t>("codes", layer.out, layer.in);
    out.scales = parts.take<float>("scales", layer.out, out.groups);
    out.zeros = parts.take<float>("zeros", layer.out, out.groups);
    out.group_index = parts.take<std::int32_t>("group_index", layer.in, -1);
    const int largest = (1 << given.bits) - 1;
    check_all(
        parts, "codes", out.codes, layer.in, [&](int code) { return code <= largest; },
        text("which does not fit in ", given.bits, " bits"));
    check_all(parts, "scales", out.scales, out.groups, finite, "which is not finite");
    check_all(
        parts, "zeros", out.zeros, out.groups, [](float z) { return std::isfinite(z) && z == std::nearbyint(z); },
        "which is no whole number");
    check_all(
        parts, "group_index", out.group_index, 0, [&](std::int32_t g) { return g >= 0 && g < out.groups; },
        text("but there are ", out.groups, " groups"));
    return out;
}

}  // namespace

std::vector<float> Replacement::to_dense() const {
    if (dense()) return weight;
    std::vector<float> made(codes.size());
    constexpr std::int64_t rows_at_a_time = 64;
    parallel_for(out, rows_at_a_time, [&](std::int64_t lo, std::int64_t hi) {
        for (std::int64_t r = lo; r < hi; ++r) {
            const float* scale = scales.data() + r * groups;
            const float* zero = zeros.data() + r * groups;
            for (std::int64_t c = 0; c < in; ++c) {
                const auto g = group_index[static_cast<std::size_t>(c)];
                const auto at = static_cast<std::size_t>(r * in + c);
                made[at] = scale[g] * (static_cast<float>(codes[at]) - zero[g]);
            }
        }
    });
    return made;
}

kerf_code host_replace(kerf_layer* layer, const kerf_replacement* given, kerf_error* error) {
    return host_call(error, [&] {
        if (!layer || !given || given->struct_size < sizeof(kerf_replacement))
            bad_input("replace: called without a layer or a replacement");
        if (layer->replacement) bad_input(layer->name, ": replace was called a second time");
        Parts parts(*layer, *given);
        const auto layout = view_of(given->layout);
        if (layout != "dense/1" && layout != "int-group/1")
            throw ServiceFailure(KERF_E_UNSUPPORTED, text(layer->name, ": this kerf knows no layout \"", layout,
                                                          "\" (dense/1, int-group/1)"));
        Replacement made =
            layout == "dense/1" ? read_dense(*layer, *given, parts) : read_int_group(*layer, *given, parts);
        made.layout = layout;
        made.out = layer->out;
        made.in = layer->in;
        layer->replacement = std::move(made);
    });
}

}  // namespace kerf::core
