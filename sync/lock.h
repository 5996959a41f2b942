// Lock: mutual exclusion between processes that survives their death.
//
//   mp::Lock lock;                      // before the fork
//   mp::Process worker([lock]() mutable {
//     const std::scoped_lock hold(lock);
//     ...
//   });
//
// A Lock is a handle: small, cheap to copy, and every copy means the same lock,
// in this process and in the children that inherit it or get it as an argument.
// (A std::mutex cannot be copied.) The lock itself is 64 bytes of anonymous
// shared memory that goes when the last process drops its last handle. A
// moved-from handle may only be assigned to or destroyed.
//
// Uncontended, acquire and release are one atomic operation each and no system
// call. A waiter spins for a few microseconds, as long as that has helped
// lately, then sleeps.
//
// If the holder dies: the next acquirer gets the lock within milliseconds and
// is told kOwnerDied. The lock is good as new; what it protects may be half
// changed. Whoever cannot look at the result (std::scoped_lock) sets a repair
// callback, which runs first. A waiter that dies leaves no trace.
//
// Memory ordering: what process X did before it released the lock, or before it
// died holding it, is visible to process Y after Y's acquire returned.
//
// Threads: all calls are safe from any thread. The owner is the process: if a
// thread ends without releasing, the lock stays held. Fork: a child does not
// own what its parent holds, though it may release it. Not for signal handlers.
//
// Differs from Python's: the timeout is on the monotonic clock; a dead holder
// does not hang the others; satisfies the standard TimedLockable requirements.

#ifndef MP_SYNC_LOCK_H_
#define MP_SYNC_LOCK_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/shm/handle.h"
#include "mp/sync/chrono.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/repair.h"

namespace mp {

class ABSL_LOCKABLE Lock {
 public:
  // A new, free lock. Aborts with a message if there is no memory or descriptor
  // for it; Create() reports that instead.
  Lock();
  static absl::StatusOr<Lock> Create();

  // Waits until the lock is free and takes it: kAcquired or kOwnerDied. A
  // process that already holds it waits for ever.
  AcquireResult Acquire() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    return Repaired(state_->Acquire());
  }

  // As Acquire(), but gives up after `timeout` with kTimedOut, which converts
  // to false. Zero or less tries once without waiting.
  [[nodiscard]] AcquireResult Acquire(absl::Duration timeout)
      ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    // The clock is read only if there is something to wait for.
    if (state_->TryAcquire()) return kAcquired;
    return Repaired(state_->AcquireUntil(Deadline::After(timeout)));
  }

  // Frees the lock. Any process may release it, not only the holder.
  // FailedPrecondition, and nothing done, if nobody holds it, or if another
  // process held it and died: that is for the next acquirer to know. (In Python
  // anybody frees it then, and nobody is told.)
  absl::Status Release() ABSL_UNLOCK_FUNCTION();

  // Whether anybody holds the lock. A hint by the time it is returned.
  bool Locked() const { return state_->IsHeld(); }

  // "Lock(owner=None)" or "Lock(owner=pid 4711)"; "Lock(owner=died)" if the
  // holder died so long ago that its pid is not known any more.
  std::string ToString() const;

  // `repair` runs in the acquiring process, with the lock held, whenever an
  // acquire through this handle or a later copy of it finds that the holder
  // died, before the acquire returns. If it throws or its process dies, the
  // next acquirer repairs. It must not acquire the same lock.
  void set_repair(std::function<void()> repair) {
    repair_.Set(std::move(repair));
  }

  // The standard TimedLockable requirements. unlock() of a lock that nobody
  // holds aborts.
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { Acquire(); }
  bool try_lock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    return Acquire(absl::ZeroDuration());
  }
  template <class Rep, class Period>
  bool try_lock_for(const std::chrono::duration<Rep, Period>& timeout)
      ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    return Acquire(sync_internal::FromChrono(timeout));
  }
  // A time point of another clock than the monotonic one is turned into the
  // time that is left now.
  template <class Clock, class Duration>
  bool try_lock_until(const std::chrono::time_point<Clock, Duration>& when)
      ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    return Acquire(sync_internal::TimeLeft(when));
  }
  void unlock() ABSL_UNLOCK_FUNCTION() { state_->unlock(); }

  // Whether both are handles of the same lock.
  friend bool operator==(const Lock& a, const Lock& b) {
    return a.state_ == b.state_;
  }

 private:
  friend class Condition;

  friend struct HandleAccess;
  explicit Lock(std::shared_ptr<InPlaceLock> state, StaysBehind = {});
  auto parts() const { return std::tuple(state_, repair_.stays_behind()); }

  AcquireResult Repaired(AcquireResult result) {
    if (ABSL_PREDICT_FALSE(result == kOwnerDied)) repair_.Run(*state_);
    return result;
  }

  std::shared_ptr<InPlaceLock> state_;
  sync_internal::Repair repair_;
};

}  // namespace mp

#endif  // MP_SYNC_LOCK_H_
