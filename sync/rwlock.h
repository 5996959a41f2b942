// RWLock: one writer or many readers, between processes, surviving their death.
//
//   mp::RWLock lock;                    // before the fork
//   {
//     const std::shared_lock hold(lock);   // with others who read
//     ...
//   }
//   {
//     const std::scoped_lock hold(lock);   // alone, to write
//     ...
//   }
//
// An RWLock is a handle: small, cheap to copy, and every copy means the same
// lock, in this process and in the children that inherit it or get it as an
// argument. The lock itself is 576 bytes of anonymous shared memory that goes
// when the last process drops its last handle. A moved-from handle may only be
// assigned to or destroyed.
//
// Where nobody has to wait, acquire and release are one atomic operation each
// and no system call, for readers as for writers; readers in different
// processes mostly write to different cache lines. Up to 64 processes can read
// at once, each with any number of threads; further ones wait until one has
// left. A waiter spins for a few microseconds, as long as that has helped
// lately, then sleeps. Readers who come while a writer waits for others to
// leave wait as well, so a stream of readers does not keep a writer out; apart
// from that it is not fair: a running process may overtake sleeping ones.
//
// Not recursive, and no upgrade: a thread that holds it in either way and
// acquires it in either way may wait for ever.
//
// If a writer dies holding the lock: the next writer gets it within
// milliseconds and is told kOwnerDied; until then, readers get it and are told,
// each of them, one after the other by way of a system call. What the lock
// protects may be half changed. Whoever cannot look at the result
// (std::scoped_lock) sets a repair callback, which runs first. A reader or a
// waiter that dies leaves no trace.
//
// Memory ordering: what a writer did before it released the lock, or before it
// died, is visible to who acquires it afterwards in either way; what a reader
// did, to the next writer.
//
// Threads: all calls are safe from any thread. The owner is the process: if a
// thread ends without releasing, the lock stays held. Fork: a child does not
// hold what its parent holds. Not for signal handlers.
//
// Python has none.

#ifndef MP_SYNC_RWLOCK_H_
#define MP_SYNC_RWLOCK_H_

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
#include "mp/sync/in_place_rwlock.h"
#include "mp/sync/repair.h"

namespace mp {

class ABSL_LOCKABLE RWLock {
 public:
  // A new, free lock. Aborts with a message if there is no memory or descriptor
  // for it; Create() reports that instead.
  RWLock();
  static absl::StatusOr<RWLock> Create();

  // ---- For a writer.

  // Waits until nobody holds the lock and takes it: kAcquired or kOwnerDied.
  AcquireResult Acquire() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    return AcquireUntil(Deadline::Infinite());
  }
  // As Acquire(), but gives up after `timeout` with kTimedOut, which converts
  // to false. Zero or less tries once without waiting, which may fail beside a
  // reader that is just finding that it has to wait.
  [[nodiscard]] AcquireResult Acquire(absl::Duration timeout)
      ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    return AcquireUntil(Deadline::After(timeout));
  }
  // Gives it back. FailedPrecondition, and nothing done, if this process is not
  // the writer.
  absl::Status Release() ABSL_UNLOCK_FUNCTION();

  // ---- For a reader.

  // Waits until no writer holds the lock and takes it: kAcquired or kOwnerDied.
  AcquireResult AcquireShared() ABSL_SHARED_LOCK_FUNCTION() {
    return AcquireSharedUntil(Deadline::Infinite());
  }
  // As AcquireShared(), but gives up after `timeout` with kTimedOut, which
  // converts to false. Zero or less tries once without waiting, which may fail
  // while another reader is just being let in.
  [[nodiscard]] AcquireResult AcquireShared(absl::Duration timeout)
      ABSL_SHARED_TRYLOCK_FUNCTION(true) {
    return AcquireSharedUntil(Deadline::After(timeout));
  }
  // Gives it back. FailedPrecondition, and nothing done, if this process has no
  // reader.
  absl::Status ReleaseShared() ABSL_UNLOCK_FUNCTION();

  // "RWLock(owner=None)", "RWLock(owner=pid 4711)", or, with readers,
  // "RWLock(readers=pid 4711, pid 4712)"; "died" if one died so long ago that
  // its pid is not known any more. A hint by the time it is returned.
  std::string ToString() const;

  // `repair` runs in the acquiring process, as the writer, whenever an acquire
  // of either kind through this handle or a later copy of it finds that a
  // writer died, before the acquire returns. If it throws or its process dies,
  // the next one repairs. It must not acquire the same lock. With it, a reader
  // is told kOwnerDied only if it was the one to repair.
  void set_repair(std::function<void()> repair) {
    repair_.Set(std::move(repair));
  }

  // The standard SharedTimedLockable requirements. unlock() and unlock_shared()
  // of a lock that this process does not hold so abort.
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { Acquire(); }
  bool try_lock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    return AcquireUntil(Deadline::Now());
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

  void lock_shared() ABSL_SHARED_LOCK_FUNCTION() { AcquireShared(); }
  bool try_lock_shared() ABSL_SHARED_TRYLOCK_FUNCTION(true) {
    return AcquireSharedUntil(Deadline::Now());
  }
  template <class Rep, class Period>
  bool try_lock_shared_for(const std::chrono::duration<Rep, Period>& timeout)
      ABSL_SHARED_TRYLOCK_FUNCTION(true) {
    return AcquireShared(sync_internal::FromChrono(timeout));
  }
  template <class Clock, class Duration>
  bool try_lock_shared_until(
      const std::chrono::time_point<Clock, Duration>& when)
      ABSL_SHARED_TRYLOCK_FUNCTION(true) {
    return AcquireShared(sync_internal::TimeLeft(when));
  }
  void unlock_shared() ABSL_UNLOCK_FUNCTION() { state_->unlock_shared(); }

  // Whether both are handles of the same lock.
  friend bool operator==(const RWLock& a, const RWLock& b) {
    return a.state_ == b.state_;
  }

 private:
  friend struct HandleAccess;
  explicit RWLock(std::shared_ptr<InPlaceRWLock> state, StaysBehind = {});
  auto parts() const { return std::tuple(state_, repair_.stays_behind()); }

  AcquireResult AcquireUntil(Deadline deadline)
      ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    const AcquireResult result = state_->AcquireUntil(deadline);
    if (ABSL_PREDICT_FALSE(result == kOwnerDied)) repair_.Run(*state_);
    return result;
  }
  AcquireResult AcquireSharedUntil(Deadline deadline)
      ABSL_SHARED_TRYLOCK_FUNCTION(true) {
    const AcquireResult result = state_->AcquireSharedUntil(deadline);
    if (ABSL_PREDICT_TRUE(result != kOwnerDied) || !repair_) return result;
    return RepairAndAcquireShared(deadline);
  }
  // For a reader that has found that a writer died.
  AcquireResult RepairAndAcquireShared(Deadline deadline);

  std::shared_ptr<InPlaceRWLock> state_;
  sync_internal::Repair repair_;
};

}  // namespace mp

#endif  // MP_SYNC_RWLOCK_H_
