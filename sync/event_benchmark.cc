// event_is_set/*: one look at an event.
// event_set_clear/*: setting and clearing an event that nobody waits for.
// event_ping_pong/*: from one process to another and back, both running.
// event_ping_pong_blocked/*: the same with both asleep in between: mp without
// spinning, and the kernel's own means.

#include <semaphore.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <new>

#include "benchmark/benchmark.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/base/spin.h"
#include "mp/shm/platform.h"
#include "mp/sync/event.h"
#include "mp/sync/in_place_event.h"
#include "mp/testing/gang.h"

namespace {

// Two of them are the two directions. Each is set by one side, and awaited and
// cleared by the other.

template <class Event>
class Mp {
 public:
  void Set() { event_.Set(); }
  void WaitAndClear() {
    event_.Wait();
    event_.Clear();
  }

 private:
  Event event_;
};

struct SleepingPlatform : mp::KernelPlatform {
  static bool MaySpin() { return false; }
};

using MpSpinning = Mp<mp::InPlaceEvent>;
using MpSleeping = Mp<mp::BasicInPlaceEvent<SleepingPlatform>>;

// The least: a word on a cache line of its own.
class SpinFloor {
 public:
  void Set() { word_.store(1, std::memory_order_release); }
  void WaitAndClear() {
    while (word_.load(std::memory_order_acquire) == 0) mp::CpuRelax();
    word_.store(0, std::memory_order_relaxed);
  }

 private:
  alignas(64) std::atomic<uint32_t> word_{0};
};

class Futex {
 public:
  void Set() {
    word_.store(1, std::memory_order_release);
    mp::FutexWake(word_, 1);
  }
  void WaitAndClear() {
    while (word_.load(std::memory_order_acquire) == 0) {
      mp::FutexWait(word_, 0, mp::Deadline::Infinite());
    }
    word_.store(0, std::memory_order_relaxed);
  }

 private:
  alignas(64) std::atomic<uint32_t> word_{0};
};

class EventFd {
 public:
  EventFd() : fd_(eventfd(0, EFD_CLOEXEC)) { MP_PCHECK(fd_ >= 0) << "eventfd"; }
  ~EventFd() { close(fd_); }
  void Set() {
    const uint64_t one = 1;
    MP_PCHECK(write(fd_, &one, sizeof(one)) == sizeof(one)) << "write";
  }
  void WaitAndClear() {
    uint64_t value;
    MP_PCHECK(read(fd_, &value, sizeof(value)) == sizeof(value)) << "read";
  }

 private:
  const int fd_;
};

class SemT {
 public:
  SemT() { sem_init(&semaphore_, /*pshared=*/1, 0); }
  void Set() { sem_post(&semaphore_); }
  void WaitAndClear() {
    while (sem_wait(&semaphore_) != 0) {
    }
  }

 private:
  sem_t semaphore_;
};

template <class T, int64_t kTimes>
void PingPong(benchmark::State& state) {
  struct Both {
    alignas(64) T there;
    alignas(64) T back;
  };
  void* const memory = mmap(nullptr, sizeof(Both), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  MP_PCHECK(memory != MAP_FAILED) << "mmap";
  auto* const both = new (memory) Both;
  {
    mp::testing::Gang gang(2, [both](int member, int64_t operations) {
      for (int64_t i = 0; i < operations; ++i) {
        if (member == 0) {
          both->there.Set();
          both->back.WaitAndClear();
        } else {
          both->there.WaitAndClear();
          both->back.Set();
        }
      }
    });
    for (auto _ : state) {
      state.SetIterationTime(gang.Run(kTimes) / static_cast<double>(kTimes));
    }
  }
  both->~Both();
  munmap(memory, sizeof(Both));
}

BENCHMARK_TEMPLATE(PingPong, MpSpinning, 20'000)
    ->Name("event_ping_pong/mp")
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK_TEMPLATE(PingPong, SpinFloor, 20'000)
    ->Name("event_ping_pong/floor")
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK_TEMPLATE(PingPong, MpSleeping, 500)
    ->Name("event_ping_pong_blocked/mp")
    ->UseManualTime()
    ->Iterations(10);
BENCHMARK_TEMPLATE(PingPong, Futex, 500)
    ->Name("event_ping_pong_blocked/futex")
    ->UseManualTime()
    ->Iterations(10);
BENCHMARK_TEMPLATE(PingPong, EventFd, 500)
    ->Name("event_ping_pong_blocked/eventfd")
    ->UseManualTime()
    ->Iterations(10);
BENCHMARK_TEMPLATE(PingPong, SemT, 500)
    ->Name("event_ping_pong_blocked/sem_t")
    ->UseManualTime()
    ->Iterations(10);

void IsSet(benchmark::State& state) {
  mp::Event event;
  for (auto _ : state) benchmark::DoNotOptimize(event.IsSet());
}
BENCHMARK(IsSet)->Name("event_is_set/mp");

void IsSetFloor(benchmark::State& state) {
  std::atomic<uint32_t> word{0};
  for (auto _ : state) {
    benchmark::DoNotOptimize(word.load(std::memory_order_acquire));
  }
}
BENCHMARK(IsSetFloor)->Name("event_is_set/floor");

void SetClear(benchmark::State& state) {
  mp::Event event;
  for (auto _ : state) {
    event.Set();
    benchmark::ClobberMemory();
    event.Clear();
  }
}
BENCHMARK(SetClear)->Name("event_set_clear/mp");

void SetClearFloor(benchmark::State& state) {
  std::atomic<uint32_t> word{0};
  for (auto _ : state) {
    word.exchange(1, std::memory_order_acq_rel);
    benchmark::ClobberMemory();
    word.exchange(0, std::memory_order_acq_rel);
  }
}
BENCHMARK(SetClearFloor)->Name("event_set_clear/floor");

}  // namespace
