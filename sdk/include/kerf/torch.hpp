// SPDX-License-Identifier: Apache-2.0
/// at::Tensor views for methods that want LibTorch. A plugin that includes this is of tier "exact": it is built with
/// kerf_add_plugin(... TORCH), and only a kerf with the very same LibTorch loads it.
#pragma once

#ifndef KERF_PLUGIN_USES_TORCH
#error "kerf/torch.hpp needs kerf_add_plugin(... TORCH), which writes the LibTorch version into the plugin's manifest"
#endif

#include <ATen/ATen.h>

#include <span>
#include <type_traits>

#include "kerf/job.hpp"

namespace kerf::inline v1 {

/// The same memory as a tensor [rows, columns]; valid as long as the view. A read-only view must not be written
/// through.
template <class T>
at::Tensor tensor(MatrixView<T> view) {
    using Plain = std::remove_const_t<T>;
    return at::from_blob(const_cast<Plain*>(view.data()), {view.rows(), view.columns()}, {view.stride(), 1},
                         at::TensorOptions().dtype(c10::CppTypeToScalarType<Plain>::value));
}
template <class T>
at::Tensor tensor(const Matrix<T>& matrix) {
    return tensor(matrix.view());
}
template <class T>
at::Tensor tensor(std::span<T> view) {
    using Plain = std::remove_const_t<T>;
    return at::from_blob(const_cast<Plain*>(view.data()), {static_cast<std::int64_t>(view.size())},
                         at::TensorOptions().dtype(c10::CppTypeToScalarType<Plain>::value));
}

/// The layer's weight as a tensor [out, in]; read-only.
inline at::Tensor weight_tensor(const Linear& layer) {
    return tensor(layer.weight<float>());
}
/// Gives the layer a new weight: any floating tensor [out, in] on the CPU.
inline void replace(Linear& layer, const at::Tensor& weight) {
    const at::Tensor plain = weight.to(at::kFloat).contiguous();
    if (plain.dim() != 2) bad_value(layer.name(), ": a weight has two dimensions, not ", plain.dim());
    layer.replace(MatrixView<const float>(plain.data_ptr<float>(), {plain.size(0), plain.size(1)}));
}

}  // namespace kerf::inline v1
