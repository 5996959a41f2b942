// lock_pair/*: one acquire and release of a free lock.
// rlock_pair/*: of a free recursive lock; rlock_pair_nested/*: by its holder.
// The floor of both is the plain lock's.
// semaphore_pair/*: one acquire and release of a permit that is there;
// semaphore_account_pair/mp: of one on the account of the process.
// lock_create_live/mp/locks:N: making N locks that all live; time of one.
// lock_pair_live/mp/locks:N: lock_pair of one of N live locks; and of all of
// them, one after the other: lock_pair_each/mp/locks:N, whose floor is the same
// with N of the least locks, a cache line each.
// lock_contended/*/procs:N: N processes at once, each acquiring, touching one
// shared cache line and releasing; time of one acquire and release of the whole
// gang. The counter min_share is the smallest share of the locking that a
// process got while all were at it, times N: 1 is perfectly fair.

#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/sync/lock.h"
#include "mp/sync/rlock.h"
#include "mp/sync/semaphore.h"
#include "mp/testing/gang.h"

// A peer only where it is installed.
#if __has_include(<boost/interprocess/sync/interprocess_mutex.hpp>)
#include <boost/interprocess/sync/interprocess_mutex.hpp>
#include <boost/interprocess/sync/interprocess_semaphore.hpp>
#define MP_HAVE_BOOST 1
#endif

namespace {

// The least a lock can be: one compare-and-swap, one exchange. Under contention
// it spins, so it is a floor only for the free lock.
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
  explicit Pthread(int robust = PTHREAD_MUTEX_STALLED,
                   int type = PTHREAD_MUTEX_NORMAL) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, robust);
    pthread_mutexattr_settype(&attributes, type);
    pthread_mutex_init(&mutex_, &attributes);
    pthread_mutexattr_destroy(&attributes);
  }
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }

 private:
  pthread_mutex_t mutex_;
};

class PthreadRobust : public Pthread {
 public:
  PthreadRobust() : Pthread(PTHREAD_MUTEX_ROBUST) {}
};

class PthreadRecursive : public Pthread {
 public:
  PthreadRecursive()
      : Pthread(PTHREAD_MUTEX_STALLED, PTHREAD_MUTEX_RECURSIVE) {}
};

class SemT {
 public:
  SemT() { sem_init(&semaphore_, /*pshared=*/1, 1); }
  void lock() { sem_wait(&semaphore_); }
  void unlock() { sem_post(&semaphore_); }

 private:
  sem_t semaphore_;
};

// The least a semaphore can be.
class SemaphoreFloor {
 public:
  void lock() { value_.fetch_sub(1, std::memory_order_acquire); }
  void unlock() { value_.fetch_add(1, std::memory_order_release); }

 private:
  std::atomic<uint32_t> value_{1};
};

class Permit {
 public:
  void lock() { semaphore_.Acquire(); }
  void unlock() { MP_CHECK_OK(semaphore_.Release()); }

 private:
  mp::Semaphore semaphore_;
};

#ifdef MP_HAVE_BOOST
class BoostSemaphore {
 public:
  void lock() { semaphore_.wait(); }
  void unlock() { semaphore_.post(); }

 private:
  boost::interprocess::interprocess_semaphore semaphore_{1};
};
#endif

// Peers live on a shared page of their own; mp's handles are shared already.
template <class T>
T* InSharedMemory() {
  void* const memory = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  MP_PCHECK(memory != MAP_FAILED) << "mmap";
  return new (memory) T;
}

template <class T>
struct Shared {
  T& lock = *InSharedMemory<T>();
  ~Shared() { munmap(&lock, sizeof(T)); }
};
template <>
struct Shared<mp::Lock> {
  mp::Lock lock;
};
template <>
struct Shared<mp::RLock> {
  mp::RLock lock;
};

template <>
struct Shared<Permit> {
  Permit lock;
};
template <>
struct Shared<mp::Semaphore> {
  mp::Semaphore lock;
};

template <class T>
void LockPair(benchmark::State& state) {
  Shared<T> shared;
  for (auto _ : state) {
    shared.lock.lock();
    benchmark::ClobberMemory();
    shared.lock.unlock();
  }
}

template <class T>
void NestedPair(benchmark::State& state) {
  Shared<T> shared;
  shared.lock.lock();
  for (auto _ : state) {
    shared.lock.lock();
    benchmark::ClobberMemory();
    shared.lock.unlock();
  }
  shared.lock.unlock();
}

void CreateLive(benchmark::State& state) {
  const auto locks = static_cast<size_t>(state.range(0));
  for (auto _ : state) {
    std::vector<mp::Lock> live;
    live.reserve(locks);
    const int64_t begin = mp::MonotonicNanos();
    for (size_t i = 0; i < locks; ++i) live.emplace_back();
    const int64_t end = mp::MonotonicNanos();
    state.SetIterationTime(static_cast<double>(end - begin) * 1e-9 /
                           static_cast<double>(locks));
  }
}

void PairLive(benchmark::State& state) {
  std::vector<mp::Lock> live(static_cast<size_t>(state.range(0)));
  mp::Lock& lock = live[live.size() / 2];
  for (auto _ : state) {
    lock.lock();
    benchmark::ClobberMemory();
    lock.unlock();
  }
}

