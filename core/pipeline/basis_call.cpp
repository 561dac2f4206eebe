// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/basis_call.hpp"

namespace kerf::core {

ResidualView::ResidualView(const Graph& fused, const Stream& stream, std::int64_t tokens, std::int64_t parameters) {
    std::vector<std::int64_t> on(stream.positions.size(), 0);
    std::int64_t all = 0, counted = 0;
    for (std::size_t part = 0; part < stream.uses.size(); ++part)
        for (std::size_t i = 0; i < stream.uses[part].size(); ++i) {
            const Op& op = part_ops(fused, part)[i];
            const StreamUse& use = stream.uses[part][i];
            const std::int64_t mine = parameter_count(expected_tensors({op}));
            all += mine;
            if (use.writes >= 0) {
                const std::int64_t each =
                    op.kind == OpKind::embedding ? op.rows : op.columns + (op.bias.empty() ? 0 : 1);
                on[std::size_t(use.writes)] += each;
                counted += each * (op.kind == OpKind::embedding ? op.columns : op.rows);
            } else if (use.reads >= 0) {
                on[std::size_t(use.reads)] += op.rows;
                counted += op.rows * op.columns;
            }
        }
    for (std::size_t p = 0; p < on.size(); ++p) {
        const auto& position = stream.positions[p];
        const std::int32_t kind = position.block < 0 ? KERF_POSITION_EMBEDDING
                                  : position.inside  ? KERF_POSITION_INSIDE
                                                     : KERF_POSITION_BLOCK;
        positions_.push_back({sizeof(kerf_position),
                              kind,
                              {position.name.data(), position.name.size()},
                              position.block,
                              position.features,
                              on[p]});
    }
    residual_ = {sizeof(kerf_residual),
                 0,
                 positions_.data(),
                 std::int64_t(positions_.size()),
                 std::int64_t(fused.blocks.size()),
                 tokens,
                 parameters,
                 all - counted};
}

}  // namespace kerf::core
