// queue_zero_copy/<size>/mp: an item of that size to another process, which is
// written and read in place: both look at one element. Per item.
// queue_zero_copy_alone/<size>/mp: the same within one process.

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/ipc/zero_copy_queue.h"
#include "mp/testing/gang.h"

namespace {

using Queue = mp::ZeroCopyQueue<char>;

void Put(Queue& queue, size_t bytes) {
  absl::StatusOr<mp::Reservation<char>> place = queue.Reserve(bytes);
  MP_CHECK_OK(place.status());
  place->data()[0] = 'x';
  MP_CHECK_OK(place->Commit());
}

void Get(Queue& queue, size_t bytes) {
  const absl::StatusOr<mp::Borrowed<char>> item = queue.Borrow();
  MP_CHECK_OK(item.status());
  MP_CHECK(item->size() == bytes && item->data()[0] == 'x');
}

template <size_t kBytes>
void OneToOne(benchmark::State& state) {
  constexpr int64_t kTimes = 20'000;
  Queue queue({.loans = 16});
  mp::testing::Gang gang(2, [&queue](int member, int64_t times) {
    for (int64_t i = 0; i < times; ++i) {
      member == 0 ? Put(queue, kBytes) : Get(queue, kBytes);
    }
  });
  gang.Run(1000);  // until all loans have their memory
  for (auto _ : state) {
    state.SetIterationTime(gang.Run(kTimes) / static_cast<double>(kTimes));
  }
}

template <size_t kBytes>
void Alone(benchmark::State& state) {
  Queue queue;
  for (auto _ : state) {
    Put(queue, kBytes);
    Get(queue, kBytes);
  }
}

constexpr size_t k4KiB = size_t{4} << 10;
constexpr size_t k1MiB = size_t{1} << 20;

BENCHMARK_TEMPLATE(OneToOne, k4KiB)
    ->Name("queue_zero_copy/4KiB/mp")
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK_TEMPLATE(OneToOne, k1MiB)
    ->Name("queue_zero_copy/1MiB/mp")
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK_TEMPLATE(Alone, k4KiB)->Name("queue_zero_copy_alone/4KiB/mp");
BENCHMARK_TEMPLATE(Alone, k1MiB)->Name("queue_zero_copy_alone/1MiB/mp");

}  // namespace
