// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/options.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

constexpr const char* schema = R"([
  {"name": "bits", "type": "int", "default": 4, "min": 2, "max": 8, "help": "bits per weight"},
  {"name": "group_size", "type": "int", "default": 128, "min": 16, "multiple_of": 16, "also": [-1], "help": "columns"},
  {"name": "damp", "type": "real", "default": 0.01, "exclusive_min": 0, "exclusive_max": 1, "help": "share"},
  {"name": "symmetric", "type": "flag", "default": true, "help": "grid"},
  {"name": "order", "type": "text", "default": "none", "choices": ["none", "descending"], "help": "columns"}])";

const std::map<std::string, std::string> where{{"bits", "recipe.toml:12"}, {"bitz", "recipe.toml:13"}};

std::string refusal(const json& given) {
    try {
        validate_options(schema, given, "gptq", where);
    } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::input);
        return error.what();
    }
    return "taken";
}

TEST(PluginOptions, DefaultsAreFilledIn) {
    const json all{{"bits", 4}, {"group_size", 128}, {"damp", 0.01}, {"symmetric", true}, {"order", "none"}};
    EXPECT_EQ(validate_options(schema, json::object(), "gptq", {}), all);
    EXPECT_EQ(validate_options(schema, json(), "gptq", {}), all);
    EXPECT_EQ(validate_options(schema, {{"bits", 3}, {"order", "descending"}}, "gptq", {})["bits"], 3);
}

TEST(PluginOptions, EachErrorNamesFileLineOptionValueAndLimit) {
    EXPECT_EQ(refusal({{"bits", 99}}), "recipe.toml:12: stage gptq: bits = 99: must be between 2 and 8");
    EXPECT_EQ(refusal({{"bits", 4.5}}), "recipe.toml:12: stage gptq: bits = 4.5: must be a whole number");
    EXPECT_EQ(refusal({{"bits", "four"}}), "recipe.toml:12: stage gptq: bits = \"four\": must be a whole number");
    EXPECT_EQ(refusal({{"bitz", 4}}), "recipe.toml:13: stage gptq: unknown option \"bitz\"; did you mean \"bits\"?");
    EXPECT_EQ(refusal({{"group_size", 100}}),
              "stage gptq: group_size = 100: must be at least 16 and a multiple of 16, or -1");
    EXPECT_EQ(refusal({{"group_size", 0}}),
              "stage gptq: group_size = 0: must be at least 16 and a multiple of 16, or -1");
    EXPECT_EQ(refusal({{"damp", 0}}), "stage gptq: damp = 0: must be above 0 and below 1");
    EXPECT_EQ(refusal({{"damp", 1.0}}), "stage gptq: damp = 1.0: must be above 0 and below 1");
    EXPECT_EQ(refusal({{"damp", true}}), "stage gptq: damp = true: must be a number");
    EXPECT_EQ(refusal({{"damp", std::numeric_limits<double>::quiet_NaN()}}), "stage gptq: damp = nan: must be finite");
    EXPECT_EQ(refusal({{"symmetric", 1}}), "stage gptq: symmetric = 1: must be true or false");
    EXPECT_EQ(refusal({{"order", "ascending"}}), "stage gptq: order = \"ascending\": must be one of none, descending");
    EXPECT_EQ(refusal({{"bits", std::uint64_t{1} << 63}}),
              "recipe.toml:12: stage gptq: bits = 9223372036854775808: is too large");
    EXPECT_NE(refusal({{"quite_something", 1}}).find("known: bits, group_size, damp, symmetric, order"),
              std::string::npos);
}

TEST(PluginOptions, ValuesAtTheLimitsAreTaken) {
    for (const json& given : {json{{"bits", 2}}, json{{"bits", 8}}, json{{"group_size", -1}}, json{{"group_size", 16}},
                              json{{"damp", 1e-9}}, json{{"damp", 0.999}}})
        EXPECT_EQ(refusal(given), "taken") << given;
}

TEST(PluginOptions, SchemasThatMakeNoSenseAreRefused) {
    for (
        const char* bad :
        {"", "{}", "[1]", R"([{"name": "a"}])", R"([{"name": "A!", "type": "int", "default": 1, "help": ""}])",
         R"([{"name": "a", "type": "list", "default": [], "help": ""}])",
         R"([{"name": "a", "type": "int", "default": 1.5, "help": ""}])",
         R"([{"name": "a", "type": "int", "default": 1, "min": "x", "help": ""}])",
         R"([{"name": "a", "type": "int", "default": 1, "multiple_of": 0, "help": ""}])",
         R"([{"name": "a", "type": "int", "default": 9, "max": 8, "help": ""}])",
         R"([{"name": "a", "type": "flag", "default": true, "help": ""}, {"name": "a", "type": "flag", "default": true, "help": ""}])",
         R"([{"name": "a", "type": "int", "default": 1, "whole_stage": 1, "help": ""}])",
         R"([{"name": "a", "type": "int", "default": 1, "goes_with": {"option": "b"}, "help": ""}])",
         R"([{"name": "a", "type": "int", "default": 1, "goes_with": {"values": ["x"]}, "help": ""}])",
         R"([{"name": "a", "type": "text", "default": "x", "choices": [1], "help": ""}])"})
        EXPECT_THROW(parse_schema(bad, "bad"), Error) << bad;
}

}  // namespace
}  // namespace kerf::core
