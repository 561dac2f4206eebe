// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "kerf/error.hpp"

namespace kerf::inline v1 {

/// Rows and columns; of a weight: [out, in].
struct Shape {
    std::int64_t rows = 0, columns = 0;
    friend bool operator==(const Shape&, const Shape&) = default;
};

/// A row-major matrix that somebody else owns. `stride` is the distance of two rows in elements.
template <class T>
class MatrixView {
public:
    MatrixView() = default;
    MatrixView(T* data, Shape shape, std::int64_t stride) : data_(data), shape_(shape), stride_(stride) {}
    MatrixView(T* data, Shape shape) : MatrixView(data, shape, shape.columns) {}
    /// A mutable view is a read-only view.
    operator MatrixView<const T>() const noexcept requires(!std::is_const_v<T>) { return {data_, shape_, stride_}; }

    T* data() const noexcept { return data_; }
    Shape shape() const noexcept { return shape_; }
    std::int64_t rows() const noexcept { return shape_.rows; }
    std::int64_t columns() const noexcept { return shape_.columns; }
    std::int64_t stride() const noexcept { return stride_; }
    std::span<T> row(std::int64_t r) const { return {data_ + r * stride_, static_cast<std::size_t>(shape_.columns)}; }
    T& operator()(std::int64_t r, std::int64_t c) const { return data_[r * stride_ + c]; }
    /// Rows [first, first + count).
    MatrixView middle_rows(std::int64_t first, std::int64_t count) const {
        return {data_ + first * stride_, {count, shape_.columns}, stride_};
    }

private:
    T* data_ = nullptr;
    Shape shape_;
    std::int64_t stride_ = 0;
};

namespace detail {

template <class T>
constexpr DLDataType dl_type() {
    using Plain = std::remove_const_t<T>;
    constexpr auto bits = static_cast<std::uint8_t>(8 * sizeof(Plain));
    if constexpr (std::is_floating_point_v<Plain>)
        return {static_cast<std::uint8_t>(kDLFloat), bits, 1};
    else if constexpr (std::is_signed_v<Plain>)
        return {static_cast<std::uint8_t>(kDLInt), bits, 1};
    else
        return {static_cast<std::uint8_t>(kDLUInt), bits, 1};
}

/// A DLTensor with its shape and strides beside it; not to be copied, the tensor points into it.
class DlView {
public:
    template <class T>
    explicit DlView(const MatrixView<T>& m)
        : DlView(m.data(), dl_type<T>(), 2, {m.rows(), m.columns()}, {m.stride(), 1}) {}
    template <class T>
    explicit DlView(std::span<T> v)
        : DlView(v.data(), dl_type<T>(), 1, {static_cast<std::int64_t>(v.size()), 0}, {1, 0}) {}
    DlView(const DlView&) = delete;
    DlView& operator=(const DlView&) = delete;
    DLTensor* get() noexcept { return &tensor_; }

private:
    struct Pair {
        std::int64_t first, second;
    };
    DlView(const void* data, DLDataType type, std::int32_t dimensions, Pair shape, Pair strides)
        : shape_{shape.first, shape.second}, strides_{strides.first, strides.second} {
        tensor_.data =
            const_cast<void*>(data);  // DLPack knows no const; what the host may write to is its slot's promise
        tensor_.device = {kDLCPU, 0};
        tensor_.ndim = dimensions;
        tensor_.dtype = type;
        tensor_.shape = shape_;
        tensor_.strides = strides_;
        tensor_.byte_offset = 0;
    }
    std::int64_t shape_[2], strides_[2];
    DLTensor tensor_{};
};

/// A matrix from the host, with the checks that an author would forget.
template <class T>
MatrixView<const T> matrix_of(const DLTensor& tensor, std::string_view what) {
    constexpr auto type = dl_type<T>();
    if (tensor.dtype.code != type.code || tensor.dtype.bits != type.bits || tensor.dtype.lanes != 1)
        throw Error(Code::unsupported, what, " has another element type than the method asks for");
    if (tensor.ndim != 2 || !tensor.strides || tensor.strides[1] != 1)
        throw Error(Code::internal, what, " is no row-major matrix");
    if (tensor.device.device_type != kDLCPU) throw Error(Code::unsupported, what, " is not in main memory");
    const auto* data = static_cast<const std::byte*>(tensor.data) + tensor.byte_offset;
    return {reinterpret_cast<const T*>(data), {tensor.shape[0], tensor.shape[1]}, tensor.strides[0]};
}

}  // namespace detail
}  // namespace kerf::inline v1
