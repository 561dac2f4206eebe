// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string_view>

#include "kerf/group_affine.hpp"
#include "kerf/memory.hpp"
#include "kerf/tensor.hpp"

namespace kerf::inline v1 {

/// One linear layer y = x Wᵀ, in the hands of compress().
class Linear {
public:
    Linear(const kerf_host* host, kerf_layer* layer) : host_(host), layer_(layer) {}

    /// As in the checkpoint: "model.layers.0.mlp.down_proj".
    std::string_view name() const { return detail::view(host_->name(layer_)); }

    /// W [out, in], float, read-only, the host's; valid until replace() or the end of the job.
    template <class T = float>
    MatrixView<const T> weight() const {
        const DLTensor* view = nullptr;
        detail::call([&](kerf_error* e) { return host_->weight(layer_, &view, e); });
        return detail::matrix_of<T>(*view, "the weight");
    }

    /// Gives the layer its new weight, whole or not at all. The host copies and checks; the argument is spent.
    void replace(Matrix<float>&& weight) { replace(MatrixView<const float>(weight)); }
    void replace(MatrixView<const float> weight) {
        detail::DlView view(weight);
        const kerf_part part{detail::text("weight"), view.get()};
        submit("dense/1", 0, {&part, 1});
    }
    /// In AxisMethod::prune(), of a linear with a bias: `bias_shift` [out] is added to it.
    void replace(MatrixView<const float> weight, std::span<const float> bias_shift) {
        detail::DlView view(weight);
        std::int64_t size = static_cast<std::int64_t>(bias_shift.size()), stride = 1;
        const DLTensor shift{
            const_cast<float*>(bias_shift.data()), {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, &size, &stride, 0};
        const kerf_part parts[] = {{detail::text("weight"), view.get()}, {detail::text("bias_shift"), &shift}};
        submit("dense/1", 0, parts);
    }
    void replace(GroupAffine&& weight) {
        detail::DlView codes(weight.codes()), scales(weight.scales()), zeros(weight.zeros()),
            index(weight.group_index());
        const kerf_part parts[] = {{detail::text("codes"), codes.get()},
                                   {detail::text("scales"), scales.get()},
                                   {detail::text("zeros"), zeros.get()},
                                   {detail::text("group_index"), index.get()}};
        submit("int-group/1", weight.bits(), parts);
    }

    kerf_layer* handle() const noexcept { return layer_; }

private:
    void submit(std::string_view layout, int bits, std::span<const kerf_part> parts) {
        const kerf_replacement replacement{sizeof(kerf_replacement), bits, detail::text(layout), parts.data(),
                                           parts.size()};
        detail::call([&](kerf_error* e) { return host_->replace(layer_, &replacement, e); });
    }
    const kerf_host* host_;
    kerf_layer* layer_;
};

}  // namespace kerf::inline v1
