// Semaphore: permits that processes take and give back.
// BoundedSemaphore: never more of them than it began with.
//
//   mp::Semaphore connections(3);       // before the fork
//   mp::Process worker([connections]() mutable {
//     const std::scoped_lock permit(connections);
//     ...
//   });
//
// A Semaphore is a handle: small, cheap to copy, and every copy means the same
// semaphore, in this process and in the children that inherit it or get it as
// an argument. The semaphore itself is 128 bytes of anonymous shared memory,
// and 8 more for each permit beyond nine that it begins with; it goes when the
// last process drops its last handle. A moved-from handle may only be assigned
// to or destroyed.
//
// There are two ways to have a permit:
//
//   - lock() and unlock(), or a guard such as std::scoped_lock or
//     std::unique_lock that calls them: the permit is on the account of the
//     calling process, and comes back if the process dies. At most as many
//     processes as there were permits at first (if that is less than nine,
//     nine; never more than can live, kMaxLiveProcesses) have an account at
//     once; others wait for one.
//   - Acquire() and Release(): the permit is anonymous, any process may give it
//     back, and if a process dies in between, the permit is gone. This is for
//     permits that one process adds and another takes.
//
// unlock() gives back what lock() took, and Release() what Acquire() took: a
// Release() of a permit on an account would make two of it.
//
// Acquire and release are one atomic operation each and no system call, if
// nobody has to wait; lock and unlock three. A waiter spins for a few
// microseconds, now and then for some tens of them (mp/shm/adaptive_spin.h),
// then sleeps. Not fair: a running process may overtake sleeping ones.
//
// If a process dies: permits on its account go to whoever needs one next, as a
// rule at once, a quarter of a second later at the latest. A waiter that dies
// leaves no trace. If it was killed while it gave permits back, it has done so
// or not, and waiters that it would have woken wake up by themselves within a
// quarter of a second.
//
// Memory ordering: what process X did before it gave a permit back, or died
// with one on its account, is visible to process Y after it has taken that
// permit. Threads: all calls are safe from any thread; the account is the
// process's. Fork: a child has nothing on its account. Signal handlers may call
// value(), and Release() where it cannot fail.
//
// Differs from Python's: guards survive the death of the holder; Release(n);
// timeouts are on the monotonic clock.

#ifndef MP_SYNC_SEMAPHORE_H_
#define MP_SYNC_SEMAPHORE_H_

#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <tuple>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/shm/handle.h"
#include "mp/sync/chrono.h"
#include "mp/sync/robust_semaphore.h"

namespace mp {

class Semaphore {
 public:
  static constexpr int kMaxValue = std::numeric_limits<int>::max();

  // A new semaphore with `value` permits. Aborts with a message if that is
  // negative, or if there is no memory or descriptor; Create() reports that
  // instead (InvalidArgument, or as the system call failed).
  explicit Semaphore(int value = 1);
  static absl::StatusOr<Semaphore> Create(int value = 1);

  // ---- Anonymous permits.

  // Waits for a permit and takes it.
  void Acquire() { state_->AcquireUntil(Deadline::Infinite()); }

  // As Acquire(), but gives up after `timeout` and returns false. Zero or less
  // tries once without waiting.
  [[nodiscard]] bool Acquire(absl::Duration timeout) {
    // The clock is read only if there is something to wait for.
    return state_->TryAcquire() ||
           state_->AcquireUntil(Deadline::After(timeout));
  }

  // Gives back, or adds, so many permits. Nothing is done in case of an error:
  // InvalidArgument if `permits` is less than one, FailedPrecondition if there
  // would be more than kMaxValue, or for a BoundedSemaphore more than it began
  // with.
  absl::Status Release(int permits = 1) {
    if (ABSL_PREDICT_TRUE(permits > 0 &&
                          state_->Release(static_cast<uint32_t>(permits)))) {
      return absl::OkStatus();
    }
    return ReleaseError(permits);
  }

  // ---- Permits on the account of this process: the standard TimedLockable
  // requirements.

  // try_lock() may fail for no reason if a process that is just taking or
  // giving back a permit does not run for a millisecond.
  void lock() { state_->LockUntil(Deadline::Infinite()); }
  [[nodiscard]] bool try_lock() { return state_->LockUntil(Deadline::Now()); }
  template <class Rep, class Period>
  [[nodiscard]] bool try_lock_for(
      const std::chrono::duration<Rep, Period>& timeout) {
    return state_->LockUntil(
        Deadline::After(sync_internal::FromChrono(timeout)));
  }
  // A time point of another clock than the monotonic one is turned into the
  // time that is left now.
  template <class Clock, class Duration>
  [[nodiscard]] bool try_lock_until(
      const std::chrono::time_point<Clock, Duration>& when) {
    return state_->LockUntil(Deadline::After(sync_internal::TimeLeft(when)));
  }
  // Aborts with a message if this process has no permit on its account. If
  // there are as many as there can be, because somebody released a permit that
  // it did not have, the permit is dropped.
  void unlock();

  // How many permits there are, without those of dead processes that nobody has
  // needed yet. A hint by the time it is returned.
  int value() const { return static_cast<int>(state_->value()); }
  // Whether there is none (Python 3.14).
  bool Locked() const { return value() == 0; }

  // "Semaphore(value=3)" or "BoundedSemaphore(value=2, maxvalue=3)".
  std::string ToString() const;

  // Whether both are handles of the same semaphore.
  friend bool operator==(const Semaphore& a, const Semaphore& b) {
    return a.state_ == b.state_;
  }

 protected:
  explicit Semaphore(std::shared_ptr<RobustSemaphore> state);

  static absl::StatusOr<std::shared_ptr<RobustSemaphore>> NewState(int value,
                                                                   int max);

 private:
  friend struct HandleAccess;
  auto parts() const { return std::tuple(state_); }

  absl::Status ReleaseError(int permits) const;

  std::shared_ptr<RobustSemaphore> state_;
};

class BoundedSemaphore : public Semaphore {
 public:
  // As Semaphore. `value` is also how many permits there can be.
  explicit BoundedSemaphore(int value = 1);
  static absl::StatusOr<BoundedSemaphore> Create(int value = 1);

 private:
  using Semaphore::Semaphore;
};

}  // namespace mp

#endif  // MP_SYNC_SEMAPHORE_H_
