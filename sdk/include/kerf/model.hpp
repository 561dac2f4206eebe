// SPDX-License-Identifier: Apache-2.0
/// For pruners that see the whole model (ModelMethod of structure.hpp): what the loss says about its weights, and edits
/// that are carried out while the method runs. Header-only, C++20.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kerf/structure.hpp"

namespace kerf::inline v1 {

/// A tensor W with its gradients, float: a linear [out, in], a table [rows, width], a vector as one row. Valid during
/// the call that hands it out.
struct Gradient {
    std::string_view tensor;
    MatrixView<const float> values;   ///< W itself
    MatrixView<const float> mean;     ///< ∂ℓ/∂W, ℓ the mean cross-entropy over all next-token predictions
    MatrixView<const float> squares;  ///< (1/N) Σ_n (∂ℓ_n/∂W)² over the N windows; empty unless asked for
};

/// Which calibration windows a sweep goes over, and how much of each.
struct SweepWindows {
    std::int64_t first = 0, count = 0;  ///< count = 0: all from `first` on
    std::int64_t length = 0;            ///< the first tokens of each; 0: whole windows
};

/// The model that a Structure shows, whole. Valid during ModelMethod::prune().
class WholeModel {
public:
    explicit WholeModel(const Structure& structure)
        : host_(structure.host()),
          model_(structure.handle()),
          table_(detail::service<kerf_model_1>(host_, "kerf.model/1")) {}

    /// Of the model as it is now.
    std::int64_t parameters() const { return table_->parameters(model_); }
    std::int64_t blocks() const { return table_->blocks(model_); }
    /// What the tensor of a place belongs to: a linear's role ("q", "qkv", "gate", …), "rms_norm", "layer_norm", or of
    /// tables "tokens", "tied" (tokens, and the head's weight too), "positions".
    std::string_view kind(const Axis& axis, std::size_t place) const {
        return detail::view(table_->kind(model_, axis.handle(), static_cast<std::int64_t>(place)));
    }

    /// Sweeps forward and back over the windows and hands out the gradients of the tensors named, each once, from the
    /// head to the embedding, in memory one at a time. Gives ℓ. What `take` throws ends the sweep.
    template <class Take>
    double gradients(const Job& job, const SweepWindows& windows, std::span<const std::string> tensors, bool squares,
                     Take&& take) const {
        std::vector<kerf_text> names;
        for (const auto& name : tensors) names.push_back(detail::text(name));
        kerf_sweep_request request{};
        request.struct_size = sizeof(request);
        request.squares = squares ? 1 : 0;
        request.first_window = windows.first;
        request.windows = windows.count;
        request.length = windows.length;
        request.tensors = names.data();
        request.tensor_count = names.size();
        request.context = const_cast<void*>(static_cast<const void*>(std::addressof(take)));
        request.take = [](void* context, const kerf_gradient* raw, kerf_error* error) noexcept -> kerf_code {
            return detail::guarded(error, [&] {
                Gradient made;
                made.tensor = detail::view(raw->tensor);
                made.values = detail::matrix_of<float>(*raw->values, made.tensor);
                made.mean = detail::matrix_of<float>(*raw->mean, made.tensor);
                if (raw->squares) made.squares = detail::matrix_of<float>(*raw->squares, made.tensor);
                (*static_cast<std::remove_reference_t<Take>*>(context))(made);
            });
        };
        const auto* service = detail::service<kerf_gradients_1>(host_, "kerf.gradients/1");
        double loss = 0;
        detail::call([&](kerf_error* e) { return service->sweep(job.handle(), model_, &request, &loss, e); });
        return loss;
    }

    /// Carries out the removals so far and gives the smaller model's axes; every Axis from before is spent.
    /// `keep_divisor`: norms divide by the number of features that there were, so that removing equals zeroing; else by
    /// the number of those that stay.
    Structure commit(bool keep_divisor) const {
        detail::call([&](kerf_error* e) { return table_->commit(model_, keep_divisor ? 1 : 0, e); });
        return {host_, model_};
    }
    /// Keeps the first `count` blocks and drops the rest, at once; every Axis from before is spent.
    void keep_blocks(std::int64_t count) const {
        detail::call([&](kerf_error* e) { return table_->keep_blocks(model_, count, e); });
    }

private:
    const kerf_host* host_;
    kerf_model* model_;
    const kerf_model_1* table_;
};

}  // namespace kerf::inline v1
