// pool_apply: submit one task and wait for its result, two workers.
// pool_apply_async: tasks submitted in a row, then their results collected.
//   Time of one task.
// pool_map_item: one item of a Map with the default chunk size.
// pool_starmap_item: the same for items of two numbers.
// pool_imap, pool_imap_unordered: one item of an endless stream, each a task.
// pool_create_destroy/2: make a pool of two, have it run one task, destroy it.
//   Its floor is two raw forks, each waited for.

#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/pool/pool.h"

namespace {

int Increment(int n) { return n + 1; }
int Add(int a, int b) { return a + b; }

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

// 0, 1... (std::views::iota is no range for Clang 14.)
struct Integers {
  struct Iterator {
    using iterator_concept = std::input_iterator_tag;
    using value_type = int;
    using difference_type = std::ptrdiff_t;
    int operator*() const { return n; }
    Iterator& operator++() {
      ++n;
      return *this;
    }
    void operator++(int) { ++n; }
    friend bool operator==(const Iterator&, std::unreachable_sentinel_t) {
      return false;
    }
    int n = 0;
  };
  Iterator begin() const { return {}; }
  std::unreachable_sentinel_t end() const { return {}; }
};

void Imap(benchmark::State& state, bool ordered) {
  mp::Pool pool({.processes = 2});
  auto results = ordered ? pool.Imap(Increment, Integers())
                         : pool.ImapUnordered(Increment, Integers());
  int64_t sum = 0;
  for (auto _ : state) sum += *results.Next();
  MP_CHECK(!ordered ||
           sum == state.iterations() * (state.iterations() + 1) / 2);
}
BENCHMARK_CAPTURE(Imap, ordered, true)
    ->Name("pool_imap/chunk_1/mp")
    ->UseRealTime();
BENCHMARK_CAPTURE(Imap, unordered, false)
    ->Name("pool_imap_unordered/chunk_1/mp")
    ->UseRealTime();

void StarmapItem(benchmark::State& state) {
  mp::Pool pool({.processes = 2});
  const std::vector<std::pair<int, int>> items(1'000'000, {40, 2});
  while (state.KeepRunningBatch(static_cast<int64_t>(items.size()))) {
    const auto results = pool.Starmap(Add, items);
    MP_CHECK(results.ok() && results->size() == items.size() &&
             results->back() == 42);
  }
}
BENCHMARK(StarmapItem)->Name("pool_starmap_item/mp")->UseRealTime();

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