struct alignas(64) PaddedFloor : Floor {};

template <class T>
void PairEach(benchmark::State& state) {
  std::vector<T> live(static_cast<size_t>(state.range(0)));
  size_t i = 0;
  for (auto _ : state) {
    live[i].lock();
    benchmark::ClobberMemory();
    live[i].unlock();
    if (++i == live.size()) i = 0;
  }
}

struct alignas(64) Protected {
  int64_t value = 0;
};

template <class T>
void LockContended(benchmark::State& state) {
  const auto processes = static_cast<int>(state.range(0));
  // Long enough for every process to be scheduled several times.
  constexpr int64_t kNanos = 200'000'000;
  Shared<T> shared;
  auto* const data = InSharedMemory<Protected>();
  auto* const counts = InSharedMemory<std::array<int64_t, 64>>();
  mp::testing::Gang gang(processes, [&](int member, int64_t) {
    const int64_t end = mp::MonotonicNanos() + kNanos;
    int64_t count = 0;
    do {
      for (int i = 0; i < 100; ++i) {
        shared.lock.lock();
        data->value = data->value + 1;
        shared.lock.unlock();
      }
      count += 100;
    } while (mp::MonotonicNanos() < end);
    (*counts)[static_cast<size_t>(member)] = count;
  });
  double min_share = 1;
  int64_t total = 0;
  for (auto _ : state) {
    gang.Run(0);
    int64_t sum = 0;
    int64_t least = INT64_MAX;
    for (int member = 0; member < processes; ++member) {
      sum += (*counts)[static_cast<size_t>(member)];
      least = std::min(least, (*counts)[static_cast<size_t>(member)]);
    }
    total += sum;
    min_share = std::min(min_share, static_cast<double>(least * processes) /
                                        static_cast<double>(sum));
    state.SetIterationTime(static_cast<double>(kNanos) * 1e-9 /
                           static_cast<double>(sum));
  }
  MP_CHECK(data->value == total) << "lost updates";
  state.counters["min_share"] = min_share;
  munmap(data, sizeof(*data));
  munmap(counts, sizeof(*counts));
}

template <class T>
void Register(const std::string& implementation) {
  benchmark::RegisterBenchmark(("lock_pair/" + implementation).c_str(),
                               LockPair<T>);
  if constexpr (!std::is_same_v<T, Floor>) {
    benchmark::RegisterBenchmark(("lock_contended/" + implementation).c_str(),
                                 LockContended<T>)
        ->ArgName("procs")
        ->Arg(2)
        ->Arg(4)
        ->Arg(8)
        ->UseManualTime()
        ->Iterations(1);
  }
}

BENCHMARK(CreateLive)
    ->Name("lock_create_live/mp")
    ->ArgName("locks")
    ->Arg(1'000)
    ->Arg(1'000'000)
    ->UseManualTime()
    ->Iterations(1);
// So many iterations that the locks need not be made again and again to find
// out how many would do.
constexpr int64_t kPairs = 2'000'000;
BENCHMARK(PairLive)
    ->Name("lock_pair_live/mp")
    ->ArgName("locks")
    ->Arg(1)
    ->Arg(1'000'000)
    ->Iterations(kPairs);
BENCHMARK_TEMPLATE(PairEach, mp::Lock)
    ->Name("lock_pair_each/mp")
    ->ArgName("locks")
    ->Arg(1'000'000)
    ->Iterations(kPairs);
BENCHMARK_TEMPLATE(PairEach, PaddedFloor)
    ->Name("lock_pair_each/floor")
    ->ArgName("locks")
    ->Arg(1'000'000)
    ->Iterations(kPairs);

BENCHMARK_TEMPLATE(LockPair, mp::RLock)->Name("rlock_pair/mp");
BENCHMARK_TEMPLATE(LockPair, PthreadRecursive)->Name("rlock_pair/pthread");
BENCHMARK_TEMPLATE(LockPair, Floor)->Name("rlock_pair/floor");
BENCHMARK_TEMPLATE(NestedPair, mp::RLock)->Name("rlock_pair_nested/mp");
BENCHMARK_TEMPLATE(NestedPair, PthreadRecursive)
    ->Name("rlock_pair_nested/pthread");
BENCHMARK_TEMPLATE(LockPair, Floor)->Name("rlock_pair_nested/floor");

BENCHMARK_TEMPLATE(LockPair, Permit)->Name("semaphore_pair/mp");
BENCHMARK_TEMPLATE(LockPair, SemaphoreFloor)->Name("semaphore_pair/floor");
BENCHMARK_TEMPLATE(LockPair, SemT)->Name("semaphore_pair/sem_t");
#ifdef MP_HAVE_BOOST
BENCHMARK_TEMPLATE(LockPair, BoostSemaphore)->Name("semaphore_pair/boost");
#endif
BENCHMARK_TEMPLATE(LockPair, mp::Semaphore)->Name("semaphore_account_pair/mp");

}  // namespace

int main(int argc, char** argv) {
  Register<mp::Lock>("mp");
  Register<Floor>("floor");
  Register<Pthread>("pthread");
  Register<PthreadRobust>("pthread_robust");
  Register<SemT>("sem_t");
#ifdef MP_HAVE_BOOST
  Register<boost::interprocess::interprocess_mutex>("boost");
#endif
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
