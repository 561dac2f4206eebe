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
    bool whole_stage = false;                 ///< an override may have nothing but its default
    std::string partner;                      ///< the text option without which it does nothing; empty: none
    std::vector<std::string> partner_values;  ///< the values of it with which it does something

    /// What is wrong with `value`, in words that follow "name = value: "; empty when nothing is.
    std::string fault(const nlohmann::json& value) const;
    /// "2 to 8", "one of gptq, gptq_v2": the limits for a person; empty when there are none.
    std::string limits() const;
};

std::string_view type_name(OptionSpec::Type type);

/// Reads a method's options schema. Error(input) says what in it is malformed; `method` is named.
std::vector<OptionSpec> parse_schema(std::string_view schema, std::string_view method);

/// Refuses options of an override that are for a whole stage; `where` starts the complaint.
void check_override(const std::vector<OptionSpec>& specs, const nlohmann::json& values, const std::string& where);
/// One sentence for each of the `given` options that does nothing with the others as they are in `full`.
std::vector<std::string> idle_options(const std::vector<OptionSpec>& specs, const nlohmann::json& given,
                                      const nlohmann::json& full);

}  // namespace kerf::core
