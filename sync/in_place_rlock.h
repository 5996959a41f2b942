// InPlaceRLock: the recursive lock that lives inside your own structure in
// shared memory. Use mp::RLock (mp/sync/rlock.h) unless you design the layout
// of a shared segment yourself.
//
// 24 bytes, standard layout, unlocked when zero-filled, no destructor needed.
// Its holder is a thread, which may acquire it again and must release it as
// often. For all else, and for what it guarantees, see InPlaceLock
// (mp/sync/in_place_lock.h), which it is made of.

#ifndef MP_SYNC_IN_PLACE_RLOCK_H_
#define MP_SYNC_IN_PLACE_RLOCK_H_

#include <atomic>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/platform.h"
#include "mp/sync/in_place_lock.h"

namespace mp {

// Without annotations for Clang's thread-safety analysis, which knows no
// recursive locks.
template <class Platform>
class BasicInPlaceRLock {
 public:
  constexpr BasicInPlaceRLock() = default;
  BasicInPlaceRLock(const BasicInPlaceRLock&) = delete;
  BasicInPlaceRLock& operator=(const BasicInPlaceRLock&) = delete;

  // Waits until the lock is free, or at once if the calling thread holds it,
  // and takes it: kAcquired or kOwnerDied.
  AcquireResult Acquire() { return AcquireUntil(Deadline::Infinite()); }
  // As Acquire(), but gives up with kTimedOut at the deadline. An expired
  // deadline looks once, and still takes over from a dead holder.
  [[nodiscard]] AcquireResult AcquireUntil(Deadline deadline) {
    return AcquireAgain() ? kAcquired : AcquireFirst(deadline);
  }
  // False if another thread or process holds the lock, or did when it died.
  [[nodiscard]] bool TryAcquire() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return AcquireAgain() || (lock_.TryAcquire() && Begin(kAcquired));
  }

  // Undoes one acquire. False, and nothing done, if the calling thread does not
  // hold the lock.
  bool Release() {
    if (ABSL_PREDICT_FALSE(!IsOwned())) return false;
    if (--depth_ == 0) ReleaseLast();
    return true;
  }

  // For the calling thread, which holds the lock once: frees it as if it had
  // died, so the next one gets kOwnerDied.
  void ReleaseUnrepaired() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    depth_ = 0;
    holder_.store(0, std::memory_order_relaxed);
    lock_.ReleaseUnrepaired();
  }

  // Whether the calling thread holds the lock.
  bool IsOwned() const {
    return holder_.load(std::memory_order_relaxed) == Platform::SelfThread();
  }
  // How often the calling thread, which holds the lock, has acquired it.
  uint32_t depth() const { return depth_; }
  bool IsHeld() const { return lock_.IsHeld(); }
  Token owner() const { return lock_.owner(); }
  uint32_t takeovers() const { return lock_.takeovers(); }

  // The standard Lockable requirements. They take over from a dead holder, too,
  // but do not tell.
  void lock() { Acquire(); }
  bool try_lock() { return AcquireUntil(Deadline::Now()); }
  void unlock() {
    MP_CHECK(Release()) << "unlock() of a lock that this thread does not hold";
  }

 private:
  bool AcquireAgain() {
    if (!IsOwned()) return false;
    MP_CHECK(depth_ < std::numeric_limits<uint32_t>::max())
        << "a recursive lock that is held too often";
    ++depth_;
    return true;
  }

  AcquireResult Begin(AcquireResult result) {
    if (ABSL_PREDICT_TRUE(result != kTimedOut)) {
      depth_ = 1;
      holder_.store(Platform::SelfThread(), std::memory_order_relaxed);
    }
    return result;
  }

  // Not inline, so that the calls that nest stay small.
  ABSL_ATTRIBUTE_NOINLINE AcquireResult AcquireFirst(Deadline deadline)
      ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return Begin(lock_.AcquireUntil(deadline));
  }
  ABSL_ATTRIBUTE_NOINLINE void ReleaseLast() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    // Before the lock is free, so that nobody takes the next holder, which may
    // be another thread of this process, for this thread.
    holder_.store(0, std::memory_order_relaxed);
    lock_.Release();
  }

  BasicInPlaceLock<Platform> lock_;
  uint32_t depth_ = 0;  // belongs to the holder
  // Its thread, as Platform::SelfThread(). A thread finds itself here only if
  // it has stored that itself and not released the lock since, so no order is
  // needed. What a dead process left means nobody.
  typename Platform::template Atomic<uint64_t> holder_{0};
};

using InPlaceRLock = BasicInPlaceRLock<KernelPlatform>;

static_assert(sizeof(InPlaceRLock) == 24);
static_assert(std::is_standard_layout_v<InPlaceRLock>);
static_assert(std::is_trivially_destructible_v<InPlaceRLock>);

}  // namespace mp

#endif  // MP_SYNC_IN_PLACE_RLOCK_H_
