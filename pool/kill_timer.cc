#include "mp/pool/kill_timer.h"

#include <errno.h>
#include <signal.h>

#include <algorithm>

#include "mp/base/check.h"
#include "mp/base/errno_status.h"

namespace mp::pool_internal {

KillTimer::~KillTimer() {
  if (timer_.has_value()) timer_delete(*timer_);
}

absl::Status KillTimer::Arm(int64_t nanos) {
  if (!timer_.has_value()) {
    sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGKILL;
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) {
      return ErrnoStatus(errno, "timer_create");
    }
    timer_ = timer;
  }
  // Zero would disarm it.
  const int64_t at = std::max<int64_t>(1, nanos);
  itimerspec spec = {};
  spec.it_value.tv_sec = at / 1'000'000'000;
  spec.it_value.tv_nsec = at % 1'000'000'000;
  MP_PCHECK(timer_settime(*timer_, TIMER_ABSTIME, &spec, nullptr) == 0)
      << "timer_settime";
  return absl::OkStatus();
}

void KillTimer::Disarm() {
  if (!timer_.has_value()) return;
  const itimerspec never = {};
  MP_PCHECK(timer_settime(*timer_, 0, &never, nullptr) == 0) << "timer_settime";
}

}  // namespace mp::pool_internal
