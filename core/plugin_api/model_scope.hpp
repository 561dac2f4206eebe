// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/plugin_api/axis.hpp"
#include "kerf/abi.h"

namespace kerf::core {

/// The model in the hands of prune_model(). What it does is up to the pipeline, which has models; errors are
/// exceptions. Every kerf_model that reaches a plugin is one of these.
struct WholeModel : kerf_model {
    virtual ~WholeModel() = default;
    virtual std::int64_t parameters() const = 0;
    virtual std::int64_t blocks() const = 0;
    /// As kerf.model/1 says it; lives as long as the axis.
    virtual const std::string& kind(const Place& place) const = 0;
    virtual void commit(bool keep_divisor) = 0;
    virtual void keep_blocks(std::int64_t count) = 0;
    /// `take` hands one tensor's gradients to the plugin.
    virtual double sweep(const kerf_sweep_request& request, const std::function<void(const kerf_gradient&)>& take) = 0;
};

}  // namespace kerf::core
