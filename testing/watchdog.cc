#include "mp/testing/watchdog.h"

#include <algorithm>

#include "mp/base/deadline.h"

namespace mp::testing {
namespace {

using testing_internal::Alarm;
using testing_internal::SetAlarm;
using testing_internal::TestTimeoutNanos;

Alarm Arm(const std::string& what, absl::Duration limit) {
  // A year is for ever, and can be added to the clock.
  const int64_t end = MonotonicNanos() + absl::ToInt64Nanoseconds(std::min(
                                             limit, absl::Hours(24 * 365)));
  const Alarm previous = SetAlarm({.at_nanos = end, .what = what});
  if (previous.at_nanos < end) {
    SetAlarm({.at_nanos = previous.at_nanos, .what = what});
  }
  return previous;
}

absl::Duration DefaultLimit() {
  if (TestTimeoutNanos() == INT64_MAX) return Watchdog::kDefaultLimit;
  return absl::Nanoseconds(TestTimeoutNanos() - MonotonicNanos());
}

}  // namespace

Watchdog::Watchdog(const std::string& what) : Watchdog(what, DefaultLimit()) {}

Watchdog::Watchdog(const std::string& what, absl::Duration limit)
    : previous_(Arm(what, limit)) {}

Watchdog::~Watchdog() { SetAlarm(previous_); }

}  // namespace mp::testing
