// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "core/weights/lazy_tensor.hpp"
#include "core/weights/selection.hpp"

namespace kerf::core {

/// A vector or matrix that a Selection makes of another. Matrices are read row by row: beside the result there is never
/// more than one row of the source in memory, unless a few rows of the source cost as much as all (packed weights).
class EditedTensor final : public LazyTensor {
public:
    /// `base` is the source as it is known to the checkpoint, `lazy` how it is read (null: as it is stored); both null
    /// for a tensor of values alone. Error(internal) when the selection does not fit the source.
    EditedTensor(const std::string& name, Selection selection, const StoredTensor* base,
                 std::shared_ptr<const LazyTensor> lazy);

    void read_rows(std::int64_t first, std::span<float> out) const override;
    std::string storage() const override;
    std::uint64_t stored_bytes() const override;
    bool has_cheap_rows() const noexcept override { return !lazy_ || lazy_->has_cheap_rows(); }
    void for_each_part(const std::function<void(const StoredTensor&)>& visit) const override;

private:
    const std::vector<std::int64_t>& kept(std::size_t dimension) const;
    void read_base(std::int64_t first, std::span<float> out) const;
    void edit_row(std::int64_t row, std::span<float> values) const;

    Selection selection_;
    const StoredTensor* base_;
    std::shared_ptr<const LazyTensor> lazy_;
    std::vector<std::int64_t> shape_;  // of the source
};

}  // namespace kerf::core
