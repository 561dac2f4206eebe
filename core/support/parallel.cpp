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

/// A sleeping thread takes tens of microseconds to wake, as long as a whole small call does; so threads look for the
/// next call, or the end of this one, for about 50 µs before they sleep. Decoding makes 200 calls a token. The pause
/// leaves the core to its other thread now and then; after every look it would delay what is waited for.
template <class Condition>
void spin_until(const Condition& met) {
    constexpr int pauses = 1000, looks = 32;
    for (int i = 0; i < pauses; ++i) {
        for (int look = 0; look < looks; ++look)
            if (met()) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

/// The threads, and the one batch that they work on. Threads that look (they do not sleep yet) meet through atomics
/// alone: taking a lock that the other side holds would put them to sleep after all.
class Pool {
public:
    explicit Pool(int helpers) {
        for (int i = 0; i < helpers; ++i) helpers_.emplace_back([this] { serve(); });
    }
    ~Pool() {
        stopping_ = true;
        announce();
        for (auto& helper : helpers_) helper.join();
    }
    /// Helpers that come too late find the gate closed: the caller waits for those alone that took part.
    void run(Batch& batch) {
        batch_ = &batch;
        gate_ = 0;
        announce();
        batch.work();
        gate_ -= closed;
        spin_until([this] { return gate_ == -closed; });
        if (gate_ == -closed) return;
        std::unique_lock hold(lock_);
        waiting_ = true;
        done_.wait(hold, [this] { return gate_ == -closed; });
        waiting_ = false;
    }

private:
    static constexpr std::int64_t closed = std::int64_t{1} << 32;

    /// Either a thread that goes to sleep sees the new generation, or we see that it sleeps.
    void announce() {
        ++generation_;
        if (sleeping_ == 0) return;
        const std::lock_guard hold(lock_);
        wake_.notify_all();
    }

    void serve() {
        if (start_hook) start_hook();
        std::uint64_t seen = 0;
        for (;;) {
            spin_until([&] { return generation_ != seen; });
            if (generation_ == seen) {
                std::unique_lock hold(lock_);
                ++sleeping_;
                wake_.wait(hold, [&] { return generation_ != seen; });
                --sleeping_;
            }
            seen = generation_;
            if (stopping_) return;
            if (!enter()) continue;
            batch_.load()->work();
            if (--gate_ == -closed && waiting_) {
                const std::lock_guard hold(lock_);
                done_.notify_one();
            }
        }
    }

    bool enter() {
        std::int64_t inside = gate_;
        while (inside >= 0)
            if (gate_.compare_exchange_weak(inside, inside + 1)) return true;
        return false;
    }

    std::mutex lock_;  // of going to sleep and being woken
    std::condition_variable wake_, done_;
    std::atomic<Batch*> batch_{nullptr};
    std::atomic<std::int64_t> gate_{-closed};  ///< helpers inside a batch; less `closed` when none may enter
    std::atomic<std::uint64_t> generation_{0};
    std::atomic<int> sleeping_{0};
    std::atomic<bool> waiting_{false}, stopping_{false};
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
    static const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));  // a system call
    return cores;
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
