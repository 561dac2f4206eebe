// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include "core/weights/tensor_file.hpp"

namespace kerf::core {

/// A tensor that is made of what files hold whenever it is read: decoded, put in another order.
class LazyTensor {
public:
    virtual ~LazyTensor() = default;
    LazyTensor(const LazyTensor&) = delete;
    LazyTensor& operator=(const LazyTensor&) = delete;

    /// Its name and shape, the type that holds its values best, and no bytes.
    const StoredTensor& described() const noexcept { return described_; }
    /// Rows from `first` on, as many as `out` has places for; a row is everything but the first dimension.
    virtual void read_rows(std::int64_t first, std::span<float> out) const = 0;
    /// What it is stored as, for people ("Q4_1"), and how many bytes that takes.
    virtual std::string storage() const = 0;
    virtual std::uint64_t stored_bytes() const = 0;
    /// Whether a few rows cost less than all.
    virtual bool has_cheap_rows() const noexcept { return true; }
    /// Hands all stored tensors that this one is made of to `visit`.
    virtual void for_each_part(const std::function<void(const StoredTensor&)>& visit) const = 0;

protected:
    explicit LazyTensor(StoredTensor described) : described_(std::move(described)) {}

    StoredTensor described_;
};

}  // namespace kerf::core
