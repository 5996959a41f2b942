// condition_ping_pong/*: from one process to another and back: each waits under
// the lock for its turn, gives the turn away and notifies.
// condition_notify_nobody/*: a notification when nobody waits, under the lock.

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/sync/condition.h"
#include "mp/sync/lock.h"
#include "mp/testing/gang.h"

namespace {

class Mp {
 public:
  void lock() { condition_.lock(); }
  void unlock() { condition_.unlock(); }
  void Wait() { condition_.Wait(); }
  void Notify() { condition_.Notify(); }

 private:
  mp::Condition condition_{mp::Lock()};
};

class Pthread {
 public:
  Pthread() {
    pthread_mutexattr_t mutex;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&mutex_, &mutex);
    pthread_mutexattr_destroy(&mutex);
    pthread_condattr_t condition;
    pthread_condattr_init(&condition);
    pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&condition_, &condition);
    pthread_condattr_destroy(&condition);
  }
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }
  void Wait() { pthread_cond_wait(&condition_, &mutex_); }
  void Notify() { pthread_cond_signal(&condition_); }

 private:
  pthread_mutex_t mutex_;
  pthread_cond_t condition_;
};

template <class T>
struct Game {
  T condition;
  int64_t turn = 0;
};

template <class T, int64_t kTimes>
void PingPong(benchmark::State& state) {
  void* const memory = mmap(nullptr, sizeof(Game<T>), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  MP_PCHECK(memory != MAP_FAILED) << "mmap";
  auto* const game = new (memory) Game<T>;
  {
    mp::testing::Gang gang(2, [game](int member, int64_t operations) {
      for (int64_t i = 0; i < operations; ++i) {
        game->condition.lock();
        while (game->turn % 2 != member) game->condition.Wait();
        ++game->turn;
        game->condition.Notify();
        game->condition.unlock();
      }
    });
    for (auto _ : state) {
      state.SetIterationTime(gang.Run(kTimes) / static_cast<double>(kTimes));
    }
  }
  game->~Game<T>();
  munmap(memory, sizeof(Game<T>));
}

template <class T>
void NotifyNobody(benchmark::State& state) {
  T condition;
  for (auto _ : state) {
    condition.lock();
    condition.Notify();
    condition.unlock();
  }
}

BENCHMARK_TEMPLATE(PingPong, Mp, 2'000)
    ->Name("condition_ping_pong/mp")
    ->UseManualTime()
    ->Iterations(10);
BENCHMARK_TEMPLATE(PingPong, Pthread, 2'000)
    ->Name("condition_ping_pong/pthread")
    ->UseManualTime()
    ->Iterations(10);
BENCHMARK_TEMPLATE(NotifyNobody, Mp)->Name("condition_notify_nobody/mp");
BENCHMARK_TEMPLATE(NotifyNobody, Pthread)
    ->Name("condition_notify_nobody/pthread");

}  // namespace
