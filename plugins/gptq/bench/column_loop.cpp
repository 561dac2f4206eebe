// SPDX-License-Identifier: Apache-2.0
// Rates of GPTQ's column loop on one thread: gptq_bench [out] [in]. GFLOP/s count out · in² operations a loop.
// Time is the processor's, not the clock's: other work on the machine hardly counts.
#include <ctime>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "loop.hpp"

namespace {

using namespace kerf::gptq;
using kerf::Parallel, kerf::strip_width;

double seconds_of(const auto& work) {
    const std::clock_t start = std::clock();
    work();
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

/// A weight with normal entries and an inverse factor with a dominant diagonal.
struct Case {
    std::int64_t rows, columns;
    std::vector<float> weight, upper, gram;
    std::vector<std::int64_t> order;
    std::vector<std::uint8_t> dead;

    Case(std::int64_t rows_, std::int64_t columns_) : rows(rows_), columns(columns_) {
        std::mt19937 random(1);
        std::normal_distribution<float> normal;
        weight.resize(static_cast<std::size_t>(rows * columns));
        upper.assign(static_cast<std::size_t>(columns * columns), 0.0f);
        gram = upper;
        for (auto& w : weight) w = 0.02f * normal(random);
        for (std::int64_t r = 0; r < columns; ++r) {
            gram[static_cast<std::size_t>(r * columns + r)] = 1;
            for (std::int64_t c = r; c < columns; ++c)
                upper[static_cast<std::size_t>(r * columns + c)] = c == r ? 1.0f : 0.01f * normal(random);
        }
        order.resize(static_cast<std::size_t>(columns));
        std::iota(order.begin(), order.end(), 0);
        dead.assign(static_cast<std::size_t>(columns), 0);
    }
};

void measure_subtract(const Kernel& kernel, std::int64_t depth) {
    std::vector<float> packed(static_cast<std::size_t>(depth * piece_width), 1e-3f);
    std::vector<float> in(static_cast<std::size_t>(depth * lanes), 1e-3f), out(piece_width * lanes);
    const int repeats = static_cast<int>(4e9 / static_cast<double>(2 * depth * piece_width * lanes)) + 1;
    const double seconds = seconds_of([&] {
        for (int i = 0; i < repeats; ++i)
            kernel.subtract(packed.data(), depth * strip_width, depth, piece_width, in.data(), out.data());
    });
    std::printf("%-9s update, %5lld terms: %7.1f GFLOP/s\n", kernel.name, static_cast<long long>(depth),
                1e-9 * repeats * 2.0 * static_cast<double>(depth * piece_width * lanes) / seconds);
}

void measure_loop(const Kernel& kernel, const Case& c, const char* what, const Settings& settings, bool with_gram) {
    const auto sizes = work_sizes(settings, {c.rows, c.columns});
    const std::int64_t groups = (c.columns + settings.group_size - 1) / settings.group_size;
    std::vector<float> panels(static_cast<std::size_t>(sizes.panels)), packed(static_cast<std::size_t>(sizes.packed)),
        block(static_cast<std::size_t>(sizes.block)), scales(static_cast<std::size_t>(c.rows * groups)),
        zeros(scales.size());
    std::vector<PanelGrid> grids(static_cast<std::size_t>(sizes.grids));
    std::vector<std::uint8_t> codes(c.weight.size());
    std::vector<std::int32_t> index(static_cast<std::size_t>(c.columns));
    const Problem problem{{c.weight.data(), {c.rows, c.columns}},
                          {c.upper.data(), {c.columns, c.columns}},
                          {with_gram ? c.gram.data() : nullptr, {c.columns, c.columns}},
                          c.order,
                          c.dead,
                          0.01};
    const Result result{{codes.data(), {c.rows, c.columns}},
                        {},
                        {scales.data(), {c.rows, groups}},
                        {zeros.data(), {c.rows, groups}},
                        index};
    const Parallel serial = [](std::int64_t n, const auto& body) {
        for (std::int64_t i = 0; i < n; ++i) body(i);
    };
    const double seconds = seconds_of([&] {
        ColumnLoop(kernel, settings, problem, {panels.data(), packed.data(), grids.data(), block.data(), nullptr},
                   result, serial)
            .run();
    });
    const double operations = static_cast<double>(c.rows * c.columns) * static_cast<double>(c.columns);
    std::printf("%-9s %-34s %8.1f ms %7.1f GFLOP/s\n", kernel.name, what, 1e3 * seconds, 1e-9 * operations / seconds);
}

}  // namespace

int main(int argc, char** argv) {
    const Case c(argc > 1 ? std::atoll(argv[1]) : 1536, argc > 2 ? std::atoll(argv[2]) : 1536);
    for (const Kernel* kernel : kernels()) {
        for (const std::int64_t depth : {128, 512, 1536}) measure_subtract(*kernel, depth);
        Settings settings;
        settings.weighted = false;
        settings.group_size = c.columns;
        measure_loop(*kernel, c, "whole rows, range", settings, false);
        settings.group_size = 128;
        measure_loop(*kernel, c, "groups of 128, range", settings, false);
        measure_loop(*kernel, c, "the same with relative error", settings, true);
        settings.weighted = true;
        settings.grid.norm = 2.0f;
        settings.grid.search_steps = 80;
        measure_loop(*kernel, c, "groups of 128, weighted search", settings, false);
        settings.grid.norm = 2.4f;
        measure_loop(*kernel, c, "groups of 128, norm 2.4", settings, false);
        settings.grid.search_steps = 0;
        settings.refine = 1;
        measure_loop(*kernel, c, "groups of 128, range, one sweep", settings, true);
    }
}
