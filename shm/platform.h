// What a primitive needs from the machine: atomics, parking, liveness, time to
// spin. The primitives' algorithms are templates over such a platform, so that
// the same code that runs on the kernel's futexes can run under a scheduler
// that a test controls (the idea is folly's, where primitives are templates on
// their atomic type).

#ifndef MP_SHM_PLATFORM_H_
#define MP_SHM_PLATFORM_H_

#include <atomic>
#include <cstdint>

#include "absl/base/optimization.h"
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
  // Of the calling thread, from 1, among those of this process, also those that
  // have ended. A forked child keeps the number of the thread that forked.
  static uint32_t ThreadNumber() {
    if (ABSL_PREDICT_FALSE(thread_number_ == 0)) {
      thread_number_ = threads_.fetch_add(1, std::memory_order_relaxed) + 1;
    }
    return thread_number_;
  }
  static ParkResult Park(const FutexWord& word, uint32_t expected, Token owner,
                         Deadline deadline, ParkSlices& slices) {
    return mp::Park(word, expected, owner, deadline, slices);
  }
  static int Unpark(const FutexWord& word, int count) {
    return mp::Unpark(word, count);
  }
  static void Relax() { CpuRelax(); }
  // Whether another processor may change a word while this one spins.
  static bool MaySpin() { return AvailableProcessors() > 1; }

 private:
  static inline std::atomic<uint32_t> threads_{0};
  static inline constinit thread_local uint32_t thread_number_ = 0;
};

}  // namespace mp

#endif  // MP_SHM_PLATFORM_H_
