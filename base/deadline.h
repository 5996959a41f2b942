// A point on the monotonic clock until which a call may block.
//
// Timeouts enter the library as absl::Duration and become a Deadline once, at
// the public call, so that signals, spurious wake-ups and retries neither
// shorten nor lengthen them and changes of the wall clock do not matter.

#ifndef MP_BASE_DEADLINE_H_
#define MP_BASE_DEADLINE_H_

#include <time.h>

#include <cstdint>
#include <limits>

#include "absl/time/time.h"

namespace mp {

class Deadline {
 public:
  // Never expires.
  static constexpr Deadline Infinite() { return Deadline(kInfinite); }
  // Has expired: the call may look once but not block.
  static constexpr Deadline Now() { return Deadline(kNow); }
  // `timeout` from now. Zero or less is Now(), absl::InfiniteDuration() (and
  // anything beyond the range of the clock) is Infinite(); neither reads the
  // clock.
  static Deadline After(absl::Duration timeout) {
    return timeout == absl::InfiniteDuration() ? Infinite()
                                               : AfterFinite(timeout);
  }
  // Absolute, in nanoseconds of CLOCK_MONOTONIC.
  static constexpr Deadline AtNanos(int64_t nanos) { return Deadline(nanos); }

  bool infinite() const { return nanos_ == kInfinite; }
  // Reads the clock unless the answer is known without.
  bool Expired() const;
  // Time left: zero when expired, infinite when infinite.
  absl::Duration Remaining() const;
  // The earlier of this and `nanos` from now.
  Deadline Sooner(int64_t nanos_from_now) const;

  // For system calls with an absolute CLOCK_MONOTONIC timeout.
  // REQUIRES: !infinite().
  timespec ToTimespec() const;
  // For poll(): milliseconds left, rounded up; -1 when infinite.
  int ToPollMillis() const;

  friend bool operator==(Deadline, Deadline) = default;

 private:
  static constexpr int64_t kInfinite = std::numeric_limits<int64_t>::max();
  static constexpr int64_t kNow = 0;

  explicit constexpr Deadline(int64_t nanos) : nanos_(nanos) {}
  static Deadline AfterFinite(absl::Duration timeout);

  int64_t nanos_;
};

// CLOCK_MONOTONIC in nanoseconds.
int64_t MonotonicNanos();

// For simulations: in the calling thread, MonotonicNanos() is what `clock`
// points to, until this is called with null.
void SetThreadClockForTest(const int64_t* clock);

}  // namespace mp

#endif  // MP_BASE_DEADLINE_H_
