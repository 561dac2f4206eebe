// SPDX-License-Identifier: Apache-2.0
#include "core/report/html.hpp"

#include <array>
#include <cmath>
#include <cstdio>
#include <optional>

#include "core/support/text.hpp"

namespace kerf::core::report {
namespace {

using nlohmann::json;

template <class... Values>
std::string printed(const char* format, Values... values) {
    std::array<char, 400> out{};
    std::snprintf(out.data(), out.size(), format, values...);
    return out.data();
}

/// Bytes of the UTF-8 character that starts at `at`; nothing when there is no valid one.
std::optional<std::size_t> character_size(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char first = byte(at);
    if (first < 0x80) return 1;
    const std::size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || at + size > text.size()) return {};
    for (std::size_t i = at + 1; i < at + size; ++i)
        if ((byte(i) & 0xC0) != 0x80) return {};
    const unsigned char second = byte(at + 1);
    const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
    const bool surrogate = first == 0xED && second >= 0xA0, past_end = first == 0xF4 && second >= 0x90;
    if (overlong || surrogate || past_end) return {};
    return size;
}

bool is_control(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F;
}

}  // namespace

std::string escaped(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const auto size = character_size(text, at);
        if (!size || (*size == 1 && is_control(text[at]))) {
            out += "\uFFFD";
            ++at;
            continue;
        }
        switch (text[at]) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            case '\'':
                out += "&#39;";
                break;
            default:
                out += text.substr(at, *size);
        }
        at += *size;
    }
    return out;
}

std::string element(std::string_view name, std::string_view attributes, std::string_view content) {
    std::string out = "<";
    out.append(name);
    if (!attributes.empty()) out.append(" ").append(attributes);
    return out.append(">").append(content).append("</").append(name).append(">");
}

std::string table(const std::vector<std::string>& head, const Rows& rows, std::string_view alignment) {
    const auto kind = [&](std::size_t column) {
        return column < alignment.size() && alignment[column] == 'r' ? "class=\"n\"" : "";
    };
    std::string out = "<thead><tr>";
    for (std::size_t i = 0; i < head.size(); ++i)
        out += element("th", std::string("scope=\"col\" ") + kind(i), head[i]);
    out += "</tr></thead>\n<tbody>\n";
    for (const auto& row : rows) {
        out += "<tr>";
        for (std::size_t i = 0; i < row.size(); ++i)
            out += i == 0 ? element("th", "scope=\"row\"", row[i]) : element("td", kind(i), row[i]);
        out += "</tr>\n";
    }
    // A box of its own, so that a wide table scrolls and the page does not.
    return element("div", "class=\"scroll\" tabindex=\"0\"", element("table", "", out + "</tbody>")) + "\n";
}

const json& part(const json& from, std::string_view key) {
    static const json nothing;
    if (!from.is_object()) return nothing;
    const auto found = from.find(std::string(key));
    return found == from.end() ? nothing : *found;
}

double number_at(const json& from, std::initializer_list<std::string_view> path) {
    const json* at = &from;
    for (const auto key : path) at = &part(*at, key);
    return at->is_number() ? at->get<double>() : NAN;
}

std::string text_at(const json& from, std::string_view key) {
    const json& found = part(from, key);
    return found.is_string() ? found.get<std::string>() : std::string();
}

std::string fixed(double number, int digits) {
    return std::isfinite(number) ? printed("%.*f", digits, number) : "–";
}

std::string significant(double number, int digits) {
    return std::isfinite(number) ? printed("%.*g", digits, number) : "–";
}

std::string count(double number) {
    if (!std::isfinite(number)) return "–";
    constexpr std::array<const char*, 6> units{"", " k", " M", " G", " T", " P"};
    std::size_t unit = 0;
    while (std::abs(number) >= 999.5 && unit + 1 < units.size()) {
        number /= 1000;
        ++unit;
    }
    return printed(unit == 0 ? "%.0f%s" : "%.3g%s", number, units[unit]);
}

std::string percent(double share, int digits) {
    return std::isfinite(share) ? printed("%.*f %%", digits, 100 * share) : "–";
}

std::string section(std::string_view heading, const std::string& content) {
    return content.empty() ? "" : element("section", "", element("h2", "", escaped(heading)) + "\n" + content) + "\n";
}

std::string figure(const std::string& heading, const std::string& chart, const std::string& note) {
    if (chart.empty()) return {};
    return element("figure", "",
                   element("h3", "", escaped(heading)) + "\n" + chart +
                       (note.empty() ? "" : element("figcaption", "", escaped(note)))) +
           "\n";
}

std::string details(std::string_view summary, const std::string& content) {
    return element("details", "", element("summary", "", escaped(summary)) + "\n" + content) + "\n";
}

std::string bytes(double number) {
    return std::isfinite(number) ? format_bytes(number) : "–";
}
std::string seconds(double number) {
    return std::isfinite(number) ? format_seconds(number) : "–";
}

}  // namespace kerf::core::report
