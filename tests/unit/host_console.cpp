// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "host/console/format.hpp"
#include "host/console/progress.hpp"
#include "host/show.hpp"

namespace kerf::host {
namespace {

TEST(Format, CountsCharactersAndNotBytes) {
    EXPECT_EQ(columns_of("± 3 …"), 5u);
    EXPECT_EQ(shortened("model.layers.10", 8), "model.l…");
    EXPECT_EQ(shortened("±±±±", 3), "±±…");
    EXPECT_EQ(shortened("abc", 3), "abc");
}

TEST(Format, TablesAlignTextLeftAndFiguresRight) {
    EXPECT_EQ(aligned_table({{"name", "n"}, {"± a", "10"}, {"b", ""}}, "lr"), "name   n\n± a   10\nb\n");
}

TEST(Format, FiguresAreShort) {
    EXPECT_EQ(short_count(999), "999");
    EXPECT_EQ(short_count(134515008), "135 M");
    EXPECT_EQ(percent(0.1234), "12.3 %");
    EXPECT_EQ(signed_percent(-0.0178), "-1.8 %");
    EXPECT_EQ(fixed(NAN, 2), "–");
}

TEST(Progress, LinesComeWithEachPhaseAndEveryTenSecondsOtherwise) {
    ProgressMeter meter(false, 0);
    EXPECT_EQ(meter.update({"gptq", "a", 0, 100}, 0), "gptq: 0 % (a)");
    EXPECT_FALSE(meter.update({"gptq", "b", 10, 100}, 5));
    EXPECT_EQ(meter.update({"gptq", "c", 20, 100}, 10), "gptq: 20 %, 40.0 s left (c)");
    EXPECT_FALSE(meter.update({"gptq", "d", 21, 100}, 11));
    EXPECT_TRUE(meter.update({"evaluate", "", 22, 100}, 11.5));
}

TEST(Progress, WhatAnEarlierRunDidDoesNotCountAsPace) {
    ProgressMeter meter(false, 0);
    meter.update({"gptq", "", 900, 1000}, 0);
    meter.update({"gptq", "", 910, 1000}, 10);
    const auto left = meter.seconds_left({"gptq", "", 910, 1000});
    ASSERT_TRUE(left);
    EXPECT_NEAR(*left, 90, 1e-9);
}

TEST(Progress, ThePaceOfLateCountsForMore) {
    ProgressMeter meter(false, 0);
    for (int i = 0; i <= 100; ++i) meter.update({"slow", "", 1.0 * i, 1e4}, i);
    for (int i = 1; i <= 200; ++i) meter.update({"fast", "", 100.0 + 10 * i, 1e4}, 100 + i);
    const ProgressState state{"fast", "", 2100, 1e4};
    const auto left = meter.seconds_left(state);
    ASSERT_TRUE(left);
    // The true rest is 790 s; the mean of the whole time would say 1129 s.
    EXPECT_NEAR(*left, 790, 10);
}

TEST(Progress, ABarFitsItsLine) {
    ProgressMeter meter(true, 60);
    const auto line = meter.update({"gptq", std::string(200, 'x'), 50, 100}, 0);
    ASSERT_TRUE(line);
    EXPECT_EQ(columns_of(*line), 59u);
    EXPECT_NE(line->find("50 %"), std::string::npos);
}

TEST(Show, ARunNamesPerplexitiesSizesAndTheReport) {
    const nlohmann::json run{{"before", {{"perplexity", {{"wiki", {{"value", 20.0}, {"standard_error", 0.25}}}}}}},
                             {"after", {{"perplexity", {{"wiki", {{"value", 21.0}, {"standard_error", 0.3}}}}}}},
                             {"kl", {{"wiki", 0.0123}}},
                             {"top1_agreement", {{"wiki", 0.942}}},
                             {"parameters", {{"before", 3145728}, {"after", 3145728}}},
                             {"bytes", {{"before", 2097152}, {"after", 1048576}}},
                             {"stages",
                              {{{"method", "gptq"},
                                {"version", "1.0.0"},
                                {"seconds", 2.0},
                                {"linears", {{{"name", "l0"}, {"error", 0.02}}, {{"name", "l1"}, {"error", 0.04}}}}}}},
                             {"seconds", 5.0},
                             {"peak_bytes", 1 << 28},
                             {"output", "out/x"}};
    const std::string text = show_run(run);
    for (const auto* part : {"20.000 ± 0.250  21.000 ± 0.300  +5.0 %", "0.0123 nats", "94.2 %", "2.0 MiB  ", "1.0 MiB",
                             "50 %", "stage 0  gptq 1.0.0: 2 linears, error 0.03 on average, at most 0.04 (l1), 2.0 s",
                             "5.0 s, peak memory 256 MiB", "out/x/report.html"})
        EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

TEST(Show, ARunOfWhichNothingIsKnownIsStillShown) {
    EXPECT_NE(show_run(nlohmann::json::object()).find("report"), std::string::npos);
}

TEST(Show, BlocksThatAreAlikeAreListedOnce) {
    const auto linear = [](const std::string& name, int rows) {
        return nlohmann::json{{"name", name}, {"shape", {rows, 8}}, {"dtype", "F16"}, {"bias", false}};
    };
    const nlohmann::json model{{"blocks",
                                {{{"name", "b.0"}, {"parameters", 64}, {"linears", {linear("b.0.q", 8)}}},
                                 {{"name", "b.1"}, {"parameters", 64}, {"linears", {linear("b.1.q", 8)}}},
                                 {{"name", "b.2"}, {"parameters", 32}, {"linears", {linear("b.2.q", 4)}}}}}};
    const std::string text = show_model(model);
    EXPECT_NE(text.find("b.0 to b.1 (2 alike): each 64 parameters, "), std::string::npos) << text;
    EXPECT_NE(text.find("\nb.2: 32 parameters, "), std::string::npos) << text;
    EXPECT_NE(text.find("q"), std::string::npos);
}

}  // namespace
}  // namespace kerf::host
