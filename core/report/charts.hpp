// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace kerf::core::report {

/// A bar with what is written at its end. Labels are plain text.
struct Bar {
    std::string label;
    double value = 0;
    std::string written;
    bool accent = false;  ///< what the run made, as opposed to what it was given
};
/// Horizontal bars from zero, one under the other.
std::string bar_chart(const std::string& title, const std::vector<Bar>& bars);

/// A figure with its standard error.
struct Estimate {
    std::string label;
    double value = 0, error = 0;  ///< error 0: none is known
    std::string written;
    bool accent = false;
};
/// Dots with error bars of one standard error on a common axis that need not start at zero.
std::string estimate_chart(const std::string& title, const std::vector<Estimate>& estimates);

/// One line of a line chart: values over whole numbers (block indices, say).
struct Series {
    std::string label;
    struct Point {
        int x = 0;
        double y = 0;
        std::string tooltip;
    };
    std::vector<Point> points;
};
/// The line with this label, made when there is none.
Series& series_named(std::vector<Series>& series, const std::string& label);
/// Lines with markers, y on a logarithmic axis when all are above zero and far apart. Series differ
/// in colour and in the shape of their markers; more than eight share them. Empty when there is nothing to draw.
std::string line_chart(const std::string& title, const std::string& y_label, const std::vector<Series>& series,
                       const std::string& x_label = "block");

/// Round values that cover [low, high], three to eight of them.
std::vector<double> nice_ticks(double low, double high);

}  // namespace kerf::core::report
