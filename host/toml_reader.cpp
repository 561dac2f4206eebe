// SPDX-License-Identifier: Apache-2.0
#include "host/toml_reader.hpp"

#include <algorithm>

#include "core/support/text.hpp"

namespace kerf::host {

using core::bad_input;
using nlohmann::json;

toml::table parse_toml(std::string_view text, const std::string& file) {
    try {
        return toml::parse(text, file);
    } catch (const toml::parse_error& error) {
        bad_input(location_of(error.source(), file), ": not valid TOML: ", error.description());
    }
}

std::string location_of(const toml::source_region& source, const std::string& otherwise) {
    if (!source.path || source.begin.line == 0) return otherwise;
    if (source.path->starts_with("--")) return *source.path;
    return core::text(*source.path, ':', source.begin.line, ':', source.begin.column);
}

std::string_view type_in_words(const toml::node& node) {
    switch (node.type()) {
        case toml::node_type::table:
            return "a table";
        case toml::node_type::array:
            return "a list";
        case toml::node_type::string:
            return "a text";
        case toml::node_type::integer:
            return "a whole number";
        case toml::node_type::floating_point:
            return "a number with a fraction";
        case toml::node_type::boolean:
            return "true or false";
        default:
            return "a date or time";
    }
}

TableReader::TableReader(const toml::table& table, std::string name, const std::string& above)
    : table_(table), name_(std::move(name)), location_(location_of(table.source(), above)) {}

std::string TableReader::location(std::string_view key) const {
    const toml::node* node = table_.get(key);
    return node ? location_of(node->source(), location_) : location_;
}

std::string TableReader::full_name(std::string_view key) const {
    return name_.empty() ? std::string(key) : core::text(name_, '.', key);
}

void TableReader::wrong_type(std::string_view key, const toml::node& node, std::string_view wanted) const {
    refuse(key, " must be ", wanted, ", not ", type_in_words(node));
}

void TableReader::allow_only(const std::vector<std::string>& known) const {
    for (const auto& [key, node] : table_) {
        const std::string name(key.str());
        if (std::find(known.begin(), known.end(), name) != known.end()) continue;
        const std::string where = location_of(key.source(), location_of(node.source(), location_));
        const std::string place = name_.empty() ? "in the recipe" : "in " + name_;
        if (const auto near = core::nearest(name, known); !near.empty())
            bad_input(where, ": unknown key \"", name, "\" ", place, "; did you mean \"", near, "\"?");
        std::string all;
        for (const auto& word : known) all += (all.empty() ? "" : ", ") + word;
        bad_input(where, ": unknown key \"", name, "\" ", place, "; known: ", all);
    }
}

std::string TableReader::text(std::string_view key) const {
    const toml::node* node = table_.get(key);
    if (!node) bad_input(location_, ": ", full_name(key), " is missing");
    if (!node->is_string()) wrong_type(key, *node, "a text");
    const std::string& value = node->as_string()->get();
    if (value.empty()) refuse(key, " must not be empty");
    return value;
}

std::string TableReader::text(std::string_view key, std::string otherwise) const {
    return has(key) ? text(key) : otherwise;
}

std::string TableReader::choice(std::string_view key, std::string otherwise,
                                const std::vector<std::string>& known) const {
    const std::string value = text(key, std::move(otherwise));
    if (std::find(known.begin(), known.end(), value) != known.end()) return value;
    std::string all;
    for (const auto& word : known) all += (all.empty() ? "" : ", ") + word;
    const auto near = core::nearest(value, known);
    refuse(key, " = \"", value, "\" is not one of ", all,
           near.empty() ? "" : core::text("; did you mean \"", near, "\"?"));
}

bool TableReader::flag(std::string_view key, bool otherwise) const {
    const toml::node* node = table_.get(key);
    if (!node) return otherwise;
    if (!node->is_boolean()) wrong_type(key, *node, "true or false");
    return node->as_boolean()->get();
}

double TableReader::real(std::string_view key, double otherwise) const {
    const toml::node* node = table_.get(key);
    if (!node) return otherwise;
    if (!node->is_number()) wrong_type(key, *node, "a number");
    return node->is_integer() ? double(node->as_integer()->get()) : node->as_floating_point()->get();
}

std::int64_t TableReader::integer(std::string_view key, std::int64_t otherwise, std::int64_t least) const {
    const toml::node* node = table_.get(key);
    if (!node) return otherwise;
    if (!node->is_integer()) wrong_type(key, *node, "a whole number");
    const std::int64_t value = node->as_integer()->get();
    if (value < least) refuse(key, " = ", value, " is out of range: it must be at least ", least);
    return value;
}

std::vector<std::string> TableReader::texts(std::string_view key) const {
    const toml::node* node = table_.get(key);
    if (!node) return {};
    if (!node->is_array()) wrong_type(key, *node, "a list of texts");
    std::vector<std::string> out;
    for (const toml::node& element : *node->as_array()) {
        const std::string where = location_of(element.source(), location(key));
        if (!element.is_string())
            bad_input(where, ": ", full_name(key), " must be a list of texts; it holds ", type_in_words(element));
        out.push_back(element.as_string()->get());
        if (out.back().empty()) bad_input(where, ": ", full_name(key), " holds an empty text");
    }
    return out;
}

std::optional<TableReader> TableReader::table(std::string_view key) const {
    const toml::node* node = table_.get(key);
    if (!node) return {};
    if (!node->is_table()) wrong_type(key, *node, "a table");
    return TableReader(*node->as_table(), full_name(key), location_);
}

std::vector<TableReader> TableReader::tables(std::string_view key) const {
    const toml::node* node = table_.get(key);
    if (!node) return {};
    const std::string wanted = core::text("a list of tables, each under a header [[", full_name(key), "]]");
    if (!node->is_array()) wrong_type(key, *node, wanted);
    std::vector<TableReader> out;
    for (const toml::node& element : *node->as_array()) {
        if (!element.is_table())
            bad_input(location_of(element.source(), location(key)), ": ", full_name(key), " must be ", wanted,
                      "; it holds ", type_in_words(element));
        out.emplace_back(*element.as_table(), core::text(full_name(key), '.', out.size()), location(key));
    }
    return out;
}

std::optional<std::uint64_t> TableReader::bytes(std::string_view key) const {
    const toml::node* node = table_.get(key);
    if (!node) return {};
    if (node->is_integer()) return static_cast<std::uint64_t>(integer(key, 0, 1));
    if (!node->is_string()) wrong_type(key, *node, "a size as in \"6GiB\", or a number of bytes");
    std::uint64_t value = 0;
    try {
        value = core::parse_bytes(text(key));
    } catch (const core::Error& error) {
        refuse(key, ": ", error.what());
    }
    if (value == 0) refuse(key, " must be above 0");
    return value;
}

json to_json(const toml::node& node, const std::string& where) {
    switch (node.type()) {
        case toml::node_type::table: {
            json out = json::object();
            for (const auto& [key, value] : *node.as_table()) out[std::string(key.str())] = to_json(value, where);
            return out;
        }
        case toml::node_type::array: {
            json out = json::array();
            for (const toml::node& element : *node.as_array()) out.push_back(to_json(element, where));
            return out;
        }
        case toml::node_type::string:
            return node.as_string()->get();
        case toml::node_type::integer:
            return node.as_integer()->get();
        case toml::node_type::floating_point:
            return node.as_floating_point()->get();
        case toml::node_type::boolean:
            return node.as_boolean()->get();
        default:
            bad_input(location_of(node.source(), where),
                      ": dates and times are not values of an option; write a text in quotes");
    }
}

}  // namespace kerf::host
