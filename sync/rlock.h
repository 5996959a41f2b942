// RLock: a recursive lock between processes that survives their death.
//
//   mp::RLock lock;                     // before the fork
//   void Add(Node node) {
//     const std::scoped_lock hold(lock);
//     if (Full()) Compact();            // which acquires the lock, too
//     ...
//   }
//
// Its holder is one thread of one process, which may acquire it again at once
// and must release it as often. If your code does not need that, use Lock
// (mp/sync/lock.h), which is quicker and shows more mistakes.
//
// An RLock is a handle as a Lock is, costs the same memory, and behaves alike
// for waiters, time-outs, deaths and memory ordering; see there. Acquired again
// by its holder it costs no atomic operation.
//
// If the holder dies: the next acquirer gets the lock, once, and is told
// kOwnerDied, or runs the repair callback.
//
// Threads: the owner is the thread. If it ends without releasing, the lock
// stays held until its process ends. Fork: a child does not hold what its
// parent's thread holds. Not for signal handlers.
//
// Differs from Python's: releasing it in another thread or process is an error,
// not an assertion; a dead holder does not hang the others. Clang's
// thread-safety analysis knows no recursive locks, so it has no annotations.

#ifndef MP_SYNC_RLOCK_H_
#define MP_SYNC_RLOCK_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/shm/handle.h"
#include "mp/sync/chrono.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/in_place_rlock.h"
#include "mp/sync/repair.h"

namespace mp {

class RLock {
 public:
  // A new, free lock. Aborts with a message if there is no memory or descriptor
  // for it; Create() reports that instead.
  RLock();
  static absl::StatusOr<RLock> Create();

  // Waits until the lock is free, or at once if this thread holds it, and takes
  // it: kAcquired or kOwnerDied.
  AcquireResult Acquire() { return Repaired(state_->Acquire()); }

  // As Acquire(), but gives up after `timeout` with kTimedOut, which converts
  // to false. Zero or less tries once without waiting.
  [[nodiscard]] AcquireResult Acquire(absl::Duration timeout) {
    // The clock is read only if there is something to wait for.
    if (state_->TryAcquire()) return kAcquired;
    return Repaired(state_->AcquireUntil(Deadline::After(timeout)));
  }

  // Undoes one acquire; the last one frees the lock. FailedPrecondition, and
  // nothing done, if this thread does not hold it.
  absl::Status Release();

  // Whether anybody holds the lock. A hint by the time it is returned.
  bool Locked() const { return state_->IsHeld(); }

  // "RLock(owner=None)", "RLock(owner=pid 4711)", or "RLock(owner=me, 2)" in
  // the thread that has acquired it twice; "RLock(owner=died)" if the holder
  // died so long ago that its pid is not known any more.
  std::string ToString() const;

  // As Lock::set_repair(). The callback may acquire this lock if it releases it
  // again.
  void set_repair(std::function<void()> repair) {
    repair_.Set(std::move(repair));
  }

  // The standard TimedLockable requirements. unlock() of a lock that this
  // thread does not hold aborts.
  void lock() { Acquire(); }
  bool try_lock() { return Acquire(absl::ZeroDuration()); }
  template <class Rep, class Period>
  bool try_lock_for(const std::chrono::duration<Rep, Period>& timeout) {
    return Acquire(sync_internal::FromChrono(timeout));
  }
  // A time point of another clock than the monotonic one is turned into the
  // time that is left now.
  template <class Clock, class Duration>
  bool try_lock_until(const std::chrono::time_point<Clock, Duration>& when) {
    return Acquire(sync_internal::TimeLeft(when));
  }
  void unlock() { state_->unlock(); }

  // Whether both are handles of the same lock.
  friend bool operator==(const RLock& a, const RLock& b) {
    return a.state_ == b.state_;
  }

 private:
  friend class Condition;

  friend struct HandleAccess;
  explicit RLock(std::shared_ptr<InPlaceRLock> state, StaysBehind = {});
  auto parts() const { return std::tuple(state_, repair_.stays_behind()); }

  AcquireResult Repaired(AcquireResult result) {
    if (ABSL_PREDICT_FALSE(result == kOwnerDied)) repair_.Run(*state_);
    return result;
  }

  std::shared_ptr<InPlaceRLock> state_;
  sync_internal::Repair repair_;
};

}  // namespace mp

#endif  // MP_SYNC_RLOCK_H_
