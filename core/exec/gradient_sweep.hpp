// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/calibration/dataset.hpp"
#include "core/exec/program.hpp"
#include "core/graph/graph.hpp"

namespace kerf::core {

/// What calibration says about one tensor W of the graph. ℓ_n is the mean cross-entropy of window n's length − 1
/// next-token predictions, ℓ the mean of ℓ_n over the N windows (all of one length: the mean over all predictions).
struct TensorGradient {
    std::string tensor;                  ///< its name in the graph
    std::int64_t rows = 0, columns = 0;  ///< linear: [out, in], whatever the file's layout; table: [rows, width];
                                         ///< norm, bias: [1, size]
    std::vector<float> mean;             ///< ∂ℓ/∂W, row-major
    std::vector<float> squares;          ///< (1/N) Σ_n (∂ℓ_n/∂W)² elementwise, where it was asked for
};

struct SweepRequest {
    /// Tensors whose gradients are wanted: weights and biases of linears, of norms, tables. Asked from several threads.
    std::function<bool(const std::string& tensor)> wanted;
    bool squares = false;
    /// Takes each tensor's gradients as soon as they are whole, from the head to the embedding; nothing of them stays.
    std::function<void(TensorGradient&& gradient)> made;
    std::function<void(double flops)> progress;  ///< may be empty
    std::function<void()> check_cancelled;       ///< may be empty
};

/// One sweep over the windows, forward and back, in float32: ℓ. Checkpointed by block: forward passes leave what enters
/// each block in nameless files in `scratch`, the way back runs each block again under autograd. In memory at once: one
/// block's weights and the sums of its wanted gradients, and what its ops make of as many units of windows as there are
/// threads (with `squares` a unit is one window). Pieces below the last wanted tensor are not gone back through. The
/// same bytes at any number of threads.
///
/// Error(input): windows of one token, which predict nothing; squares of a tensor that several blocks share. (A tied
/// table is fine.) Error(numeric): a loss or gradient that is not finite, with its place.
double sweep_gradients(const Graph& graph, const WeightSource& weights, const Windows& windows,
                       const std::filesystem::path& scratch, const SweepRequest& request);

/// What a sweep takes, from the graph alone. `memory_bytes` is beyond what the process holds when idle.
struct SweepCost {
    std::uint64_t memory_bytes = 0, disk_bytes = 0;
    double flops = 0;
};
SweepCost sweep_cost(const Graph& graph, std::int64_t samples, std::int64_t length, const SweepRequest& request,
                     std::int64_t threads);

}  // namespace kerf::core
