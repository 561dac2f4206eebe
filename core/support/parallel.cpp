// SPDX-License-Identifier: Apache-2.0
#include "core/support/parallel.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace kerf::core {
namespace {

thread_local bool inside_piece = false;
std::function<void()> start_hook;
int wanted_threads = 0;

/// One parallel_for call: pieces are taken in order from a counter.
struct Batch {
    std::int64_t n = 0, grain = 1;
    const std::function<void(std::int64_t, std::int64_t)>* body = nullptr;
    std::atomic<std::int64_t> next{0};
    std::mutex failure_lock;
    std::int64_t failed_at = std::numeric_limits<std::int64_t>::max();
    std::exception_ptr failure = nullptr;

    void work() {
        inside_piece = true;
        for (;;) {
            const std::int64_t lo = next.fetch_add(grain);
            if (lo >= n) break;
            try {
                (*body)(lo, std::min(n, lo + grain));
            } catch (...) {
                const std::lock_guard hold(failure_lock);
                if (lo < failed_at) {
                    failed_at = lo;
                    failure = std::current_exception();
                }
                next.store(n);  // pieces before this one are taken already, later ones need not start
            }
        }
        inside_piece = false;
    }
};

class Pool {
public:
    explicit Pool(int helpers) {
        for (int i = 0; i < helpers; ++i) helpers_.emplace_back([this] { serve(); });
    }
    ~Pool() {
        {
            const std::lock_guard hold(lock_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (auto& helper : helpers_) helper.join();
    }
    void run(Batch& batch) {
        {
            const std::lock_guard hold(lock_);
            batch_ = &batch;
            busy_ = helpers_.size();
            ++generation_;
        }
        wake_.notify_all();
        batch.work();
        std::unique_lock hold(lock_);
        done_.wait(hold, [this] { return busy_ == 0; });
        batch_ = nullptr;
    }

private:
    void serve() {
        if (start_hook) start_hook();
        std::uint64_t seen = 0;
        std::unique_lock hold(lock_);
        for (;;) {
            wake_.wait(hold, [&] { return stopping_ || generation_ != seen; });
            if (stopping_) return;
            seen = generation_;
            Batch* batch = batch_;
            hold.unlock();
            batch->work();
            hold.lock();
            if (--busy_ == 0) done_.notify_one();
        }
    }

    std::mutex lock_;
    std::condition_variable wake_, done_;
    Batch* batch_ = nullptr;
    std::size_t busy_ = 0;
    std::uint64_t generation_ = 0;
    bool stopping_ = false;
    std::vector<std::thread> helpers_;
};

std::unique_ptr<Pool> pool;
std::mutex pool_lock;

std::unique_ptr<Pool> make_pool() {
    // A forked child has none of the threads: it forgets the pool, which it could only wait for in vain, and makes its
    // own.
    static const int handler = pthread_atfork(nullptr, nullptr, [] { (void)pool.release(); });
    (void)handler;
    return std::make_unique<Pool>(threads() - 1);
}

}  // namespace

void set_threads(int threads) {
    const std::lock_guard hold(pool_lock);
    wanted_threads = threads;
    pool.reset();
}

int threads() {
    if (wanted_threads > 0) return wanted_threads;
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void on_thread_start(std::function<void()> hook) {
    const std::lock_guard hold(pool_lock);
    start_hook = std::move(hook);
    pool.reset();
}

void parallel_for(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body) {
    if (n <= 0) return;
    grain = std::max<std::int64_t>(1, grain);
    if (inside_piece) {
        for (std::int64_t lo = 0; lo < n; lo += grain) body(lo, std::min(n, lo + grain));
        return;
    }
    Batch batch;
    batch.n = n;
    batch.grain = grain;
    batch.body = &body;
    if (threads() == 1 || n <= grain) {
        batch.work();
    } else {
        const std::lock_guard hold(pool_lock);
        if (!pool) pool = make_pool();
        pool->run(batch);
    }
    if (batch.failure) std::rethrow_exception(batch.failure);
}

}  // namespace kerf::core
