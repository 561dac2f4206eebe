// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/job.hpp"
#include "core/support/parallel.hpp"
#include "kerf/job.hpp"
#include "kerf/values.hpp"

namespace kerf {
namespace {

using nlohmann::json;

const kerf_host* const table = core::host_table();

/// The error text of a call to the host, "done" when it worked.
template <class Call>
std::string outcome(const Call& call) {
    try {
        core::check_call("call", call);
    } catch (const core::Error& error) {
        return error.what();
    }
    return "done";
}

TEST(HostTable, OffersItsServicesByIdAndSize) {
    for (const char* id : {"kerf.values/1", "kerf.linalg/1", "kerf.random/1", "kerf.metrics/1", "kerf.curvature/1"}) {
        EXPECT_NE(table->extension(table, {id, std::strlen(id)}, 8), nullptr) << id;
        EXPECT_EQ(table->extension(table, {id, std::strlen(id)}, 4096), nullptr) << id;
    }
    EXPECT_EQ(table->extension(table, {"kerf.values/2", 13}, 0), nullptr);
    EXPECT_EQ(table->extension(table, {nullptr, 0}, 0), nullptr);
}

TEST(HostTable, AnErrorBufferIsNeverOverrun) {
    for (const std::uint32_t capacity : {0u, 1u, 7u, 64u}) {
        std::string buffer(80, '#');
        kerf_error error{sizeof(kerf_error), KERF_OK, capacity, 0, buffer.data()};
        void* out = nullptr;
        EXPECT_EQ(table->alloc(nullptr, 8, 3, &out, &error), KERF_E_ARGUMENT);
        EXPECT_EQ(error.code, KERF_E_ARGUMENT);
        EXPECT_EQ(error.length, std::min<std::uint32_t>(capacity, error.length));
        EXPECT_EQ(buffer.substr(capacity), std::string(80 - capacity, '#'));
    }
    void* out = nullptr;
    EXPECT_EQ(table->alloc(nullptr, 8, 3, &out, nullptr), KERF_E_ARGUMENT);
    EXPECT_EQ(out, nullptr);
}

TEST(HostAllocator, CountsWhatIsHeldAndTheMostThatWas) {
    kerf_job job;
    const auto before = core::plugin_allocations().live();
    {
        const Job view(table, &job);
        const auto a = view.buffer<float>(100);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % 64, 0u);
        { const auto b = view.matrix<double>({10, 10}); }
        auto c = view.buffer<std::uint8_t>(10);
        c = view.buffer<std::uint8_t>(20);
        EXPECT_EQ(job.memory.live(), 420u);
        EXPECT_EQ(core::plugin_allocations().live(), before + 420);
    }
    EXPECT_EQ(job.memory.live(), 0u);
    EXPECT_EQ(job.memory.peak(), 1200u);
    table->release(&job, nullptr);
}

TEST(HostAllocator, HoldsTheLimitOfTheJob) {
    kerf_job job;
    job.memory_limit = 1000;
    const Job view(table, &job);
    const auto a = view.buffer<char>(1000);
    try {
        view.buffer<char>(1);
        FAIL() << "the limit was passed";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), Code::budget);
    }
    EXPECT_EQ(job.memory.live(), 1000u);
    EXPECT_THROW(view.buffer<double>(std::numeric_limits<std::int64_t>::max()), Error);
    EXPECT_THROW(view.matrix<double>({1ll << 40, 1ll << 40}), Error);
}

TEST(HostParallelFor, CoversEveryItemOnceWhateverTheThreads) {
    kerf_job job;
    for (const int threads : {1, 2, 8}) {
        core::set_threads(threads);
        std::vector<int> hits(1001);
        Job(table, &job).parallel_for(1001, 7, [&](Range range) {
            EXPECT_EQ(range.first() % 7, 0);
            for (const auto i : range) ++hits[static_cast<std::size_t>(i)];
        });
        EXPECT_EQ(std::count(hits.begin(), hits.end(), 1), 1001);
    }
    core::set_threads(0);
}

TEST(HostParallelFor, DeliversTheErrorOfTheLowestFailingPiece) {
    kerf_job job;
    for (const int threads : {1, 4}) {
        core::set_threads(threads);
        try {
            Job(table, &job).parallel_for(100, 1, [](Range range) {
                if (range.first() >= 3) throw Error(Code::budget, "piece ", range.first());
            });
            FAIL() << "no error";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), Code::budget);
            EXPECT_STREQ(error.what(), "piece 3");
        }
    }
    core::set_threads(0);
}

TEST(HostParallelFor, EndsACancelledJob) {
    kerf_job job;
    job.cancelled = [] { return true; };
    try {
        Job(table, &job).parallel_for(10, 1, [](Range) { FAIL() << "a piece ran"; });
        FAIL() << "no error";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), Code::cancelled);
    }
    EXPECT_NE(outcome([&](kerf_error* e) { return table->parallel_for(&job, 1, 0, nullptr, nullptr, e); }), "done");
}

