// SPDX-License-Identifier: Apache-2.0
/// Sums of a piece's gradients over the batches of a sweep. Inside core/exec alone: LibTorch's headers.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/exec/differentiable.hpp"
#include "core/exec/gradient_sweep.hpp"

namespace kerf::core {

/// What one unit of windows says; more than one entry where a piece was run in slices of rows.
struct UnitGradients {
    std::vector<PieceGradients> pieces;
    std::span<const std::int64_t> ids;
    Batch batch;
    /// A tied head's gradient on the rows of this unit's tokens, [tokens, width]: the other half of a table's gradient,
    /// which squares need.
    at::Tensor tied_rows;
    std::string tied;  ///< the tensor that they are of; empty where there are none
};

/// The sums of one tensor. `mean` and `squares` stay sums until divide().
class GradientSum {
public:
    GradientSum(std::string tensor, std::int64_t rows, std::int64_t columns, bool squares);

    /// Adds what a unit says; with squares a unit is one window. Gives what was added on the rows of `rows_of`
    /// (token ids), [ids, columns], when that is not empty.
    at::Tensor add(const UnitGradients& unit, std::span<const std::int64_t> rows_of = {});
    /// Ends the sums over `windows` windows.
    TensorGradient finish(std::int64_t windows) &&;

private:
    void add_products(const UnitGradients& unit, float* to, bool fresh) const;
    void add_table(const UnitGradients& unit);

    TensorGradient sum_;
    bool squares_;
};

}  // namespace kerf::core
