// SPDX-License-Identifier: Apache-2.0
#include "core/report/charts.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/report/html.hpp"
#include "core/support/text.hpp"

namespace kerf::core::report {
namespace {

constexpr double width = 760;         // of every chart, in its own units; the page scales it
constexpr double label_width = 190;   // left of bars and estimates
constexpr double figure_width = 170;  // right of bars: what is written at their end
constexpr double row_height = 30, bar_height = 16;

std::string at(double coordinate) {
    return fixed(coordinate, 1);
}

std::string tooltip(const std::string& text) {
    return element("title", "", escaped(text));
}

std::string label(double x, double y, std::string_view css, const std::string& text) {
    return element("text", core::text("x=\"", at(x), "\" y=\"", at(y), "\" class=\"", css, "\""), escaped(text)) + "\n";
}

std::string line(double x1, double y1, double x2, double y2, std::string_view css) {
    return core::text("<line x1=\"", at(x1), "\" y1=\"", at(y1), "\" x2=\"", at(x2), "\" y2=\"", at(y2), "\" class=\"",
                      css, "\"/>\n");
}

/// What does not fit the column is cut; its whole is in the tooltip.
std::string row_label(double y, const std::string& text) {
    constexpr std::size_t most = 27;
    const bool cut = text.size() > most;
    std::size_t end = cut ? most - 1 : text.size();
    while (cut && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    const std::string shown = escaped(text.substr(0, end)) + (cut ? "…" : "");
    return element("text", core::text("x=\"", at(label_width - 12), "\" y=\"", at(y), "\" class=\"label end\""),
                   shown + (cut ? tooltip(text) : "")) +
           "\n";
}

/// `title` is what a screen reader says; the page prints it as a heading of its own.
std::string svg(const std::string& title, double height, const std::string& content) {
    return element("svg",
                   core::text("viewBox=\"0 0 ", at(width), " ", at(height), "\" role=\"img\" aria-label=\"",
                              escaped(title), "\""),
                   "\n" + content) +
           "\n";
}

/// Maps values to coordinates, linearly or by their logarithm.
struct Scale {
    double low = 0, high = 1, from = 0, to = 1;
    bool logarithmic = false;
    double operator()(double value) const {
        const double share = logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
        return from + share * (to - from);
    }
};

std::vector<double> decade_ticks(double low, double high) {
    std::vector<double> out;
    // Decades, and 2 and 5 in them while the axis spans few.
    const bool fine = std::log10(high / low) < 2.5;
    for (int exponent = static_cast<int>(std::floor(std::log10(low))); exponent <= std::ceil(std::log10(high));
         ++exponent)
        for (const double step : {1.0, 2.0, 5.0}) {
            const double value = step * std::pow(10.0, exponent);
            if ((step == 1.0 || fine) && value >= low * 0.999 && value <= high * 1.001) out.push_back(value);
        }
    return out;
}

}  // namespace

std::vector<double> nice_ticks(double low, double high) {
    if (!(high > low) || !std::isfinite(high - low)) return {low};
    const double rough = (high - low) / 4;
    const double decade = std::pow(10.0, std::floor(std::log10(rough)));
    double step = 10 * decade;
    for (const double multiple : {1.0, 2.0, 5.0})
        if (multiple * decade >= rough * 0.999) {
            step = multiple * decade;
            break;
        }
    std::vector<double> out;
    for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
        out.push_back(i * step + 0.0);  // not -0
    return out;
}

std::string bar_chart(const std::string& title, const std::vector<Bar>& bars) {
    double largest = 0;
    for (const auto& bar : bars) largest = std::max(largest, std::isfinite(bar.value) ? bar.value : 0.0);
    if (bars.empty() || largest <= 0) return {};
    const Scale x{0, largest, label_width, width - figure_width};
    std::string content;
    double top = 4;
    for (const auto& bar : bars) {
        const double middle = top + row_height / 2, length = std::max(1.0, x(std::max(0.0, bar.value)) - label_width);
        content += row_label(middle + 4.5, bar.label);
        content += core::text("<rect x=\"", at(label_width), "\" y=\"", at(middle - bar_height / 2), "\" width=\"",
                              at(length), "\" height=\"", at(bar_height), "\" rx=\"3\" class=\"",
                              bar.accent ? "fill accent" : "fill plain", "\"/>\n");
        content += label(label_width + length + 8, middle + 4.5, "label", bar.written);
        top += row_height;
    }
    return svg(title, top + 4, content);
}

std::string estimate_chart(const std::string& title, const std::vector<Estimate>& estimates) {
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (const auto& e : estimates) {
        low = std::min(low, e.value - e.error);
        high = std::max(high, e.value + e.error);
    }
    if (estimates.empty() || !std::isfinite(high - low)) return {};
    const double margin = high > low ? 0.08 * (high - low) : std::max(0.05 * std::abs(high), 0.5);
    const Scale x{low - margin, high + margin, label_width, width - figure_width};
    const double bottom = 8 + row_height * static_cast<double>(estimates.size());
    std::string content;
    for (const double tick : nice_ticks(x.low, x.high)) {
        content += line(x(tick), 6, x(tick), bottom, "grid");
        content += label(x(tick), bottom + 16, "tick middle", significant(tick, 4));
    }
    double middle = 8 + row_height / 2;
    for (const auto& e : estimates) {
        const std::string css = e.accent ? "accent" : "plain";
        content += row_label(middle + 4.5, e.label);
        if (e.error > 0) {
            content += line(x(e.value - e.error), middle, x(e.value + e.error), middle, "whisker " + css);
            for (const double end : {e.value - e.error, e.value + e.error})
                content += line(x(end), middle - 5, x(end), middle + 5, "whisker " + css);
        }
        content +=
            element("circle",
                    core::text("cx=\"", at(x(e.value)), "\" cy=\"", at(middle), "\" r=\"5\" class=\"fill ", css, "\""),
                    tooltip(e.label + ": " + e.written)) +
            "\n";
        content += label(width - figure_width + 14, middle + 4.5, "label", e.written);
        middle += row_height;
    }
    return svg(title, bottom + 26, content);
}

namespace {

constexpr std::size_t styles = 8;  // colours, and shapes of markers, of a line chart

/// A marker around the origin: circle, square, triangle, diamond, and the four again, hollow.
std::string marker(std::size_t style, double x, double y, const std::string& tip) {
    constexpr std::array<std::string_view, 4> shapes{"M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-3.6,-3.6h7.2v7.2h-7.2z",
                                                     "M0,-4.6L4.4,3.4H-4.4z", "M0,-5L5,0L0,5L-5,0z"};
    return element("path",
                   core::text("d=\"", shapes[style % 4], "\" transform=\"translate(", at(x), ",", at(y), ")\" class=\"",
                              style >= 4 ? "hollow" : "solid", " s", style, "\""),
                   tip.empty() ? "" : tooltip(tip)) +
           "\n";
}

struct Range {
    double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
    void take(double value) {
        if (!std::isfinite(value)) return;
        low = std::min(low, value);
        high = std::max(high, value);
    }
    bool empty() const { return !(low <= high); }
};

Scale y_scale(const Range& values, double top, double bottom) {
    constexpr double far_apart = 8;
    if (values.low > 0 && values.high / values.low > far_apart)
        return {values.low / 1.15, values.high * 1.15, bottom, top, true};
    const double high = values.high > 0 ? values.high * 1.08 : 1;
    return {std::min(0.0, values.low), high, bottom, top, false};
}

/// Rows of legend entries; moves `bottom` past them.
std::string legend(const std::vector<Series>& series, double left, double& bottom) {
    std::string out;
    double x = left;
    for (std::size_t i = 0; i < series.size(); ++i) {
        const double entry = 30 + 7.4 * static_cast<double>(series[i].label.size());
        if (x > left && x + entry > width) {
            x = left;
            bottom += 22;
        }
        out += marker(i % styles, x + 6, bottom + 10, "");
        out += label(x + 17, bottom + 14.5, "label", series[i].label);
        x += entry;
    }
    bottom += 24;
    return out;
}

std::string drawn_series(const Series& one, std::size_t style, const Scale& x, const Scale& y) {
    std::string path, markers;
    bool drawing = false;
    for (const auto& point : one.points) {
        if (!std::isfinite(point.y) || (y.logarithmic && point.y <= 0)) {
            drawing = false;
            continue;
        }
        path += core::text(drawing ? "L" : "M", at(x(point.x)), ",", at(y(point.y)));
        drawing = true;
        markers += marker(style, x(point.x), y(point.y), point.tooltip);
    }
    return core::text("<path d=\"", path, "\" class=\"curve s", style, "\"/>\n", markers);
}

}  // namespace

Series& series_named(std::vector<Series>& series, const std::string& label) {
    const auto found =
        std::find_if(series.begin(), series.end(), [&](const Series& one) { return one.label == label; });
    return found != series.end() ? *found : series.emplace_back(Series{label, {}});
}

std::string line_chart(const std::string& title, const std::string& y_label, const std::vector<Series>& series,
                       const std::string& x_label) {
    Range blocks, values;
    for (const auto& one : series)
        for (const auto& point : one.points) {
            blocks.take(point.x);
            values.take(point.y);
        }
    if (blocks.empty() || values.empty()) return {};
    constexpr double left = 64, top = 26, bottom = 280;
    const Scale y = y_scale(values, top, bottom);
    const double half = std::max(0.35, 0.02 * (blocks.high - blocks.low));
    const Scale x{blocks.low - half, blocks.high + half, left, width - 12};

    std::string content = label(left, 14, "tick", y_label + (y.logarithmic ? " (logarithmic)" : ""));
    for (const double tick : y.logarithmic ? decade_ticks(y.low, y.high) : nice_ticks(y.low, y.high)) {
        content += line(left, y(tick), width - 12, y(tick), "grid");
        content += label(left - 8, y(tick) + 4, "tick end", significant(tick));
    }
    for (const double tick : nice_ticks(blocks.low, blocks.high))
        if (tick == std::floor(tick)) content += label(x(tick), bottom + 18, "tick middle", fixed(tick, 0));
    content += label((left + width - 12) / 2, bottom + 36, "tick middle", x_label);
    for (std::size_t i = 0; i < series.size(); ++i) content += drawn_series(series[i], i % styles, x, y);
    double end = bottom + 46;
    content += legend(series, left, end);
    return svg(title, end + 2, content);
}

}  // namespace kerf::core::report
