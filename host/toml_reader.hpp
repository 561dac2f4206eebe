// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/support/error.hpp"

namespace kerf::host {

/// TOML text as a table. `file` is its name in complaints. A fault of syntax is Error(input) with line and column.
toml::table parse_toml(std::string_view text, const std::string& file);

/// "recipe.toml:12:5" of a node from a file, "--set stage.0.bits=3" of one from the command line, `otherwise` of one
/// that nobody wrote.
std::string location_of(const toml::source_region& source, const std::string& otherwise);

/// "a text", "a whole number": what a value is, in words.
std::string_view type_in_words(const toml::node& node);

/// One table of a recipe, read key by key. What is wrong is Error(input) with its place in the file.
class TableReader {
public:
    /// `name` is how complaints call the table, "model" or "stage 1"; `above` where it would stand if nobody wrote it.
    TableReader(const toml::table& table, std::string name, const std::string& above);

    /// Refuses every key that is not among these, with the nearest one.
    void allow_only(const std::vector<std::string>& known) const;
    bool has(std::string_view key) const { return table_.contains(key); }

    std::string text(std::string_view key) const;  ///< must be there and not empty
    std::string text(std::string_view key, std::string otherwise) const;
    std::string choice(std::string_view key, std::string otherwise, const std::vector<std::string>& known) const;
    bool flag(std::string_view key, bool otherwise) const;
    std::int64_t integer(std::string_view key, std::int64_t otherwise, std::int64_t least) const;
    double real(std::string_view key, double otherwise) const;   ///< takes whole numbers too
    std::vector<std::string> texts(std::string_view key) const;  ///< empty when the key is not there
    std::optional<TableReader> table(std::string_view key) const;
    std::vector<TableReader> tables(std::string_view key) const;  ///< a list of tables; empty when the key is not there
    /// A size, "6GiB" or a number of bytes, above 0.
    std::optional<std::uint64_t> bytes(std::string_view key) const;

    const toml::table& raw() const noexcept { return table_; }
    const std::string& name() const noexcept { return name_; }
    const std::string& location() const noexcept { return location_; }
    std::string location(std::string_view key) const;
    /// "model.path", as complaints call a key of this table.
    std::string full_name(std::string_view key) const;
    template <class... Pieces>
    [[noreturn]] void refuse(std::string_view key, const Pieces&... pieces) const {
        core::bad_input(location(key), ": ", full_name(key), pieces...);
    }

private:
    [[noreturn]] void wrong_type(std::string_view key, const toml::node& node, std::string_view wanted) const;

    const toml::table& table_;
    std::string name_, location_;
};

/// A value as JSON. Dates are refused: no option is one.
nlohmann::json to_json(const toml::node& node, const std::string& where);

}  // namespace kerf::host
