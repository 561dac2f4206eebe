// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "core/exec/states.hpp"
#include "core/pipeline/model.hpp"

namespace kerf::core {

/// exp(mean over windows of the mean negative log-likelihood of a window's length − 1 next-token predictions), float32
/// logits, nothing prepended, no overlap.
struct Perplexity {
    double value = 0;
    double standard_error = 0;  ///< of value, from the spread between windows (delta method); 0 for one window
    std::int64_t tokens = 0;    ///< predicted tokens
    std::int64_t windows = 0;
};

/// How near a model's next-token distributions are to a reference model's, over the same tokens.
struct Agreement {
    double kl = 0;                 ///< mean KL(reference ‖ model), in nats
    double kl_standard_error = 0;  ///< between windows
    double top1 = 0;               ///< share of positions whose most likely token is the same
};

struct Evaluated {
    Perplexity model, reference;
    Agreement agreement;
};

/// Told `tokens` more tokens have gone through one block (or through the head, which counts as one).
using Tick = std::function<void(std::int64_t tokens)>;

/// Perplexity of `model` on the windows and, when `reference` is not null, of the reference too, and their agreement.
/// Streams block by block; hidden states lie in nameless files in `scratch`. Memory does not depend on the number of
/// windows.
Evaluated evaluate(const Model& model, const Model* reference, const Windows& windows, DType compute,
                   const std::filesystem::path& scratch, const Tick& tick);

/// Logits of a few windows, float32 [samples · length, vocabulary], for tests and tools.
std::vector<float> logits(const Model& model, const Windows& windows, DType compute,
                          const std::filesystem::path& scratch);

/// The residual stream that enters block `block` (blocks() = after the last), likewise [samples · length, hidden].
std::vector<float> hidden_states(const Model& model, const Windows& windows, std::size_t block, DType compute,
                                 const std::filesystem::path& scratch);

/// Puts the prologue's result for every unit under "x".
void embed_all(const Model& model, const Units& units, DType compute, States& states);
/// Runs one block for every unit: "x" becomes the block's output.
void run_block(const Model& model, std::size_t block, const Units& units, DType compute, States& states,
               const Tick& tick);

}  // namespace kerf::core
