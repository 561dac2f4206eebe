// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/graph/axes.hpp"
#include "host/show_axes.hpp"
#include "tests/unit/small_graphs.hpp"

namespace kerf::host {
namespace {

std::string shown(const core::Graph& graph) {
    return show_axes({{"model", "small"}, {"parameters", 1234}, {"axes", core::axes_json(core::find_axes(graph))}});
}

/// The lines from the one that begins with `title` to the next empty one.
std::string section(const std::string& text, const std::string& title) {
    const auto begin = text.find("\n" + title);
    if (begin == std::string::npos) return "";
    return text.substr(begin + 1, text.find("\n\n", begin) - begin - 1);
}

TEST(ShowAxes, ShowsAxesThatDifferInNumbersOnce) {
    const std::string text = shown(core::small::gqa());
    EXPECT_NE(text.find("small: 14 axes, 1.23 k parameters"), std::string::npos) << text;
    EXPECT_EQ(section(text, "layers.0-1.mlp"),
              "layers.0-1.mlp: 20 units of 1, mlp\n"
              "  tensor                      dim  role    size  indices of unit u\n"
              "  layers.0-1.mlp.gate.weight    0  output    20  u\n"
              "  layers.0-1.mlp.up.weight      0  output    20  u\n"
              "  layers.0-1.mlp.down.weight    1  input     20  u")
        << text;
    EXPECT_NE(
        section(text, "layers.0-1.query_heads").find("4 units of 6, query_heads, view, 2 groups lose equally many"),
        std::string::npos)
        << text;
    EXPECT_NE(section(text, "vocabulary").find("fixed: its indices are token ids"), std::string::npos) << text;
}

TEST(ShowAxes, ShowsExpertsWithAllThatTheyOwn) {
    const std::string text = shown(core::small::experts());
    const std::string experts = section(text, "layers.0-1.experts");
    EXPECT_NE(experts.find("4 units of 1, experts, 2 must stay"), std::string::npos) << text;
    EXPECT_NE(experts.find("layers.*.moe.experts.*.w2.weight"), std::string::npos) << text;
    EXPECT_NE(text.find("layers.*.moe.experts.*.mlp (8): 20 units of 1, mlp"), std::string::npos) << text;
}

}  // namespace
}  // namespace kerf::host
