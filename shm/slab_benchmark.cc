// make_shared/*: one small object made and dropped. The floor is the same with
// std::make_shared, in memory that is not shared.
// make_shared_live/mp/objects:N: N objects, all alive; time of one. The cost
// must not grow with N, and the descriptors and mappings, which are counted,
// must not come near the limits of the system.

#include <dirent.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/slab.h"

namespace {

struct State {
  std::atomic<uint64_t> word{0};
};

std::shared_ptr<State> Make() {
  absl::StatusOr<std::shared_ptr<State>> state = mp::MakeShared<State>();
  MP_CHECK_OK(state.status());
  return *std::move(state);
}

void MakeShared(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(Make());
}
BENCHMARK(MakeShared)->Name("make_shared/mp");

void Floor(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(std::make_shared<State>());
}
BENCHMARK(Floor)->Name("make_shared/floor");

int CountMappings() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

int CountDescriptors() {
  DIR* const directory = opendir("/proc/self/fd");
  MP_PCHECK(directory != nullptr) << "opendir";
  int count = 0;
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

void MakeSharedLive(benchmark::State& state) {
  const auto objects = static_cast<size_t>(state.range(0));
  std::vector<std::shared_ptr<State>> live;
  live.reserve(objects);
  int descriptors = 0;
  int mappings = 0;
  for (auto _ : state) {
    const int64_t begin = mp::MonotonicNanos();
    for (size_t i = 0; i < objects; ++i) live.push_back(Make());
    const int64_t end = mp::MonotonicNanos();
    state.SetIterationTime(static_cast<double>(end - begin) * 1e-9 /
                           static_cast<double>(objects));
    descriptors = CountDescriptors();
    mappings = CountMappings();
    live.clear();
  }
  MP_CHECK(descriptors < 2'000 && mappings < 2'000)
      << descriptors << " descriptors, " << mappings << " mappings";
  state.counters["descriptors"] = descriptors;
  state.counters["mappings"] = mappings;
}
BENCHMARK(MakeSharedLive)
    ->Name("make_shared_live/mp")
    ->ArgName("objects")
    ->Arg(1'000)
    ->Arg(1'000'000)
    ->UseManualTime()
    ->Iterations(1);

}  // namespace
