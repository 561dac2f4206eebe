// SPDX-License-Identifier: Apache-2.0
#include "core/support/parallel.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace kerf::core {
namespace {

class Parallel : public testing::TestWithParam<int> {
protected:
    void SetUp() override { set_threads(GetParam()); }
    void TearDown() override { set_threads(0); }
};

TEST_P(Parallel, EveryItemBelongsToExactlyOnePiece) {
    for (const std::int64_t n : {0, 1, 7, 64, 1000}) {
        for (const std::int64_t grain : {1, 3, 64, 5000}) {
            std::vector<std::atomic<int>> visits(static_cast<std::size_t>(n));
            parallel_for(n, grain, [&](std::int64_t lo, std::int64_t hi) {
                for (auto i = lo; i < hi; ++i) ++visits[static_cast<std::size_t>(i)];
            });
            for (const auto& count : visits) ASSERT_EQ(count, 1);
        }
    }
}

TEST_P(Parallel, TheSplitDoesNotDependOnTheThreads) {
    std::mutex lock;
    std::set<std::pair<std::int64_t, std::int64_t>> pieces;
    parallel_for(10, 4, [&](std::int64_t lo, std::int64_t hi) {
        const std::lock_guard hold(lock);
        pieces.emplace(lo, hi);
    });
    EXPECT_EQ(pieces, (std::set<std::pair<std::int64_t, std::int64_t>>{{0, 4}, {4, 8}, {8, 10}}));
}

std::vector<float> sums_of_pieces() {
    std::vector<float> sums(100);
    parallel_for(100'000, 1000, [&](std::int64_t lo, std::int64_t hi) {
        float sum = 0;
        for (auto i = lo; i < hi; ++i) sum += std::sin(static_cast<float>(i));
        sums[static_cast<std::size_t>(lo / 1000)] = sum;
    });
    return sums;
}

TEST_P(Parallel, ResultsAreThoseOfOneThread) {
    const auto here = sums_of_pieces();
    set_threads(1);
    EXPECT_EQ(here, sums_of_pieces());
}

TEST_P(Parallel, TheExceptionOfTheLowestPieceIsRethrown) {
    for (int repeat = 0; repeat < 50; ++repeat) {
        try {
            parallel_for(64, 1, [](std::int64_t lo, std::int64_t) {
                if (lo >= 5) throw std::runtime_error(std::to_string(lo));
            });
            ADD_FAILURE() << "nothing was thrown";
        } catch (const std::runtime_error& error) {
            EXPECT_STREQ(error.what(), "5");
        }
    }
}

TEST_P(Parallel, WorksOnAfterAnException) {
    EXPECT_THROW(parallel_for(8, 1, [](std::int64_t, std::int64_t) { throw std::logic_error("x"); }), std::logic_error);
    std::atomic<int> calls{0};
    parallel_for(8, 1, [&](std::int64_t, std::int64_t) { ++calls; });
    EXPECT_EQ(calls, 8);
}

TEST_P(Parallel, ACallInsideAPieceRunsInItsThread) {
    std::atomic<int> elsewhere{0}, items{0};
    parallel_for(8, 1, [&](std::int64_t, std::int64_t) {
        const auto outer = std::this_thread::get_id();
        parallel_for(16, 4, [&](std::int64_t lo, std::int64_t hi) {
            if (std::this_thread::get_id() != outer) ++elsewhere;
            items += static_cast<int>(hi - lo);
        });
    });
    EXPECT_EQ(elsewhere, 0);
    EXPECT_EQ(items, 8 * 16);
}

TEST_P(Parallel, CallsFromSeveralThreadsDoNotMix) {
    std::vector<std::thread> callers;
    std::atomic<int> wrong{0};
    for (int caller = 0; caller < 4; ++caller)
        callers.emplace_back([&] {
            for (int repeat = 0; repeat < 50; ++repeat) {
                std::atomic<std::int64_t> sum{0};
                parallel_for(100, 7, [&](std::int64_t lo, std::int64_t hi) {
                    for (auto i = lo; i < hi; ++i) sum += i;
                });
                if (sum != 4950) ++wrong;
            }
        });
    for (auto& caller : callers) caller.join();
    EXPECT_EQ(wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(Threads, Parallel, testing::Values(1, 2, 8));

TEST(ParallelSettings, TheNumberOfThreadsIsTheOneAskedFor) {
    set_threads(3);
    EXPECT_EQ(threads(), 3);
    set_threads(0);
    EXPECT_GE(threads(), 1);
}

}  // namespace
}  // namespace kerf::core
