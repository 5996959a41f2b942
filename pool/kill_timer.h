// Has the kernel kill this process if it is not done by some time: also if it
// spins, is stopped, or blocks all signals. Internal to workers.

#ifndef MP_POOL_KILL_TIMER_H_
#define MP_POOL_KILL_TIMER_H_

#include <time.h>

#include <cstdint>
#include <optional>

#include "absl/status/status.h"

namespace mp::pool_internal {

// For one process: a child does not inherit the timer.
class KillTimer {
 public:
  KillTimer() = default;
  KillTimer(const KillTimer&) = delete;
  KillTimer& operator=(const KillTimer&) = delete;
  ~KillTimer();

  // SIGKILL at `nanos` of CLOCK_MONOTONIC, or at once if that has passed,
  // unless Disarm() comes first. Errors: timer_create, if the kernel has no
  // timer for this process (RLIMIT_SIGPENDING).
  absl::Status Arm(int64_t nanos);
  // May be called when it is not armed.
  void Disarm();

 private:
  std::optional<timer_t> timer_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_KILL_TIMER_H_
