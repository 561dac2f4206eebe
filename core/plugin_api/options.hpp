// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::core {

/// One option of a method as its schema describes it (docs/abi.md).
struct OptionSpec {
    enum class Type { integer, real, flag, text } type = Type::integer;
    std::string name, help;
    nlohmann::json fallback;  ///< the default
    std::optional<nlohmann::json> min, max, exclusive_min, exclusive_max;
    std::optional<std::int64_t> multiple_of;
    std::vector<nlohmann::json> also;  ///< numbers that are allowed whatever the limits say
    std::vector<std::string> choices;

    /// What is wrong with `value`, in words that follow "name = value: "; empty when nothing is.
    std::string fault(const nlohmann::json& value) const;
    /// "2 to 8", "one of gptq, gptq_v2": the limits for a person; empty when there are none.
    std::string limits() const;
};

std::string_view type_name(OptionSpec::Type type);

/// Reads a method's options schema. Error(input) says what in it is malformed; `method` is named.
std::vector<OptionSpec> parse_schema(std::string_view schema, std::string_view method);

}  // namespace kerf::core
