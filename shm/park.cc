#include "mp/shm/park.h"

namespace mp {

ParkResult Park(const FutexWord& word, uint32_t expected,
                const WatchList& watched, Deadline deadline,
                ParkSlices& slices) {
  if (deadline == Deadline::Now()) return ParkResult::kTimedOut;
  Liveness::Rehome();
  FutexExpectation words[kMaxFutexes];
  words[0] = {&word, expected};
  size_t count = 1;
  bool expects_change = watched.expects_change();
  for (const Token token : watched.tokens()) {
    uint32_t alive = 0;
    const FutexWord* const life = Liveness::Watch(token, &alive);
    if (life != nullptr) {
      words[count++] = {life, alive};
    } else if (Liveness::IsDead(token)) {
      return ParkResult::kRetry;  // since the caller looked
    } else {
      // The kernel will not tell. The thread that held the certificate has
      // ended, most often because the process is about to.
      expects_change = true;
    }
  }
  const bool brief = expects_change && slices.has_brief();
  const bool woken = FutexWaitAny(
      {words, count},
      deadline.Sooner(brief ? slices.brief_nanos() : slices.nanos()));
  // The kernel tells one sleeper of a death; pass it on. Any change counts: by
  // now the slot may belong to another process.
  for (const FutexExpectation& life : std::span(words, count).subspan(1)) {
    if (life.word->load(std::memory_order_relaxed) != life.expected) {
      FutexWake(*life.word, kWakeAll);
    }
  }
  if (woken) return ParkResult::kRetry;
  brief ? slices.GrowBrief() : slices.Grow(watched.expects_help());
  return deadline.Expired() ? ParkResult::kTimedOut : ParkResult::kRetry;
}

}  // namespace mp
