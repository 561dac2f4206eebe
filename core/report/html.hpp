// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::core::report {

/// Text for use between tags and inside quoted attributes. Control characters, and bytes that are no UTF-8, become �.
std::string escaped(std::string_view text);

/// <name attributes>content</name>; `content` is HTML already.
std::string element(std::string_view name, std::string_view attributes, std::string_view content);

using Rows = std::vector<std::vector<std::string>>;
/// Cells are HTML. Column i is right-aligned (figures) when alignment[i] is 'r'; the first cell of a row is its header.
std::string table(const std::vector<std::string>& head, const Rows& rows, std::string_view alignment);

/// A heading and what belongs to it; empty without content, which is HTML.
std::string section(std::string_view heading, const std::string& content);
/// A chart with its heading and a note below; empty without chart.
std::string figure(const std::string& heading, const std::string& chart, const std::string& note = {});
/// Content, HTML too, that is unfolded by a click on its summary.
std::string details(std::string_view summary, const std::string& content);

/// A number at a path of keys; NaN when something on the way is missing or is no number.
double number_at(const nlohmann::json& from, std::initializer_list<std::string_view> path);
/// A text under a key; empty when there is none.
std::string text_at(const nlohmann::json& from, std::string_view key);
/// What is under a key; null when there is nothing.
const nlohmann::json& part(const nlohmann::json& from, std::string_view key);

/// Figures as people read them; "–" for NaN.
std::string fixed(double number, int digits);
std::string significant(double number, int digits = 3);
std::string count(double number);  ///< 3145728 → "3.15 M"
std::string percent(double share, int digits = 1);
std::string bytes(double number);
std::string seconds(double number);

}  // namespace kerf::core::report
