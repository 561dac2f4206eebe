// SPDX-License-Identifier: Apache-2.0
// Rates of the kernels that calibration spends its time in, on all cores (KERF_BENCHMARKS=ON builds it):
//   kerf_kernel_bench --benchmark_repetitions=5 --benchmark_report_aggregates_only=false
// "flops" counts what the algorithm needs: n²T for a Gram (half of the product), 2/3 n³ for an inverse factor.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/curvature/gram.hpp"
#include "core/linalg/linalg.hpp"
#include "core/support/parallel.hpp"
#include "kernels/cpu/gram_bf16.hpp"

// LAPACK as LibTorch's library exports it, for the chain that inverse_factor replaces.
extern "C" {
void spotrf_(const char*, const int*, float*, const int*, int*);
void spotri_(const char*, const int*, float*, const int*, int*);
int MKL_Set_Num_Threads_Local(int);
}

namespace kerf::core {
namespace {

using benchmark::Counter;

void count_flops(benchmark::State& state, double flops) {
    state.counters["flops"] = Counter(flops, Counter::kIsIterationInvariantRate);
}

std::vector<float> random_values(std::int64_t count) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(count));
    for (auto& value : x) value = normal(engine);
    return x;
}

std::vector<float> random_gram(std::int64_t n) {
    const auto x = random_values(2 * n * n);
    std::vector<float> h(static_cast<std::size_t>(n * n));
    linalg::syrk<float>(n, 2 * n, 1.0f, x.data(), n, 0.0f, h.data(), n);
    linalg::symmetrise(n, h.data(), n);
    return h;
}

void copy(benchmark::State& state) {
    constexpr std::int64_t bytes = 256 << 20, piece = 4 << 20;
    std::vector<char> from(bytes, 1), to(bytes);
    for (auto _ : state)
        parallel_for(bytes / piece, 1, [&](std::int64_t lo, std::int64_t hi) {
            std::memcpy(to.data() + lo * piece, from.data() + lo * piece, static_cast<std::size_t>((hi - lo) * piece));
        });
    state.SetBytesProcessed(state.iterations() * 2 * bytes);  // read and written
}
BENCHMARK(copy)->UseRealTime();

void gemm(benchmark::State& state) {
    const std::int64_t n = state.range(0);
    const auto a = random_values(n * n), b = random_values(n * n);
    std::vector<float> c(static_cast<std::size_t>(n * n));
    for (auto _ : state) linalg::gemm(false, false, n, n, n, 1.0f, a.data(), n, b.data(), n, 0.0f, c.data(), n);
    count_flops(state, 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n));
}
BENCHMARK(gemm)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime();

constexpr std::int64_t gram_tokens = 4 * GramAccumulator::chunk_tokens;

void gram_f32(benchmark::State& state) {
    const std::int64_t n = state.range(0);
    const auto x = random_values(gram_tokens * n);
    GramAccumulator gram("bench", n);
    for (auto _ : state) gram.add(x.data(), gram_tokens);
    count_flops(state, static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(gram_tokens));
}
BENCHMARK(gram_f32)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime();

void gram_bf16(benchmark::State& state, kernels::Isa isa) {
    if (!kernels::set_isa(isa)) {
        state.SkipWithError("this processor lacks it");
        return;
    }
    const std::int64_t n = state.range(0);
    std::vector<std::uint16_t> x;
    for (const float value : random_values(gram_tokens * n)) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        x.push_back(static_cast<std::uint16_t>(bits >> 16));
    }
    GramAccumulator gram("bench", n);
    for (auto _ : state) gram.add_bf16(x.data(), gram_tokens);
    count_flops(state, static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(gram_tokens));
    kernels::set_isa(std::nullopt);
}
BENCHMARK_CAPTURE(gram_bf16, generic, kernels::Isa::generic)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime();
BENCHMARK_CAPTURE(gram_bf16, avx512_bf16, kernels::Isa::avx512_bf16)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime();
BENCHMARK_CAPTURE(gram_bf16, amx_bf16, kernels::Isa::amx_bf16)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime();

template <class Factor>
void factor_loop(benchmark::State& state, const Factor& factor) {
    const std::int64_t n = state.range(0);
    const auto h = random_gram(n);
    std::vector<float> work;
    for (auto _ : state) {
        state.PauseTiming();
        work = h;
        state.ResumeTiming();
        factor(n, work.data());
    }
    count_flops(state, 2.0 / 3.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n));
}

void inverse_factor(benchmark::State& state) {
    factor_loop(state, [](std::int64_t n, float* h) {
        if (linalg::inverse_factor(n, h, n) >= 0) throw std::runtime_error("not positive definite");
    });
}
BENCHMARK(inverse_factor)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime();

/// The usual way: Cholesky, inverse, Cholesky of the inverse, by MKL on its own threads.
void potrf_potri_potrf(benchmark::State& state) {
    const int before = MKL_Set_Num_Threads_Local(threads());
    factor_loop(state, [](std::int64_t n, float* h) {
        const int size = static_cast<int>(n);
        int info = 0;
        spotrf_("L", &size, h, &size, &info);
        spotri_("L", &size, h, &size, &info);
        spotrf_("L", &size, h, &size, &info);
        if (info != 0) throw std::runtime_error("not positive definite");
    });
    MKL_Set_Num_Threads_Local(before);
}
BENCHMARK(potrf_potri_potrf)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime();

}  // namespace
}  // namespace kerf::core

int main(int argc, char** argv) {
    kerf::core::linalg::initialise();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
