#include "mp/base/deadline.h"

#include <algorithm>

#include "absl/base/optimization.h"

namespace mp {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr int64_t kNanosPerMilli = 1'000'000;

constinit thread_local const int64_t* clock_for_test = nullptr;

}  // namespace

void SetThreadClockForTest(const int64_t* clock) { clock_for_test = clock; }

int64_t MonotonicNanos() {
  if (ABSL_PREDICT_FALSE(clock_for_test != nullptr)) return *clock_for_test;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);  // cannot fail with this clock
  return now.tv_sec * kNanosPerSecond + now.tv_nsec;
}

Deadline Deadline::AfterFinite(absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration()) return Now();
  // Rounds up, so that a wait is never shorter than was asked for.
  const int64_t nanos =
      absl::ToInt64Nanoseconds(absl::Ceil(timeout, absl::Nanoseconds(1)));
  const int64_t now = MonotonicNanos();
  if (nanos >= kInfinite - now) return Infinite();
  return Deadline(now + nanos);
}

bool Deadline::Expired() const {
  if (nanos_ == kInfinite) return false;
  if (nanos_ == kNow) return true;
  return MonotonicNanos() >= nanos_;
}

absl::Duration Deadline::Remaining() const {
  if (infinite()) return absl::InfiniteDuration();
  return absl::Nanoseconds(std::max<int64_t>(0, nanos_ - MonotonicNanos()));
}

Deadline Deadline::Sooner(int64_t nanos_from_now) const {
  return Deadline(std::min(nanos_, MonotonicNanos() + nanos_from_now));
}

timespec Deadline::ToTimespec() const {
  return timespec{.tv_sec = static_cast<time_t>(nanos_ / kNanosPerSecond),
                  .tv_nsec = static_cast<long>(nanos_ % kNanosPerSecond)};
}

int Deadline::ToPollMillis() const {
  if (infinite()) return -1;
  const int64_t left = std::max<int64_t>(0, nanos_ - MonotonicNanos());
  const int64_t millis = (left + kNanosPerMilli - 1) / kNanosPerMilli;
  return static_cast<int>(
      std::min<int64_t>(millis, std::numeric_limits<int>::max()));
}

}  // namespace mp
