// What a primitive needs from the machine: atomics, parking, liveness, time to
// spin. The primitives' algorithms are templates over such a platform, so that
// the same code that runs on the kernel's futexes can run under a scheduler
// that a test controls (the idea is folly's, where primitives are templates on
// their atomic type).

#ifndef MP_SHM_PLATFORM_H_
#define MP_SHM_PLATFORM_H_

#include <atomic>
#include <cstdint>

#include "mp/base/spin.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"

namespace mp {

// The real machine.
struct KernelPlatform {
  template <class T>
  using Atomic = std::atomic<T>;

  static Token Self() { return Liveness::Self(); }
  static bool IsDead(Token token) { return Liveness::IsDead(token); }
  static uint64_t SelfThread() { return Liveness::SelfThread(); }
  static ParkResult Park(const FutexWord& word, uint32_t expected,
                         const WatchList& watched, Deadline deadline,
                         ParkSlices& slices) {
    return mp::Park(word, expected, watched, deadline, slices);
  }
  static int Unpark(const FutexWord& word, int count) {
    return mp::Unpark(word, count);
  }
  static void Relax() { CpuRelax(); }
  // Whether another processor may change a word while this one spins.
  static bool MaySpin() { return AvailableProcessors() > 1; }
};

}  // namespace mp

#endif  // MP_SHM_PLATFORM_H_
