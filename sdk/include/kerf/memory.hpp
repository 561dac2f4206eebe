// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

#include "kerf/error.hpp"
#include "kerf/tensor.hpp"

namespace kerf::inline v1 {

/// Memory from the host's counted allocator: it shows in the run's memory budget and peak. Everything whose size grows
/// with a layer belongs here; small things may live in a std::vector. 64-byte aligned, not initialised.
template <class T>
class Buffer {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

public:
    Buffer() = default;
    Buffer(const kerf_host* host, kerf_job* job, std::int64_t size) : host_(host), job_(job), size_(size) {
        constexpr auto most = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(sizeof(T));
        if (size < 0 || size > most) throw Error(Code::argument, "a buffer of ", size, " elements");
        void* memory = nullptr;
        detail::call([&](kerf_error* e) {
            return host->alloc(job, static_cast<std::size_t>(size) * sizeof(T), 64, &memory, e);
        });
        data_ = static_cast<T*>(memory);
    }
    Buffer(Buffer&& other) noexcept
        : host_(other.host_),
          job_(other.job_),
          data_(std::exchange(other.data_, nullptr)),
          size_(std::exchange(other.size_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(host_, other.host_);
        std::swap(job_, other.job_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Buffer() {
        if (data_) host_->release(job_, data_);
    }

    T* data() const noexcept { return data_; }
    std::int64_t size() const noexcept { return size_; }
    std::span<T> span() const { return {data_, static_cast<std::size_t>(size_)}; }
    T& operator[](std::int64_t i) const { return data_[i]; }

private:
    const kerf_host* host_ = nullptr;
    kerf_job* job_ = nullptr;
    T* data_ = nullptr;
    std::int64_t size_ = 0;
};

/// A row-major matrix in counted memory. Usable wherever a MatrixView is.
template <class T>
class Matrix {
public:
    Matrix() = default;
    Matrix(const kerf_host* host, kerf_job* job, Shape shape)
        : buffer_(host, job, elements(shape)), view_(buffer_.data(), shape) {}
    Matrix(Matrix&& other) noexcept : buffer_(std::move(other.buffer_)), view_(std::exchange(other.view_, {})) {}
    Matrix& operator=(Matrix&& other) noexcept {
        buffer_ = std::move(other.buffer_);
        view_ = std::exchange(other.view_, {});
        return *this;
    }

    MatrixView<T> view() const noexcept { return view_; }
    operator MatrixView<T>() const noexcept { return view_; }
    operator MatrixView<const T>() const noexcept { return view_; }
    T* data() const noexcept { return view_.data(); }
    Shape shape() const noexcept { return view_.shape(); }
    std::int64_t rows() const noexcept { return view_.rows(); }
    std::int64_t columns() const noexcept { return view_.columns(); }
    std::span<T> row(std::int64_t r) const { return view_.row(r); }
    T& operator()(std::int64_t r, std::int64_t c) const { return view_(r, c); }

private:
    static std::int64_t elements(Shape shape) {
        if (shape.rows < 0 || shape.columns < 0 ||
            (shape.columns > 0 && shape.rows > std::numeric_limits<std::int64_t>::max() / shape.columns))
            throw Error(Code::argument, "a matrix of ", shape.rows, " x ", shape.columns);
        return shape.rows * shape.columns;
    }
    Buffer<T> buffer_;
    MatrixView<T> view_;
};

}  // namespace kerf::inline v1
