// queue_zero_copy/<bytes>/mp: an item of that size to another process, which is
// written and read in place: both look at one element. Per item.
// queue_zero_copy_alone/<bytes>/mp: the same within one process.

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

void OneToOne(benchmark::State& state) {
  const auto bytes = static_cast<size_t>(state.range(0));
  constexpr int64_t kTimes = 20'000;
  Queue queue({.loans = 16});
  mp::testing::Gang gang(2, [&queue, bytes](int member, int64_t times) {
    for (int64_t i = 0; i < times; ++i) {
      member == 0 ? Put(queue, bytes) : Get(queue, bytes);
    }
  });
  gang.Run(1000);  // until all loans have their memory
  for (auto _ : state) {
    state.SetIterationTime(gang.Run(kTimes) / static_cast<double>(kTimes));
  }
}

void Alone(benchmark::State& state) {
  const auto bytes = static_cast<size_t>(state.range(0));
  Queue queue;
  for (auto _ : state) {
    Put(queue, bytes);
    Get(queue, bytes);
  }
}

BENCHMARK(OneToOne)
    ->Name("queue_zero_copy/4096/mp")
    ->Arg(4096)
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK(OneToOne)
    ->Name("queue_zero_copy/1048576/mp")
    ->Arg(1 << 20)
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK(Alone)->Name("queue_zero_copy_alone/4096/mp")->Arg(4096);
BENCHMARK(Alone)->Name("queue_zero_copy_alone/1048576/mp")->Arg(1 << 20);

}  // namespace
