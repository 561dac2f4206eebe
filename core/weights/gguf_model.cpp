// SPDX-License-Identifier: Apache-2.0
#include "core/weights/gguf_model.hpp"

#include <algorithm>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

/// The values of quantised blocks are multiples of float16 scales; a plain type stays what it is.
DType held_as(const GgufFile& file, const GgufView& view) {
    const auto plain = file.described(*view.stored).type->plain;
    if (!plain) return DType::f16;
    return view.add != 0 ? DType::f32 : *plain;
}

}  // namespace

std::int64_t GgufRows::stored(std::int64_t row) const {
    if (order == Order::same) return first + row;
    if (order == Order::rotary) {
        const std::int64_t head = row / head_dim, inside = row % head_dim, half = head_dim / 2;
        return first + head * head_dim + 2 * (inside % half) + inside / half;
    }
    const std::int64_t queries = heads / kv_heads, slots = queries + 2;
    const std::int64_t group = row / (slots * head_dim), slot = row / head_dim % slots, inside = row % head_dim;
    const std::int64_t head = slot < queries ? group * queries + slot : heads + (slot - queries) * kv_heads + group;
    return first + head * head_dim + inside;
}

GgufModel GgufModel::open(const std::filesystem::path& path) {
    GgufModel model;
    model.file_ = std::make_shared<const GgufFile>(path);
    const auto& architecture = gguf::architecture_of(*model.file_);
    model.config_ = gguf::config_of(*model.file_, architecture);
    model.views_ = gguf::views_of(*model.file_, architecture, model.config_);
    return model;
}

GgufTensor::GgufTensor(std::shared_ptr<const GgufFile> file, GgufView view)
    : LazyTensor({view.name, held_as(*file, view), view.shape, {}}),
      file_(std::move(file)),
      view_(std::move(view)),
      stored_columns_(file_->described(*view_.stored).shape.back()) {}

std::string GgufTensor::storage() const {
    return std::string(file_->described(*view_.stored).type->name);
}

std::uint64_t GgufTensor::stored_bytes() const {
    const GgufType& type = *file_->described(*view_.stored).type;
    return static_cast<std::uint64_t>(described_.elements() / type.elements * type.bytes);
}

void GgufTensor::read_stored_row(std::int64_t row, std::span<float> out) const {
    const auto& stored = *view_.stored;
    const GgufType& type = *file_->described(stored).type;
    const auto bytes = static_cast<std::size_t>(stored_columns_ / type.elements * type.bytes);
    const auto part = stored.bytes.subspan(static_cast<std::size_t>(row) * bytes, bytes);
    if (type.plain)
        to_float32({stored.name, *type.plain, {stored_columns_}, part}, out);
    else
        gguf_decode(type, part, out);
}

void GgufTensor::read_rows(std::int64_t first, std::span<float> out) const {
    if (view_.transposed) return read_columns(first, out);
    const auto add = static_cast<float>(view_.add);
    if (view_.shape.size() == 1) {
        std::vector<float> all(static_cast<std::size_t>(stored_columns_));
        read_stored_row(0, all);
        for (std::size_t i = 0; i < out.size(); ++i)
            out[i] = all[static_cast<std::size_t>(view_.rows.stored(first + static_cast<std::int64_t>(i)))] + add;
        return;
    }
    const auto columns = static_cast<std::size_t>(stored_columns_);
    for (std::size_t i = 0; i < out.size() / columns; ++i) {
        const auto row = out.subspan(i * columns, columns);
        read_stored_row(view_.rows.stored(first + static_cast<std::int64_t>(i)), row);
        if (add != 0)
            for (float& value : row) value += add;
    }
}

/// Each row of a transposed tensor is a column of the stored one.
void GgufTensor::read_columns(std::int64_t first, std::span<float> out) const {
    const auto width = static_cast<std::size_t>(view_.shape[1]);
    const std::size_t count = out.size() / width;
    std::vector<float> row(static_cast<std::size_t>(stored_columns_));
    for (std::size_t column = 0; column < width; ++column) {
        read_stored_row(static_cast<std::int64_t>(column), row);
        for (std::size_t i = 0; i < count; ++i) out[i * width + column] = row[static_cast<std::size_t>(first) + i];
    }
}

}  // namespace kerf::core
