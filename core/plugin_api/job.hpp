// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/curvature/gram.hpp"
#include "kerf/abi.h"

namespace kerf::core {

/// Bytes that plugins hold through kerf_host.alloc, and the most that they ever held.
class AllocationCounter {
public:
    void add(std::uint64_t bytes) noexcept;
    void subtract(std::uint64_t bytes) noexcept;
    std::uint64_t live() const noexcept { return live_.load(); }
    std::uint64_t peak() const noexcept { return peak_.load(); }

private:
    std::atomic<std::uint64_t> live_{0}, peak_{0};
};
/// Of all plugins of this process together.
AllocationCounter& plugin_allocations();

/// What a method gave to replace(): copied and checked (shapes, finite values, codes < 2^bits, groups in range).
struct Replacement {
    std::string layout;  ///< "dense/1" or "int-group/1"
    std::int64_t out = 0, in = 0, groups = 0;
    int bits = 0;                           ///< int-group
    std::vector<float> weight;              ///< dense: [out, in]
    std::vector<std::uint8_t> codes;        ///< int-group: [out, in]
    std::vector<float> scales, zeros;       ///< int-group: [out, groups]
    std::vector<std::int32_t> group_index;  ///< int-group: [in]
    std::vector<float> bias_shift;          ///< dense, [out]: added to the bias; empty: it stays

    bool dense() const noexcept { return bits == 0; }
    /// The float weight [out, in] that this stands for.
    std::vector<float> to_dense() const;
};

}  // namespace kerf::core

/// One linear layer in the hands of a method: whoever runs the method fills the first part and takes the replacement.
/// Everything that the pointers name outlives the call of compress().
struct kerf_layer {
    std::string name;
    std::int64_t out = 0, in = 0;
    const float* weight = nullptr;               ///< [out, in], row-major
    kerf::core::Curvature* curvature = nullptr;  ///< of the layer's input; null where the method asked for none
    bool takes_bias_shift = false;               ///< it has a bias, and whoever runs the method changes it
    std::optional<kerf::core::Replacement> replacement;

    kerf_layer() = default;
    kerf_layer(const kerf_layer&) = delete;
    kerf_layer& operator=(const kerf_layer&) = delete;

    /// A read-only matrix of this process as the DLTensor that plugins see; lives as long as the layer.
    const DLTensor* view(const float* data, std::int64_t rows, std::int64_t columns);

private:
    struct View {
        DLTensor tensor;
        std::int64_t shape[2], strides[2];
    };
    std::vector<std::unique_ptr<View>> views_;
};

/// One call of compress(): where its figures, messages and memory go.
struct kerf_job {
    std::map<std::string, double> metrics;
    std::function<void(int level, const std::string& message)> log;  ///< may be empty; one call at a time, any thread
    std::function<bool()> cancelled;                                 ///< may be empty; asked on the job thread
    std::uint64_t memory_limit = 0;                                  ///< of live alloc() bytes; 0 = none
    kerf::core::AllocationCounter memory;
    std::mutex log_lock;
};
