// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/exec/resident_weights.hpp"
#include "core/graph/graph.hpp"

namespace kerf::core {

/// One thing to do of a decoding step. Values live in planes: numbered buffers, which steps hand on as soon as nothing
/// reads a value any more.
struct DecoderStep {
    struct Linear {
        const ResidentMatrix* weight = nullptr;
        std::vector<float> bias;  ///< empty for none
    };
    Op op;                            ///< of linears: the first one
    std::vector<int> in, out;         ///< planes; −1 for token ids and positions
    std::vector<std::int64_t> width;  ///< of the outputs
    std::vector<Linear> linears;      ///< all that read the same value, one an output
    std::vector<float> weight, bias;  ///< of norms, an offset included
    int rotation = -1;                ///< rope: which of DecoderPlan::rotations
    int layer = -1;                   ///< attention: which of DecoderPlan::attentions
};

/// Ops that run one after the other, from the plane `input` to the plane `output`.
struct DecoderPart {
    std::vector<DecoderStep> steps;
    int input = -1, output = -1;
};

/// A graph made ready for decoding: names resolved, linears of a shared input together.
struct DecoderPlan {
    DecoderPlan(const Graph& graph, const WeightSource& source, const ResidentWeights& weights);

    DecoderPart prologue;
    std::vector<DecoderPart> blocks;
    DecoderPart epilogue;
    int planes = 0;
    std::vector<Op> rotations;   ///< rope ops that differ in what they turn by
    std::vector<Op> attentions;  ///< one an attention op of the graph
};

}  // namespace kerf::core
