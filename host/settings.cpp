// SPDX-License-Identifier: Apache-2.0
#include "host/settings.hpp"

#include <charconv>

#include "core/support/error.hpp"
#include "host/toml_reader.hpp"

namespace kerf::host {
namespace {

using core::bad_input;

/// One "value = …" that remembers that it is from the command line.
toml::table parse_value(const std::string& value, const std::string& place) {
    const bool structured = value.find_first_of("[{\"'") == 0;
    const bool one_line = value.find('\n') == std::string::npos;
    try {
        auto parsed = toml::parse("value = " + value, place);
        if (one_line && parsed.size() == 1) return parsed;
    } catch (const toml::parse_error& error) {
        if (structured) bad_input(place, ": the value is not valid TOML: ", error.description());
    }
    // A word is a text. It takes its place from a value that was parsed there.
    auto out = toml::parse("value = \"\"", place);
    out.get("value")->as_string()->get() = value;
    return out;
}

toml::node* element_of(toml::array& list, const std::string& step, const std::string& place) {
    std::size_t index = 0;
    const auto [end, status] = std::from_chars(step.data(), step.data() + step.size(), index);
    if (status != std::errc() || end != step.data() + step.size())
        bad_input(place, ": \"", step, "\" should be the number of a list element, counted from 0");
    if (index >= list.size())
        bad_input(place, ": there is no element ", index, "; the list has ", list.size(), ", counted from 0");
    return list.get(index);
}

void put(toml::table& recipe, const std::vector<std::string>& steps, toml::table value, const std::string& place) {
    toml::node* at = &recipe;
    for (std::size_t i = 0; i + 1 < steps.size(); ++i) {
        if (auto* list = at->as_array()) {
            at = element_of(*list, steps[i], place);
        } else if (auto* table = at->as_table()) {
            if (!table->contains(steps[i])) table->insert(steps[i], toml::table{});
            at = table->get(steps[i]);
        } else {
            break;
        }
    }
    toml::node& made = *value.get("value");
    if (auto* table = at->as_table()) {
        made.visit([&](auto& typed) { table->insert_or_assign(steps.back(), std::move(typed)); });
    } else if (auto* list = at->as_array()) {
        toml::node* old = element_of(*list, steps.back(), place);
        const auto where = std::find_if(list->begin(), list->end(), [&](const toml::node& n) { return &n == old; });
        made.visit([&](auto& typed) { list->replace(where, std::move(typed)); });
    } else {
        bad_input(place, ": the path leads through ", type_in_words(*at), ", which has no parts");
    }
}

}  // namespace

std::vector<std::string> split_path(std::string_view path, const std::string& setting) {
    std::vector<std::string> steps;
    std::size_t at = 0;
    while (true) {
        std::size_t end = 0;
        if (at < path.size() && path[at] == '"') {
            end = path.find('"', at + 1);
            if (end == std::string_view::npos) bad_input(setting, ": a quote is not closed");
            steps.emplace_back(path.substr(at + 1, end - at - 1));
            ++end;
        } else {
            end = std::min(path.find('.', at), path.size());
            steps.emplace_back(path.substr(at, end - at));
        }
        if (steps.back().empty()) bad_input(setting, ": the key has an empty part; write it as in stage.0.bits=3");
        if (end == path.size()) return steps;
        if (path[end] != '.') bad_input(setting, ": a dot is expected behind the quotes in the key");
        at = end + 1;
    }
}

void apply_setting(toml::table& recipe, const std::string& setting) {
    const std::string place = "--set " + setting;
    // The first '=' outside quotes: globs in the key may hold any character.
    bool quoted = false;
    std::size_t equals = 0;
    while (equals < setting.size() && (quoted || setting[equals] != '=')) quoted ^= setting[equals++] == '"';
    if (equals == setting.size()) bad_input(place, ": KEY=VALUE is expected, as in --set stage.0.bits=3");
    const auto steps = split_path(std::string_view(setting).substr(0, equals), place);
    put(recipe, steps, parse_value(setting.substr(equals + 1), place), place);
}

void put_text(toml::table& recipe, std::string_view path, const std::string& value, const std::string& place) {
    auto made = toml::parse("value = \"\"", place);
    made.get("value")->as_string()->get() = value;
    put(recipe, split_path(path, place), std::move(made), place);
}

}  // namespace kerf::host
