// rlock_pair/*: one acquire and release of a free recursive lock.
// rlock_pair_nested/*: the same by its holder. The floor of both is a plain
// lock's.

#include <pthread.h>

#include <atomic>
#include <cstdint>

#include "benchmark/benchmark.h"
#include "mp/sync/rlock.h"

namespace {

// One compare-and-swap, one exchange.
class Floor {
 public:
  void lock() {
    uint32_t free = 0;
    while (!word_.compare_exchange_weak(free, 1, std::memory_order_acquire,
                                        std::memory_order_relaxed)) {
      free = 0;
    }
  }
  void unlock() { word_.exchange(0, std::memory_order_release); }

 private:
  std::atomic<uint32_t> word_{0};
};

class Pthread {
 public:
  Pthread() {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&mutex_, &attributes);
    pthread_mutexattr_destroy(&attributes);
  }
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }

 private:
  pthread_mutex_t mutex_;
};

template <class T>
void Pair(benchmark::State& state) {
  T lock;
  for (auto _ : state) {
    lock.lock();
    benchmark::ClobberMemory();
    lock.unlock();
  }
}
BENCHMARK_TEMPLATE(Pair, mp::RLock)->Name("rlock_pair/mp");
BENCHMARK_TEMPLATE(Pair, Pthread)->Name("rlock_pair/pthread");
BENCHMARK_TEMPLATE(Pair, Floor)->Name("rlock_pair/floor");

template <class T>
void NestedPair(benchmark::State& state) {
  T lock;
  lock.lock();
  for (auto _ : state) {
    lock.lock();
    benchmark::ClobberMemory();
    lock.unlock();
  }
  lock.unlock();
}
BENCHMARK_TEMPLATE(NestedPair, mp::RLock)->Name("rlock_pair_nested/mp");
BENCHMARK_TEMPLATE(NestedPair, Pthread)->Name("rlock_pair_nested/pthread");
BENCHMARK_TEMPLATE(Pair, Floor)->Name("rlock_pair_nested/floor");

}  // namespace
