// How long a worker has been ready, and how much of that it has waited for
// tasks. Internal to the executors.
//
// Written by the worker alone, read by anybody at any time, in shared memory or
// not. All-zero bytes are the meter of a worker that is not ready.
//
// Relaxed: a reader that sees some of what a worker has written, and not the
// rest, is wrong by the wait that ends at that moment. It may count that twice
// at most, so it takes no wait for longer than the worker's life.

#ifndef MP_POOL_WORKER_METER_H_
#define MP_POOL_WORKER_METER_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "mp/base/deadline.h"

namespace mp::pool_internal {

class WorkerMeter {
 public:
  // Before a worker is started.
  void Clear() {
    ready_since_.store(0, std::memory_order_relaxed);
    waits_since_.store(0, std::memory_order_relaxed);
    waited_nanos_.store(0, std::memory_order_relaxed);
  }
  void Ready() {
    ready_since_.store(MonotonicNanos(), std::memory_order_relaxed);
  }
  void BeginWait() {
    waits_since_.store(MonotonicNanos(), std::memory_order_relaxed);
  }
  void EndWait() {
    const int64_t waited =
        MonotonicNanos() - waits_since_.load(std::memory_order_relaxed);
    waits_since_.store(0, std::memory_order_relaxed);
    waited_nanos_.store(waited_nanos_.load(std::memory_order_relaxed) + waited,
                        std::memory_order_relaxed);
  }

  // CLOCK_MONOTONIC; 0 if it is not waiting.
  int64_t waits_since_nanos() const {
    return waits_since_.load(std::memory_order_relaxed);
  }
  absl::Duration Alive() const {
    const int64_t since = ready_since_.load(std::memory_order_relaxed);
    return since == 0 ? absl::ZeroDuration()
                      : absl::Nanoseconds(MonotonicNanos() - since);
  }
  // Of `alive`, which Alive() has returned.
  absl::Duration Idle(absl::Duration alive) const {
    absl::Duration idle =
        absl::Nanoseconds(waited_nanos_.load(std::memory_order_relaxed));
    if (const int64_t since = waits_since_nanos(); since != 0) {
      idle += absl::Nanoseconds(MonotonicNanos() - since);
    }
    return std::clamp(idle, absl::ZeroDuration(), alive);
  }

 private:
  std::atomic<int64_t> ready_since_{0};
  std::atomic<int64_t> waits_since_{0};
  std::atomic<int64_t> waited_nanos_{0};
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_WORKER_METER_H_
