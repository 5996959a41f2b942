// Condition: processes wait, under a lock, until others tell them to look.
//
//   mp::Condition condition;            // before the fork
//   // waiting:                         // telling:
//   std::unique_lock hold(condition);   const std::scoped_lock hold(condition);
//   condition.WaitFor([&] {             <change what they wait for>
//     return <what one waits for>;      condition.Notify();
//   });
//
// A Condition is a handle: small, cheap to copy, and every copy means the same
// condition, with the same lock, in this process and in the children that
// inherit it or get it as an argument. The condition itself is 1 KiB of
// anonymous shared memory that goes when the last process drops its last
// handle. A moved-from handle may only be assigned to or destroyed.
//
// A notification goes to who has waited longest, to nobody who came later, and
// is not remembered. Who waits spins for a few microseconds, now and then for
// some tens of them (mp/shm/adaptive_spin.h), then sleeps. 84 can wait in
// order; one more returns after a hundredth of a second as if notified, so
// where there are that many, look again, as WaitFor() does.
//
// If a process dies: notifications never go to dead waiters, and one that a
// process was killed with goes to another one, a quarter of a second later at
// the latest. If the holder of the lock dies, perhaps after a change that it
// has not told, all waiters go on and look, those of other conditions of the
// same lock, too: as a rule at once, a quarter of a second later at the latest.
//
// Memory ordering is the lock's. Threads: all calls are safe from any thread.
// Fork: a child of a waiter does not wait. Not for signal handlers.
//
// Differs from Python's: a killed waiter neither blocks who notifies nor
// swallows a notification; Notify() does not wait for the woken; waiters go in
// the order they came.

#ifndef MP_SYNC_CONDITION_H_
#define MP_SYNC_CONDITION_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/shm/handle.h"
#include "mp/sync/chrono.h"
#include "mp/sync/in_place_condition.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/lock.h"
#include "mp/sync/rlock.h"

namespace mp {

class Condition {
 public:
  // A new condition with an RLock of its own, or with a lock that other
  // conditions may have, too. Aborts with a message if there is no memory or
  // descriptor for it; Create() reports that instead.
  Condition();
  explicit Condition(Lock lock);
  explicit Condition(RLock lock);
  static absl::StatusOr<Condition> Create();
  static absl::StatusOr<Condition> Create(Lock lock);
  static absl::StatusOr<Condition> Create(RLock lock);

  // ---- The lock.

  // As the lock's. Also notifies all who wait if the last holder died.
  AcquireResult Acquire();
  [[nodiscard]] AcquireResult Acquire(absl::Duration timeout);
  absl::Status Release();

  // The standard TimedLockable requirements.
  void lock() { Acquire(); }
  [[nodiscard]] bool try_lock() { return Acquire(absl::ZeroDuration()); }
  template <class Rep, class Period>
  [[nodiscard]] bool try_lock_for(
      const std::chrono::duration<Rep, Period>& timeout) {
    return Acquire(sync_internal::FromChrono(timeout));
  }
  template <class Clock, class Duration>
  [[nodiscard]] bool try_lock_until(
      const std::chrono::time_point<Clock, Duration>& when) {
    return Acquire(sync_internal::TimeLeft(when));
  }
  void unlock();

  // ---- With the lock held; otherwise these abort with a message. (A Lock is
  // held by a process, so they cannot tell its threads apart.)

  // Releases the lock, an RLock however often it is held, waits to be notified,
  // and acquires the lock again, which `timeout` does not limit:
  //
  //   kAcquired   was notified, or is to look because a holder died
  //   kTimedOut   was not in time; converts to false
  //   kOwnerDied  the lock's last holder died, so look: perhaps it could not
  //               notify any more. The lock's repair callback has run; here, it
  //               must not throw.
  AcquireResult Wait(absl::Duration timeout = absl::InfiniteDuration()) {
    return WaitUntil(Deadline::After(timeout));
  }

  // Waits until `predicate()`, which is called with the lock held, at once and
  // after each notification. Returns what it said last: false only after
  // `timeout`. Does not tell that a holder died: set a repair callback.
  template <class Predicate>
  bool WaitFor(Predicate predicate,
               absl::Duration timeout = absl::InfiniteDuration()) {
    const Deadline deadline = Deadline::After(timeout);
    while (!predicate()) {
      if (!WaitUntil(deadline)) return predicate();
    }
    return true;
  }

  // Notifies up to `count` who wait; returns how many. They go on when the lock
  // is free.
  int Notify(int count = 1);
  int NotifyAll();

  // "Condition(RLock(owner=None), 2)": the lock, and how many wait. A hint.
  std::string ToString() const;

  // As Lock::set_repair(), for this handle of the lock and later copies.
  void set_repair(std::function<void()> repair);

  // Whether both are handles of the same condition.
  friend bool operator==(const Condition& a, const Condition& b) {
    return a.state_ == b.state_;
  }

 private:
  using AnyLock = std::variant<Lock, RLock>;

  friend struct HandleAccess;
  Condition(std::shared_ptr<InPlaceCondition> state, AnyLock lock);
  auto parts() const { return std::tuple(state_, lock_); }

  static absl::StatusOr<Condition> CreateWith(AnyLock lock);

  AcquireResult WaitUntil(Deadline deadline);
  AcquireResult Told(AcquireResult result);
  void CheckOwned(const char* call) const;

  std::shared_ptr<InPlaceCondition> state_;
  AnyLock lock_;
};

}  // namespace mp

#endif  // MP_SYNC_CONDITION_H_
