#include "mp/shm/park.h"

namespace mp {

ParkResult Park(const FutexWord& word, uint32_t expected, Token owner,
                Deadline deadline, ParkSlices& slices) {
  if (deadline == Deadline::Now()) return ParkResult::kTimedOut;
  Liveness::Rehome();
  uint32_t alive = 0;
  const FutexWord* const life =
      owner == kNoToken ? nullptr : Liveness::Watch(owner, &alive);
  const Deadline slice_end = deadline.Sooner(slices.nanos());
  bool woken;
  if (life == nullptr) {
    woken = FutexWait(word, expected, slice_end);
  } else {
    woken = FutexWaitEither(word, expected, *life, alive, slice_end);
    // The kernel tells one sleeper of the death; pass it on. Any change counts:
    // by now the slot may belong to another process.
    if (life->load(std::memory_order_relaxed) != alive) {
      FutexWake(*life, kWakeAll);
    }
  }
  if (woken) return ParkResult::kRetry;
  slices.Grow();
  return deadline.Expired() ? ParkResult::kTimedOut : ParkResult::kRetry;
}

}  // namespace mp
