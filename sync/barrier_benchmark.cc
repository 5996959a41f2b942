// barrier_cycle/*/procs:N: one round of a barrier that N processes run through.

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <memory>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/sync/barrier.h"
#include "mp/testing/gang.h"

namespace {

class Mp {
 public:
  explicit Mp(int parties) : barrier_(parties) {}
  void Wait() { MP_CHECK_OK(barrier_.Wait().status()); }

 private:
  mp::Barrier barrier_;
};

class Pthread {
 public:
  explicit Pthread(int parties)
      : barrier_(static_cast<pthread_barrier_t*>(
            mmap(nullptr, sizeof(pthread_barrier_t), PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    MP_PCHECK(barrier_ != MAP_FAILED) << "mmap";
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(barrier_, &attributes, static_cast<unsigned>(parties));
    pthread_barrierattr_destroy(&attributes);
  }
  ~Pthread() { munmap(barrier_, sizeof(*barrier_)); }
  void Wait() { pthread_barrier_wait(barrier_); }

 private:
  pthread_barrier_t* barrier_;
};

template <class T>
void Cycle(benchmark::State& state) {
  constexpr int64_t kRounds = 2'000;
  const auto processes = static_cast<int>(state.range(0));
  T barrier(processes);
  mp::testing::Gang gang(processes, [&](int, int64_t rounds) {
    for (int64_t i = 0; i < rounds; ++i) barrier.Wait();
  });
  for (auto _ : state) {
    state.SetIterationTime(gang.Run(kRounds) / static_cast<double>(kRounds));
  }
}

BENCHMARK_TEMPLATE(Cycle, Mp)
    ->Name("barrier_cycle/mp")
    ->ArgName("procs")
    ->Arg(2)
    ->Arg(4)
    ->UseManualTime()
    ->Iterations(5);
BENCHMARK_TEMPLATE(Cycle, Pthread)
    ->Name("barrier_cycle/pthread")
    ->ArgName("procs")
    ->Arg(2)
    ->Arg(4)
    ->UseManualTime()
    ->Iterations(5);

}  // namespace
