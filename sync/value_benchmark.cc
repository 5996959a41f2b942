// value_update/*: one addition to a number under its lock, nobody else there.
// The floor is one compare-and-swap and one exchange around it.
// value_get/mp: a copy, made under the lock.
// value_atomic/*: one addition to an atomic; the floor is one in the memory of
// the process.
// array_sum/*: the sum of 1,000 numbers under their lock; the floor is that of
// 1,000 in a std::vector.

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "benchmark/benchmark.h"
#include "mp/shm/raw_value.h"
#include "mp/sync/array.h"
#include "mp/sync/lock.h"
#include "mp/sync/value.h"
#include "mp/testing/shared_page.h"

namespace {

using ::mp::testing::SharedPage;

template <class L>
void UpdateValue(benchmark::State& state) {
  mp::Value<int64_t, L> value;
  for (auto _ : state) {
    value.Update([](int64_t& number) { ++number; });
    benchmark::ClobberMemory();
  }
}
BENCHMARK(UpdateValue<mp::RLock>)->Name("value_update/mp");
BENCHMARK(UpdateValue<mp::Lock>)->Name("value_update/mp_lock");

void UpdateFloor(benchmark::State& state) {
  std::atomic<uint32_t> word(0);
  int64_t number = 0;
  for (auto _ : state) {
    uint32_t free = 0;
    word.compare_exchange_strong(free, 1, std::memory_order_acquire,
                                 std::memory_order_relaxed);
    benchmark::DoNotOptimize(++number);
    word.exchange(0, std::memory_order_release);
  }
}
BENCHMARK(UpdateFloor)->Name("value_update/floor");

struct PthreadState {
  pthread_mutex_t mutex;
  int64_t number = 0;
};

void UpdatePthread(benchmark::State& state) {
  const SharedPage<PthreadState> shared;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&shared->mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
  for (auto _ : state) {
    pthread_mutex_lock(&shared->mutex);
    ++shared->number;
    pthread_mutex_unlock(&shared->mutex);
  }
}
BENCHMARK(UpdatePthread)->Name("value_update/pthread_recursive");

void GetValue(benchmark::State& state) {
  mp::Value<int64_t> value(3);
  for (auto _ : state) benchmark::DoNotOptimize(value.Get());
}
BENCHMARK(GetValue)->Name("value_get/mp");

void AddAtomic(benchmark::State& state) {
  const mp::RawValue<std::atomic<int64_t>> number(0);
  for (auto _ : state) number->fetch_add(1, std::memory_order_relaxed);
}
BENCHMARK(AddAtomic)->Name("value_atomic/mp");

void AddAtomicFloor(benchmark::State& state) {
  std::atomic<int64_t> number(0);
  for (auto _ : state) number.fetch_add(1, std::memory_order_relaxed);
}
BENCHMARK(AddAtomicFloor)->Name("value_atomic/floor");

constexpr size_t kNumbers = 1'000;

void SumArray(benchmark::State& state) {
  mp::Array<int64_t> array(kNumbers);
  for (auto _ : state) {
    const auto access = array.Access();
    benchmark::DoNotOptimize(
        std::accumulate(access.begin(), access.end(), int64_t{0}));
  }
}
BENCHMARK(SumArray)->Name("array_sum/mp");

void SumVector(benchmark::State& state) {
  const std::vector<int64_t> numbers(kNumbers);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        std::accumulate(numbers.begin(), numbers.end(), int64_t{0}));
  }
}
BENCHMARK(SumVector)->Name("array_sum/floor");

}  // namespace
