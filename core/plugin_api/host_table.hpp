// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "core/support/error.hpp"
#include "kerf/abi.h"

namespace kerf::core {

/// The table that every plugin of this process is given, with all services behind extension().
const kerf_host* host_table();

/// A kerf_values view of a JSON value; valid as long as the value.
const kerf_values* as_values(const nlohmann::json& value);

/// Calls `function(error)`; a code other than KERF_OK becomes Error, with `doing` ("gptq: create") in front.
void check_call(std::string_view doing, const auto& function) {
    char message[2048];
    kerf_error error{sizeof(kerf_error), KERF_OK, sizeof(message), 0, message};
    const kerf_code code = function(&error);
    if (code == KERF_OK) return;
    const std::string reason(message, error.length < sizeof(message) ? error.length : sizeof(message));
    const Fault fault = code == KERF_E_ARGUMENT || code == KERF_E_UNSUPPORTED ? Fault::input
                        : code == KERF_E_MEMORY || code == KERF_E_BUDGET      ? Fault::memory
                        : code == KERF_E_IO                                   ? Fault::environment
                        : code == KERF_E_NUMERIC                              ? Fault::numeric
                        : code == KERF_E_CANCELLED                            ? Fault::cancelled
                                                                              : Fault::internal;
    throw Error(fault, text(doing, ": ", reason.empty() ? text("failed with code ", code) : reason));
}

/// For a host function that a plugin called: fills `error` from the exception in flight and gives the code to return.
kerf_code report_exception(kerf_error* error) noexcept;

/// options of one method instance: the schema's defaults with `given` over them, everything checked (type, range,
/// choice, unknown names with the nearest known one). `where` names file and line. Error(input).
nlohmann::json validate_options(std::string_view schema, const nlohmann::json& given, std::string_view method,
                                const std::map<std::string, std::string>& where);

}  // namespace kerf::core
