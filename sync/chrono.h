// std::chrono's times for the standard TimedLockable requirements. Internal to
// sync.

#ifndef MP_SYNC_CHRONO_H_
#define MP_SYNC_CHRONO_H_

#include <chrono>

#include "absl/time/time.h"

namespace mp::sync_internal {

// Rounds up. What is beyond the range of std::chrono::nanoseconds (three
// centuries), such as std::chrono::hours::max(), is for ever or at once.
template <class Rep, class Period>
absl::Duration FromChrono(const std::chrono::duration<Rep, Period>& timeout) {
  const double seconds = std::chrono::duration<double>(timeout).count();
  if (seconds <= 0) return absl::ZeroDuration();
  if (!(seconds < 9e9)) return absl::InfiniteDuration();
  return absl::FromChrono(std::chrono::ceil<std::chrono::nanoseconds>(timeout));
}

// Until `when`, by its own clock.
template <class Clock, class Duration>
absl::Duration TimeLeft(const std::chrono::time_point<Clock, Duration>& when) {
  // The subtraction would overflow for a time point long ago.
  const auto now = Clock::now();
  return when <= now ? absl::ZeroDuration() : FromChrono(when - now);
}

}  // namespace mp::sync_internal

#endif  // MP_SYNC_CHRONO_H_
