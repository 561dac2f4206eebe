// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/graph/graph.hpp"
#include "core/support/error.hpp"

namespace kerf::core {

// A dimension beyond this is no model but a broken or hostile file; products of two stay inside int64.
constexpr std::int64_t largest_dimension = std::int64_t{1} << 30;
// Of a table or linear: more than ten times the largest vocabularies. What axes cost is proportional to it.
constexpr std::int64_t largest_side = std::int64_t{1} << 22;

/// Reads the attributes of one op; every message says which adapter and which op.
class OpReader {
public:
    OpReader(const nlohmann::json& op, std::string where) : op_(op), where_(std::move(where)) {
        if (!op.is_object()) fail("is not an object");
    }

    [[noreturn]] void fail(const std::string& what) const { bad_input(where_, " ", what); }
    bool has(const char* key) const { return op_.contains(key) && !op_[key].is_null(); }

    std::string string(const char* key) const {
        if (!has(key) || !op_[key].is_string() || op_[key].get_ref<const std::string&>().empty())
            fail(text("needs a text \"", key, "\""));
        return op_[key].get<std::string>();
    }
    std::string string_or(const char* key, const std::string& otherwise) const {
        return has(key) ? string(key) : otherwise;
    }
    std::int64_t integer(const char* key, std::int64_t least) const {
        if (!has(key) || !op_[key].is_number_integer()) fail(text("needs a whole number \"", key, "\""));
        const auto value = op_[key].get<std::int64_t>();
        if (value < least || value > largest_dimension)
            fail(text("has \"", key, "\" = ", value, ", which is out of range"));
        return value;
    }
    std::int64_t integer_or(const char* key, std::int64_t least, std::int64_t otherwise) const {
        return has(key) ? integer(key, least) : otherwise;
    }
    double real(const char* key) const {
        if (!has(key) || !op_[key].is_number()) fail(text("needs a number \"", key, "\""));
        return op_[key].get<double>();
    }
    double real_or(const char* key, double otherwise) const { return has(key) ? real(key) : otherwise; }
    bool flag_or(const char* key, bool otherwise) const {
        if (!has(key)) return otherwise;
        if (!op_[key].is_boolean()) fail(text("needs true or false as \"", key, "\""));
        return op_[key].get<bool>();
    }
    std::vector<std::string> names(const char* key) const {
        if (has(key) && op_[key].is_string()) return {string(key)};
        if (!has(key) || !op_[key].is_array())
            fail(text("needs \"", key, "\": the name of a value or a list of names"));
        std::vector<std::string> out;
        for (const auto& name : op_[key]) {
            if (!name.is_string()) fail(text("has something else than names in \"", key, "\""));
            out.push_back(name.get<std::string>());
        }
        return out;
    }
    std::vector<std::int64_t> integers(const char* key, std::int64_t least = 1) const {
        if (!has(key) || !op_[key].is_array() || op_[key].empty()) fail(text("needs a list \"", key, "\""));
        std::vector<std::int64_t> out;
        for (const auto& value : op_[key]) {
            if (!value.is_number_integer() || value.get<std::int64_t>() < least ||
                value.get<std::int64_t>() > largest_dimension)
                fail(text("has something else than sizes in \"", key, "\""));
            out.push_back(value.get<std::int64_t>());
        }
        return out;
    }
    std::vector<double> reals(const char* key, std::int64_t count) const {
        if (!has(key) || !op_[key].is_array() || std::int64_t(op_[key].size()) != count)
            fail(text("needs a list \"", key, "\" of ", count, " numbers"));
        std::vector<double> out;
        for (const auto& value : op_[key]) {
            if (!value.is_number()) fail(text("has something else than numbers in \"", key, "\""));
            out.push_back(value.get<double>());
        }
        return out;
    }
    const nlohmann::json& child(const char* key) const { return op_[key]; }
    const std::string& where() const { return where_; }

private:
    const nlohmann::json& op_;
    std::string where_;
};

/// One op with its attributes, each checked by itself; how ops fit together is ValueShapes' business.
Op read_op(const nlohmann::json& document, const std::string& where);
nlohmann::json op_json(const Op& op);

}  // namespace kerf::core