TEST(HostValues, AreReadByPathAndKind) {
    const json tree{{"a", {{"b", {1, 2.5, "x", nullptr, true}}}},
                    {"n", nullptr},
                    {"huge", std::numeric_limits<std::uint64_t>::max()}};
    const Config c(table, core::as_values(tree), "test", "config.json");
    EXPECT_EQ(c.integer("a.b.0"), 1);
    EXPECT_DOUBLE_EQ(c.real("a.b.0"), 1);
    EXPECT_DOUBLE_EQ(c.real("a.b.1"), 2.5);
    EXPECT_EQ(c.at("a").text("b.2"), "x");
    EXPECT_TRUE(c.flag("a.b.4"));
    EXPECT_EQ(c.size("a.b"), 5);
    EXPECT_EQ(c.size("a.b.0"), 0);
    EXPECT_FALSE(c.has("n"));
    EXPECT_TRUE(c.mentions("n"));
    for (const char* absent : {"z", "a.z", "a.b.5", "a.b.-1", "a.b.x", "a.b.0.c", "n.x", "a.b.99999999999999999999"})
        EXPECT_FALSE(c.mentions(absent)) << absent;
    EXPECT_EQ(c.integer("z", 7), 7);
    const auto said = [&](const auto& body) {
        try {
            body();
        } catch (const Error& error) {
            return std::string(error.what());
        }
        return std::string("done");
    };
    EXPECT_EQ(said([&] { c.integer("z"); }), "config.json: z is missing");
    EXPECT_EQ(said([&] { c.integer("a.b.1"); }),
              "config.json: a.b.1 is a number with a fraction, but a whole number is needed");
    EXPECT_EQ(said([&] { c.at("a").flag("b.2"); }), "config.json: a.b.2 is a text, but true or false is needed");
    EXPECT_EQ(said([&] { c.integer("huge"); }), "config.json: huge = 18446744073709551615 is too large");
    EXPECT_EQ(said([&] { c.must_be("a.b.0", 2); }),
              "config.json: a.b.0 = 1 is not supported by the adapter test (only 2)");
}

TEST(HostRandom, AnElementDependsOnSeedStreamAndIndexAlone) {
    kerf_job job;
    const Job view(table, &job);
    std::vector<double> whole(1000), part(333);
    view.uniform(7, 3, whole);
    for (const std::uint64_t first : {0u, 1u, 500u, 667u}) {
        view.uniform(7, 3, part, first);
        EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(first))) << first;
    }
    std::vector<double> other(1000);
    view.uniform(7, 4, other);
    EXPECT_NE(whole, other);
    view.uniform(8, 3, other);
    EXPECT_NE(whole, other);
}

TEST(HostRandom, HasTheMomentsOfItsDistributions) {
    kerf_job job;
    const Job view(table, &job);
    constexpr std::size_t n = 200000;
    std::vector<double> x(n);
    const auto mean = [&](const auto& of) {
        double sum = 0;
        for (const double v : x) sum += of(v);
        return sum / n;
    };
    // Five standard errors of each mean.
    view.uniform(1, 0, x);
    EXPECT_GE(*std::min_element(x.begin(), x.end()), 0);
    EXPECT_LT(*std::max_element(x.begin(), x.end()), 1);
    EXPECT_NEAR(mean([](double v) { return v; }), 0.5, 5 * std::sqrt(1.0 / 12 / n));
    EXPECT_NEAR(mean([](double v) { return v * v; }), 1.0 / 3, 5 * std::sqrt(4.0 / 45 / n));
    view.normal(1, 0, x);
    EXPECT_NEAR(mean([](double v) { return v; }), 0, 5 * std::sqrt(1.0 / n));
    EXPECT_NEAR(mean([](double v) { return v * v; }), 1, 5 * std::sqrt(2.0 / n));
    EXPECT_NEAR(mean([](double v) { return v * v * v * v; }), 3, 5 * std::sqrt(96.0 / n));
}

TEST(HostRandom, IsPhilox) {
    // Counter and key 0: 6627e8d5 e169c58d bc57ac4c 9b00dbd8, from the authors' known-answer file.
    double two[2];
    static_cast<const kerf_random_1*>(table->extension(table, {"kerf.random/1", 13}, sizeof(kerf_random_1)))
        ->uniform(0, 0, 0, two, 2);
    EXPECT_EQ(two[0], static_cast<double>(0x6627e8d5e169c58dull >> 11) * 0x1p-53);
    EXPECT_EQ(two[1], static_cast<double>(0xbc57ac4c9b00dbd8ull >> 11) * 0x1p-53);
}

TEST(HostLog, DeliversMessagesAndFiguresAndSurvivesNoListener) {
    kerf_job job;
    const Job view(table, &job);
    view.log(Level::warn, "nobody listens");
    std::vector<std::pair<int, std::string>> heard;
    job.log = [&](int level, const std::string& message) { heard.emplace_back(level, message); };
    view.log(Level::warn, "hello");
    table->log(nullptr, KERF_LOG_INFO, {"x", 1});
    view.metric("loss", 0.25);
    EXPECT_EQ(heard, (std::vector<std::pair<int, std::string>>{{KERF_LOG_WARN, "hello"}}));
    EXPECT_EQ(job.metrics.at("loss"), 0.25);
}

}  // namespace
}  // namespace kerf
