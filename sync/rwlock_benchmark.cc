// rwlock_read_pair/*: one acquire and release by a reader, nobody else there.
// rwlock_write_pair/*: by a writer. The floor of both is one compare-and-swap
// and one exchange.
// rwlock_contended/*/procs:N/write_percent:P: N processes at once, each
// reading, or every so often writing, four words under the lock; time of one
// acquire and release of the whole gang.

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/sync/rwlock.h"
#include "mp/testing/gang.h"
#include "mp/testing/shared_page.h"

// A peer only where it is installed.
#if __has_include(<boost/interprocess/sync/interprocess_sharable_mutex.hpp>)
#include <boost/interprocess/sync/interprocess_sharable_mutex.hpp>
#define MP_HAVE_BOOST 1
#endif

namespace {

using ::mp::testing::SharedPage;

class Floor {
 public:
  void lock() {
    uint32_t free = 0;
    word_.compare_exchange_strong(free, 1, std::memory_order_acquire,
                                  std::memory_order_relaxed);
  }
  void unlock() { word_.exchange(0, std::memory_order_release); }
  void lock_shared() { lock(); }
  void unlock_shared() { unlock(); }

 private:
  std::atomic<uint32_t> word_{0};
};

class Pthread {
 public:
  Pthread() {
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_rwlock_init(&lock_, &attributes);
    pthread_rwlockattr_destroy(&attributes);
  }
  void lock() { pthread_rwlock_wrlock(&lock_); }
  void unlock() { pthread_rwlock_unlock(&lock_); }
  void lock_shared() { pthread_rwlock_rdlock(&lock_); }
  void unlock_shared() { pthread_rwlock_unlock(&lock_); }

 private:
  pthread_rwlock_t lock_;
};

#ifdef MP_HAVE_BOOST
class Boost {
 public:
  void lock() { lock_.lock(); }
  void unlock() { lock_.unlock(); }
  void lock_shared() { lock_.lock_sharable(); }
  void unlock_shared() { lock_.unlock_sharable(); }

 private:
  boost::interprocess::interprocess_sharable_mutex lock_;
};
#endif

// Peers live on a shared page of their own; mp's handle is shared already.
template <class T>
struct Shared {
  SharedPage<T> page;
  T& lock = *page;
};
template <>
struct Shared<mp::RWLock> {
  mp::RWLock lock;
};

template <class T>
void ReadPair(benchmark::State& state) {
  Shared<T> shared;
  for (auto _ : state) {
    shared.lock.lock_shared();
    benchmark::ClobberMemory();
    shared.lock.unlock_shared();
  }
}

template <class T>
void WritePair(benchmark::State& state) {
  Shared<T> shared;
  for (auto _ : state) {
    shared.lock.lock();
    benchmark::ClobberMemory();
    shared.lock.unlock();
  }
}

struct alignas(64) Protected {
  std::array<int64_t, 4> words{};
};

template <class T>
void Contended(benchmark::State& state) {
  const auto processes = static_cast<int>(state.range(0));
  const auto write_percent = state.range(1);
  constexpr int64_t kNanos = 200'000'000;
  Shared<T> shared;
  SharedPage<Protected> data;
  SharedPage<std::array<int64_t, 64>> counts;
  mp::testing::Gang gang(processes, [&](int member, int64_t) {
    const int64_t end = mp::MonotonicNanos() + kNanos;
    int64_t count = 0;
    do {
      for (int i = 0; i < 100; ++i) {
        if (i < write_percent) {
          shared.lock.lock();
          for (int64_t& word : data->words) ++word;
          shared.lock.unlock();
        } else {
          shared.lock.lock_shared();
          for (const int64_t word : data->words) {
            MP_CHECK(word == data->words[0]) << "a torn read";
          }
          shared.lock.unlock_shared();
        }
      }
      count += 100;
    } while (mp::MonotonicNanos() < end);
    (*counts)[static_cast<size_t>(member)] = count;
  });
  for (auto _ : state) {
    gang.Run(0);
    int64_t sum = 0;
    for (int member = 0; member < processes; ++member) {
      sum += (*counts)[static_cast<size_t>(member)];
    }
    state.SetIterationTime(static_cast<double>(kNanos) * 1e-9 /
                           static_cast<double>(sum));
  }
}

template <class T>
void Register(const std::string& implementation) {
  const auto name = [&](const char* operation) {
    return std::string(operation) + "/" + implementation;
  };
  benchmark::RegisterBenchmark(name("rwlock_read_pair").c_str(), ReadPair<T>);
  benchmark::RegisterBenchmark(name("rwlock_write_pair").c_str(), WritePair<T>);
}

template <class T>
void RegisterContended(const std::string& implementation) {
  benchmark::RegisterBenchmark(("rwlock_contended/" + implementation).c_str(),
                               Contended<T>)
      ->ArgNames({"procs", "write_percent"})
      ->ArgsProduct({{2, 4}, {0, 5}})
      ->UseManualTime()
      ->Iterations(1);
}

}  // namespace

int main(int argc, char** argv) {
  Register<mp::RWLock>("mp");
  Register<Floor>("floor");
  Register<Pthread>("pthread");
  RegisterContended<mp::RWLock>("mp");
  RegisterContended<Pthread>("pthread");
#ifdef MP_HAVE_BOOST
  Register<Boost>("boost");
  RegisterContended<Boost>("boost");
#endif
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
