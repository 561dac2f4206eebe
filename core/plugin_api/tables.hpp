// SPDX-License-Identifier: Apache-2.0
// The pieces of the host's tables; private to this folder.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/job.hpp"
#include "core/support/error.hpp"
#include "kerf/abi.h"

namespace kerf::core {

/// A failure whose ABI code matters more than its Fault: the code passes through report_exception as it is.
class ServiceFailure : public std::runtime_error {
public:
    ServiceFailure(kerf_code code, const std::string& message) : std::runtime_error(message), code_(code) {}
    kerf_code code() const noexcept { return code_; }

private:
    kerf_code code_;
};

inline std::string_view view_of(kerf_text text) {
    return text.data ? std::string_view(text.data, text.size) : std::string_view{};
}
inline kerf_text text_of(std::string_view text) {
    return {text.data(), text.size()};
}

/// Runs `body` on the host's side of a call from a plugin.
template <class Body>
kerf_code host_call(kerf_error* error, const Body& body) noexcept {
    try {
        body();
        return KERF_OK;
    } catch (...) {
        return report_exception(error);
    }
}

kerf_code host_alloc(kerf_job* job, std::size_t bytes, std::size_t align, void** out, kerf_error* error);
void host_release(kerf_job* job, void* memory);
kerf_code host_replace(kerf_layer* layer, const kerf_replacement* replacement, kerf_error* error);
void log_to(kerf_job* job, int level, const std::string& message);

extern const kerf_values_1 values_table;
extern const kerf_linalg_1 linalg_table;
extern const kerf_random_1 random_table;
extern const kerf_curvature_1 curvature_table;
extern const kerf_metrics_1 metrics_table;
extern const kerf_structure_1 structure_table;
extern const kerf_model_1 model_table;
extern const kerf_gradients_1 gradients_table;

}  // namespace kerf::core
