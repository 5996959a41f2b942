// pool_apply: submit one task and wait for its result, two workers.
// pool_apply_async: tasks submitted in a row, then their results collected.
//   Time of one task.
// pool_map_item: one item of a Map with the default chunk size.
// pool_create_destroy/2: make a pool of two, have it run one task, destroy it.
//   Its floor is two raw forks, each waited for.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/pool/pool.h"

namespace {

int Increment(int n) { return n + 1; }

void Apply(benchmark::State& state) {
  mp::Pool pool({.processes = 2});
  int n = 0;
  for (auto _ : state) n = *pool.Apply(Increment, n);
  MP_CHECK(n == state.iterations()) << n;
}
BENCHMARK(Apply)->Name("pool_apply/mp")->UseRealTime();

void ApplyAsync(benchmark::State& state) {
  mp::Pool pool({.processes = 2});
  std::vector<mp::AsyncResult<int>> results;
  // In rows of ten thousand, so that memory does not grow with the run.
  constexpr int64_t kRow = 10'000;
  while (state.KeepRunningBatch(kRow)) {
    for (int n = 0; n < kRow; ++n) {
      results.push_back(pool.ApplyAsync(Increment, n));
    }
    for (int n = 0; n < kRow; ++n) {
      MP_CHECK(*results[static_cast<size_t>(n)].Get() == n + 1);
    }
    results.clear();
  }
}
BENCHMARK(ApplyAsync)->Name("pool_apply_async/mp")->UseRealTime();

void MapItem(benchmark::State& state) {
  mp::Pool pool({.processes = 2});
  const std::vector<int> items(1'000'000, 41);
  while (state.KeepRunningBatch(static_cast<int64_t>(items.size()))) {
    const auto results = pool.Map(Increment, items);
    MP_CHECK(results.ok() && results->size() == items.size() &&
             results->back() == 42);
  }
}
BENCHMARK(MapItem)->Name("pool_map_item/mp")->UseRealTime();

void CreateDestroy(benchmark::State& state) {
  for (auto _ : state) {
    mp::Pool pool({.processes = 2});
    MP_CHECK(*pool.Apply(Increment, 1) == 2);
  }
}
BENCHMARK(CreateDestroy)->Name("pool_create_destroy/2/mp")->UseRealTime();

void CreateDestroyFloor(benchmark::State& state) {
  for (auto _ : state) {
    for (int i = 0; i < 2; ++i) {
      const pid_t pid = fork();
      if (pid == 0) _exit(0);
      MP_PCHECK(pid > 0) << "fork";
      MP_PCHECK(waitpid(pid, nullptr, 0) == pid) << "waitpid";
    }
  }
}
BENCHMARK(CreateDestroyFloor)
    ->Name("pool_create_destroy/2/floor")
    ->UseRealTime();

}  // namespace
