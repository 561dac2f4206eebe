// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

namespace kerf::core {

/// How many threads `parallel_for` uses from now on; call it before the first one. 0 = one a core.
void set_threads(int threads);
int threads();

/// Calls body(lo, hi) on pieces of [0, n), `grain` items each (the last may be short). The split depends on n and grain
/// alone: whoever writes only to places that belong to its own piece gets the same bytes at any number of threads.
/// The exception of the piece with the lowest lo is rethrown when all running pieces have ended. A call from inside a
/// body runs its pieces in that thread.
void parallel_for(std::int64_t n, std::int64_t grain,
                  const std::function<void(std::int64_t lo, std::int64_t hi)>& body);

/// Runs in each thread that parallel_for starts, before its first piece: thread-local settings of BLAS go here.
void on_thread_start(std::function<void()> hook);

}  // namespace kerf::core
