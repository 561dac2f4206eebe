// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

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

/// A tensor of a checkpoint as others are made of it: stored, or lazy itself.
struct TensorSource {
    const StoredTensor* stored = nullptr;    ///< name, shape, dtype; valid as long as the checkpoint
    std::shared_ptr<const LazyTensor> lazy;  ///< null where `stored` has the bytes

    void read_rows(std::int64_t first, std::span<float> out) const;
    std::vector<float> read() const;
    bool has_cheap_rows() const noexcept { return !lazy || lazy->has_cheap_rows(); }
    void for_each_part(const std::function<void(const StoredTensor&)>& visit) const;
};

/// How a tensor of an edited model is computed from tensors of the model that was edited.
class Computation {
public:
    using Find = std::function<TensorSource(const std::string& name)>;

    Computation() = default;
    virtual ~Computation() = default;
    Computation(const Computation&) = delete;
    Computation& operator=(const Computation&) = delete;

    /// The tensor under its new name; `find` gives those that it is computed from, by their names in the graph. Nothing
    /// is read yet. Error(internal) where they do not fit.
    virtual std::shared_ptr<const LazyTensor> bind(const std::string& name, const Find& find) const = 0;
};

}  // namespace kerf::core
