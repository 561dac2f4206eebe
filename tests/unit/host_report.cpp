// SPDX-License-Identifier: Apache-2.0
#include "core/report/report.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <regex>

#include "core/report/charts.hpp"
#include "core/report/html.hpp"
#include "core/support/file.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

json sample_run(const std::string& word = "model.layers.0.mlp.up_proj") {
    const json figure{{"value", 20.5}, {"standard_error", 0.25}, {"tokens", 1000}, {"windows", 4}};
    return {
        {"kerf", "0.1.0"},
        {"model", "models/" + word},
        {"output", word},
        {"before", {{"perplexity", {{word, figure}}}}},
        {"after", {{"perplexity", {{word, figure}}}}},
        {"kl", {{word, 0.01}}},
        {"top1_agreement", {{word, 0.9}}},
        {"bytes", {{"before", 100}, {"after", 50}}},
        {"stages",
         {{{"method", word},
           {"version", word},
           {"seconds", 3.0},
           {"options", {{word, word}}},
           {"linears",
            {{{"name", word}, {"shape", {4, 8}}, {"bits", 4}, {"error", 0.01}, {"seconds", 0.5}, {"loss", 2.0}},
             {{"name", "model.layers.1." + word}, {"shape", {4, 8}}, {"bits", 4}, {"error", 0.2}, {"seconds", 1}}}}}}},
        {"provenance", {{"recipe", word}, {word, word}}}};
}

/// Whether every tag is closed, in order.
void expect_balanced(const std::string& html) {
    std::vector<std::string> open;
    const std::regex tag(R"(<(/?)([a-z0-9]+)([^<>]*)>)");
    for (std::sregex_iterator at(html.begin(), html.end(), tag), end; at != end; ++at) {
        const std::string name = (*at)[2], rest = (*at)[3];
        if (name == "meta" || rest.ends_with('/')) continue;
        if ((*at)[1].length() == 0) {
            open.push_back(name);
        } else {
            ASSERT_FALSE(open.empty()) << name;
            ASSERT_EQ(open.back(), name);
            open.pop_back();
        }
    }
    EXPECT_TRUE(open.empty()) << open.back();
}

