// Park: the one way to sleep on shared memory.
//
// Every primitive that has to wait ends up here. A plain futex wait strands its
// caller in two cases, both caused by somebody else's death: the owner of what
// is waited for dies without releasing it; or the only wake-up is given to
// another sleeper that is killed before it acts on it. Park therefore
//
//   - ends when an owner dies: the kernel wakes it (mp/shm/liveness.h);
//   - sleeps in slices that start at 10 ms and grow to 250 ms, after each of
//     which the caller looks at the state again. A consumed wake-up costs that
//     much time, and nothing else. An idle sleeper costs four wake-ups a
//     second; one, if somebody else sees to it that none is lost.
//
// The caller's loop:
//
//   ParkSlices slices;
//   for (;;) {
//     uint32_t seen = word.load(...);
//     if (<can proceed>) ...
//     <make wakers see that somebody sleeps, e.g. set a bit in the word>
//     if (Park(word, seen, owner, deadline, slices) == ParkResult::kTimedOut)
//       <look a last time, then give up>
//   }

#ifndef MP_SHM_PARK_H_
#define MP_SHM_PARK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/shm/liveness.h"

namespace mp {

// The processes whose death ends a sleep.
class WatchList {
 public:
  // As many as the kernel can watch beside the word that is slept on.
  static constexpr size_t kMax = kMaxFutexes - 1;

  WatchList() = default;
  WatchList(Token one) { Add(one); }  // NOLINT: one is the usual case

  // Ignores kNoToken and what is beyond kMax: a death among those is noticed at
  // the end of a slice.
  void Add(Token token) {
    if (token != kNoToken && size_ < kMax) tokens_[size_++] = token;
  }
  std::span<const Token> tokens() const { return {tokens_, size_}; }

  // That the state is about to change and nobody will tell: a dead process is
  // certified dead a little before the kernel closes its descriptors, for one.
  // Sleeps begin with a millisecond then.
  void ExpectChange() { expects_change_ = true; }
  bool expects_change() const { return expects_change_; }

  // That somebody wakes all who sleep there when one of them dies, so that no
  // wake-up is lost with it. Sleeps grow to a second then.
  void ExpectHelp() { expects_help_ = true; }
  bool expects_help() const { return expects_help_; }

 private:
  bool expects_change_ = false;
  bool expects_help_ = false;
  size_t size_ = 0;
  Token tokens_[kMax];  // the first size_ are initialised
};

enum class ParkResult { kRetry, kTimedOut };

// How long the next sleep may last.
class ParkSlices {
 public:
  int64_t nanos() const { return nanos_; }
  void Grow(bool expects_help = false) {
    const int64_t longest = expects_help ? kLongestWithHelp : kLongest;
    nanos_ = nanos_ * 2 < longest ? nanos_ * 2 : longest;
  }

  // The same for who expects a change. Without one for those that take longer
  // than it would sleep anyway.
  bool has_brief() const { return brief_nanos_ < nanos_; }
  int64_t brief_nanos() const { return brief_nanos_; }
  void GrowBrief() { brief_nanos_ *= 2; }

  // For a test that steps through the sleep, which takes longer than a slice;
  // 0 restores what it was.
  static void SetFirstForTest(int64_t nanos) {
    first_.store(nanos > 0 ? nanos : kFirst, std::memory_order_relaxed);
  }

 private:
  static constexpr int64_t kFirstBrief = 1'000'000;
  static constexpr int64_t kFirst = 10'000'000;
  static constexpr int64_t kLongest = 250'000'000;
  static constexpr int64_t kLongestWithHelp = 1'000'000'000;
  static inline std::atomic<int64_t> first_{kFirst};

  int64_t nanos_ = first_.load(std::memory_order_relaxed);
  int64_t brief_nanos_ = kFirstBrief;
};

// Sleeps while `word` holds `expected` and those who are `watched` live, no
// longer than until `deadline`. kTimedOut only if the deadline has passed;
// kRetry promises nothing: look again.
//
// Orders nothing by itself beyond the kernel's full barrier before it compares
// the word; the caller's next load of the state must be an acquire.
ParkResult Park(const FutexWord& word, uint32_t expected,
                const WatchList& watched, Deadline deadline,
                ParkSlices& slices);

// Wakes up to `count` sleepers of `word`; returns how many. The new state must
// have been stored before.
inline int Unpark(const FutexWord& word, int count) {
  return FutexWake(word, count);
}

}  // namespace mp

#endif  // MP_SHM_PARK_H_
