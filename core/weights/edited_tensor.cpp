// SPDX-License-Identifier: Apache-2.0
#include "core/weights/edited_tensor.hpp"

#include <algorithm>

#include "core/support/error.hpp"

namespace kerf::core {

EditedTensor::EditedTensor(const std::string& name, Selection selection, const StoredTensor* base,
                           std::shared_ptr<const LazyTensor> lazy)
    : LazyTensor({name, base ? base->dtype : DType::f32, {}, {}}),
      selection_(std::move(selection)),
      base_(base),
      lazy_(std::move(lazy)) {
    if (!base_ && !selection_.values) internal_error(name, ": an edit without a source or values");
    shape_ = base_ ? base_->shape : std::vector{std::int64_t(selection_.values->size())};
    if (shape_.empty() || shape_.size() > 2)
        internal_error(name, ": edits are for vectors and matrices, not ", format_shape(shape_));
    const std::int64_t elements = shape_[0] * (shape_.size() > 1 ? shape_[1] : 1);
    if (selection_.values && std::int64_t(selection_.values->size()) != elements)
        internal_error(name, ": ", selection_.values->size(), " values for ", format_shape(shape_));
    if (selection_.mask && std::int64_t(selection_.mask->size()) != elements)
        internal_error(name, ": a mask of ", selection_.mask->size(), " elements for ", format_shape(shape_));
    described_.shape = selected_shape(selection_, shape_);
}

const std::vector<std::int64_t>& EditedTensor::kept(std::size_t dimension) const {
    static const std::vector<std::int64_t> all;
    return dimension < selection_.kept.size() ? selection_.kept[dimension] : all;
}

/// Rows of the source, edited in nothing yet.
void EditedTensor::read_base(std::int64_t first, std::span<float> out) const {
    const std::int64_t width = shape_.size() > 1 ? shape_[1] : 1, begin = first * width;
    if (selection_.values) {
        std::copy_n(selection_.values->begin() + begin, out.size(), out.begin());
    } else if (lazy_) {
        lazy_->read_rows(first, out);
    } else {
        const std::size_t size = dtype_bytes(base_->dtype);
        to_float32({base_->name,
                    base_->dtype,
                    {std::int64_t(out.size())},
                    base_->bytes.subspan(std::size_t(begin) * size, out.size() * size)},
                   out);
    }
}

/// What the fills and the mask make of a row; all of a vector is one row.
void EditedTensor::edit_row(std::int64_t row, std::span<float> values) const {
    const int along = shape_.size() > 1 ? 1 : 0;
    for (const auto& fill : selection_.fills) {
        if (fill.dimension == along)
            for (const auto index : fill.indices) values[std::size_t(index)] = fill.value;
        else if (std::binary_search(fill.indices.begin(), fill.indices.end(), row))
            std::fill(values.begin(), values.end(), fill.value);
    }
    if (!selection_.mask) return;
    const std::size_t begin = std::size_t(row) * values.size();
    for (std::size_t i = 0; i < values.size(); ++i)
        if (!(*selection_.mask)[begin + i]) values[i] = 0;
}

void EditedTensor::read_rows(std::int64_t first, std::span<float> out) const {
    const bool is_vector = shape_.size() == 1;
    const std::size_t width = std::size_t(shape_.back()), made = std::size_t(described_.shape.back());
    const auto& rows = kept(0);
    const auto& along = kept(is_vector ? 0 : 1);
    // What cannot be read in rows is read as a whole.
    std::vector<float> whole(has_cheap_rows() || is_vector ? 0 : std::size_t(shape_[0]) * width), one(width);
    if (!whole.empty()) read_base(0, whole);
    const auto take = [&](std::int64_t row, std::int64_t from, std::span<float> into) {
        if (whole.empty())
            read_base(row, one);
        else
            std::copy_n(whole.begin() + row * std::int64_t(width), width, one.begin());
        edit_row(row, one);
        for (std::size_t i = 0; i < into.size(); ++i)
            into[i] = one[along.empty() ? std::size_t(from) + i : std::size_t(along[std::size_t(from) + i])];
    };
    if (is_vector) return take(0, first, out);
    for (std::size_t i = 0; i * made < out.size(); ++i) {
        const auto row = first + std::int64_t(i);
        take(rows.empty() ? row : rows[std::size_t(row)], 0, out.subspan(i * made, made));
    }
}

std::string EditedTensor::storage() const {
    if (!base_) return "made";
    return text(lazy_ ? lazy_->storage() : std::string(dtype_name(base_->dtype)), ", edited");
}

std::uint64_t EditedTensor::stored_bytes() const {
    return std::uint64_t(described_.elements()) * dtype_bytes(described_.dtype);
}

void EditedTensor::for_each_part(const std::function<void(const StoredTensor&)>& visit) const {
    if (lazy_)
        lazy_->for_each_part(visit);
    else if (base_)
        visit(*base_);
}

}  // namespace kerf::core