TEST(Report, EscapesWhatHtmlWouldTakeForItsOwn) {
    EXPECT_EQ(report::escaped("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
    EXPECT_EQ(report::escaped("plain ± ü 漢 🙂\n"), "plain ± ü 漢 🙂\n");
}

TEST(Report, ReplacesBytesThatAreNoText) {
    EXPECT_EQ(report::escaped(std::string("a\0b", 3)), "a\uFFFDb");
    EXPECT_EQ(report::escaped("\x1b[31m"), "\uFFFD[31m");
    EXPECT_EQ(report::escaped("\xff"), "\uFFFD");
    EXPECT_EQ(report::escaped("\xc0\xaf"), "\uFFFD\uFFFD") << "an overlong /";
    EXPECT_EQ(report::escaped("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD") << "a surrogate";
    EXPECT_EQ(report::escaped("x\xe2\x82"), "x\uFFFD\uFFFD") << "cut short";
}

TEST(Report, NamesThatAreMarkupStayText) {
    const std::string evil = "</script><script>alert('1')</script>\"onload=\"x";
    const std::string html = report_html(sample_run(evil));
    EXPECT_EQ(html.find("<script"), std::string::npos);
    EXPECT_EQ(html.find("\"onload"), std::string::npos);
    EXPECT_NE(html.find("&lt;script&gt;alert(&#39;1&#39;)"), std::string::npos);
    expect_balanced(html);
}

TEST(Report, NeedsNothingFromElsewhere) {
    const std::string html = report_html(sample_run());
    for (const auto* reference : {"http:", "https:", "src=", "@import", "url(", "<link", "<script"})
        EXPECT_EQ(html.find(reference), std::string::npos) << reference;
    expect_balanced(html);
}

TEST(Report, ShowsFiguresPlotsAndProvenance) {
    const std::string html = report_html(sample_run());
    for (const auto* part : {"20.5000 ± 0.2500", "90.00 %", "2.00× smaller", "relative output error", "aria-label=",
                             "4 bits", "mlp.up_proj", "<summary>Recipe</summary>", "prefers-color-scheme: dark"})
        EXPECT_NE(html.find(part), std::string::npos) << part;
}

TEST(Report, ShowsWhatEachStageLeft) {
    json run = sample_run("wiki");
    json pruned = run["stages"][0];
    pruned["method"] = "slimgpt";
    pruned["bytes"] = 80;
    pruned["perplexity"] = {{"wiki", {{"value", 20.75}, {"standard_error", 0.25}}}};
    run["stages"].insert(run["stages"].begin(), pruned);
    const std::string html = report_html(run);
    expect_balanced(html);
    for (const auto* part : {"after slimgpt", "after wiki", "20.7500 ± 0.2500", "80 B (80 %)"})
        EXPECT_NE(html.find(part), std::string::npos) << part;
}

TEST(Report, ShowsWhatWasPrunedAndWhatWasWarnedOf) {
    json run = sample_run();
    run["warnings"] = {"too few tokens <for> this"};
    run["environment"] = {{"processor", "a processor"}, {"memory_bytes", 1 << 30}};
    run["stages"].push_back(
        {{"method", "slimgpt"},
         {"linears", json::array()},
         {"axes",
          {{{"name", "model.layers.0.mlp"}, {"kind", "mlp"}, {"block", 0}, {"units", 8}, {"removed", {1, 5}}},
           {{"name", "model.layers.1.mlp"},
            {"kind", "mlp"},
            {"block", 1},
            {"units", 8},
            {"removed", json::array()}}}}});
    run["stages"].push_back({{"method", "slicegpt"},
                             {"linears", json::array()},
                             {"positions", {{{"name", "p0"}, {"features", 12}, {"of", 16}, {"energy", 0.99}}}}});
    const std::string html = report_html(run);
    expect_balanced(html);
    EXPECT_NE(html.find("too few tokens &lt;for&gt; this"), std::string::npos);
    EXPECT_NE(html.find("a processor"), std::string::npos);
    EXPECT_NE(html.find("Sparsity by layer"), std::string::npos);
    EXPECT_NE(html.find("mlp: 25.0 %"), std::string::npos);
    EXPECT_NE(html.find("p0: 12 of 16"), std::string::npos);
}

TEST(Report, ManyWarningsDoNotPushTheFiguresAway) {
    json run = sample_run();
    for (int i = 0; i < 19; ++i) run["warnings"].push_back("warning number " + std::to_string(i));
    const std::string html = report_html(run);
    expect_balanced(html);
    const auto more = html.find("<summary>14 more</summary>");
    ASSERT_NE(more, std::string::npos);
    EXPECT_LT(html.find("warning number 4<"), more);
    EXPECT_GT(html.find("warning number 5<"), more);
    EXPECT_NE(html.find("warning number 18<"), std::string::npos);
}

TEST(Report, IsMadeOfWhateverThereIs) {
    for (const auto& run :
         {json(), json::object(), json("text"), json{{"stages", 3}}, json{{"stages", {1, nullptr, "x"}}},
          json{{"before", {{"perplexity", 7}}}, {"bytes", "many"}, {"provenance", json::array()}},
          json{{"after", {{"perplexity", {{"w", nullptr}}}}}, {"kl", {{"w", NAN}}}},
          json{{"stages", {{{"linears", {{{"name", 3}, {"shape", "x"}, {"error", INFINITY}}}}}}}}})
        expect_balanced(report_html(run));
}

TEST(Report, PlotsStayInsideTheirPicture) {
    const auto chart = report::line_chart("t", "y", {{"a", {{0, 1e-9, ""}, {79, 1e3, ""}}}, {"b", {{5, 0.5, ""}}}});
    const std::regex coordinate(R"(translate\(([-0-9.]+),([-0-9.]+)\))");
    int markers = 0;
    for (std::sregex_iterator at(chart.begin(), chart.end(), coordinate), end; at != end; ++at, ++markers) {
        EXPECT_GE(std::stod((*at)[1]), 0);
        EXPECT_LE(std::stod((*at)[1]), 760);
        EXPECT_GE(std::stod((*at)[2]), 0);
        EXPECT_LE(std::stod((*at)[2]), 400);
    }
    EXPECT_EQ(markers, 5) << "three points and two in the legend";
    EXPECT_NE(chart.find("logarithmic"), std::string::npos);
}

TEST(Report, PlotsOfNothingAreEmpty) {
    EXPECT_EQ(report::line_chart("t", "y", {}), "");
    EXPECT_EQ(report::line_chart("t", "y", {{"a", {{0, NAN, ""}}}}), "");
    EXPECT_EQ(report::bar_chart("t", {{"a", 0, "0"}}), "");
    EXPECT_EQ(report::estimate_chart("t", {}), "");
}

TEST(Report, TicksAreRoundAndFew) {
    EXPECT_EQ(report::nice_ticks(0, 1), (std::vector<double>{0, 0.5, 1}));
    for (const double span : {1e-6, 0.37, 3.0, 29.0, 12345.0}) {
        const auto ticks = report::nice_ticks(2, 2 + span);
        EXPECT_GE(ticks.size(), 2u) << span;
        EXPECT_LE(ticks.size(), 8u) << span;
    }
}

TEST(Report, WritesBothFiles) {
    const auto folder = std::filesystem::path(testing::TempDir()) / "kerf-report";
    std::filesystem::create_directories(folder);
    json run = sample_run();
    run["output"] = "not utf-8: \xff";
    write_report(run, folder);
    EXPECT_EQ(json::parse(read_text(folder / "report.json"))["kl"], run["kl"]);
    EXPECT_TRUE(read_text(folder / "report.html").starts_with("<!doctype html>"));
    std::filesystem::remove_all(folder);
}

TEST(Report, ShowsWhatAPrunerRemovedAndHowOftenTokensPassed) {
    json run = sample_run();
    json& stage = run["stages"][0];
    stage["axes"] = {{{"name", "model.layers.0.mlp"}, {"kind", "mlp"}, {"block", 0}, {"units", 8}, {"removed", {1, 3}}},
                     {{"name", "model.layers.1.mlp"}, {"kind", "mlp"}, {"block", 1}, {"units", 8}, {"removed", {5}}}};
    stage["parameters"] = {{"before", 1000}, {"after", 750}};
    stage["blocks"] = {{"before", 3}, {"after", 2}};
    stage["forward"] = {{"block_runs", 3}, {"passes", 1.0}};
    stage["sweeps"] = 2;
    const std::string html = report_html(run);
    for (const auto* part : {"1 of 3 blocks removed", "Sparsity by layer", "mlp: 25.0 %", "mlp: 12.5 %", "750 (75.0 %)",
                             "1 forward pass (3 runs of a block), 2 backward sweeps"})
        EXPECT_NE(html.find(part), std::string::npos) << part;
    expect_balanced(html);
}

}  // namespace
}  // namespace kerf::core
