// InPlaceLock: the mutual-exclusion lock that lives inside your own structure
// in shared memory. Use mp::Lock (mp/sync/lock.h) unless you design the layout
// of a shared segment yourself.
//
//   struct Account {  // in an mp::Segment, or any MAP_SHARED mapping
//     mp::InPlaceLock lock;
//     int64_t balance;
//   };
//
// 12 bytes, standard layout, unlocked when zero-filled, no destructor needed.
// All processes that use it must belong to one family (mp/shm/liveness.h): a
// program and what it forks after its first use of shared objects.
//
// Guarantees: at most one holder; what a holder wrote before it released, or
// before it died, is visible to the next holder; a waiter whose wake-up was
// given to a process that died goes on within a quarter of a second; nobody
// waits for a dead holder.
//
// Not recursive and not fair: a running process may overtake sleeping ones.

#ifndef MP_SYNC_IN_PLACE_LOCK_H_
#define MP_SYNC_IN_PLACE_LOCK_H_

#include <cstdint>
#include <type_traits>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/platform.h"

namespace mp {

// What came of trying to acquire a lock. Converts to bool: held or not.
enum AcquireResult : int {
  kTimedOut = 0,
  kAcquired = 1,
  // Held, and the previous holder died holding it: what the lock protects may
  // be half changed. Repair it before relying on it.
  kOwnerDied = 2,
};

template <class Platform>
class ABSL_LOCKABLE BasicInPlaceLock {
 public:
  constexpr BasicInPlaceLock() = default;
  BasicInPlaceLock(const BasicInPlaceLock&) = delete;
  BasicInPlaceLock& operator=(const BasicInPlaceLock&) = delete;

  // Waits until the lock is free and takes it. Never returns kTimedOut.
  AcquireResult Acquire() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    if (ABSL_PREDICT_TRUE(TryAcquire())) return kAcquired;
    return AcquireSlow(Deadline::Infinite());
  }

  // As Acquire(), but gives up with kTimedOut at the deadline. An expired
  // deadline looks once, and still takes over from a dead holder.
  [[nodiscard]] AcquireResult AcquireUntil(Deadline deadline)
      ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    if (ABSL_PREDICT_TRUE(TryAcquire())) return kAcquired;
    return AcquireSlow(deadline);
  }

  // One compare-and-swap: false if the lock is held, by a dead holder too.
  [[nodiscard]] bool TryAcquire() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    return TakeFree();
  }

  // Frees the lock. Any process of the family may release it, as in Python.
  // False, and nothing done, if nobody holds it, or if another process held it
  // and died: then the next acquirer gets kOwnerDied.
  bool Release() ABSL_UNLOCK_FUNCTION() {
    uint32_t word = Platform::Self();
    return ABSL_PREDICT_TRUE(Free(word)) || ReleaseSlow(word);
  }

  // Frees the lock, which the caller holds, as if its holder had died: the next
  // one gets kOwnerDied. For a holder that could not finish a repair.
  void ReleaseUnrepaired() {
    MP_CHECK(owner() == Platform::Self()) << "not the holder";
    word_.store(kDeadToken | kSleepers, std::memory_order_release);
    Platform::Unpark(word_, 1);
  }

  // A hint by the time it is returned. If false, what the last holder did is
  // visible.
  bool IsHeld() const { return word_.load(std::memory_order_acquire) != 0; }

  // Token of the holder, kNoToken if there is none. A hint by the time it is
  // returned.
  Token owner() const {
    return word_.load(std::memory_order_relaxed) & kTokenMask;
  }

  // How often the lock was taken over from a dead holder, so that others can
  // tell later that it was. Wraps.
  uint32_t takeovers() const {
    return takeovers_.load(std::memory_order_relaxed);
  }

  // The standard Lockable requirements. They take over from a dead holder, too,
  // but do not tell.
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { Acquire(); }
  bool try_lock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    return AcquireUntil(Deadline::Now());
  }
  // In line: it is behind every lock that a std::lock_guard holds.
  ABSL_ATTRIBUTE_ALWAYS_INLINE void unlock() ABSL_UNLOCK_FUNCTION() {
    uint32_t word = Platform::Self();
    if (ABSL_PREDICT_FALSE(!Free(word))) UnlockSlow(word);
  }

 private:
  // The lock word:
  //
  //   bit 31      kSleepers: somebody may sleep on the word
  //   bit 30      0
  //   bits 29-0   Token of the holder; 0 if free
  //
  // It is 0 when free, so that acquiring and releasing are one compare-and-swap
  // each. Invariants:
  //
  //   (1) A process sleeps only on a word with kSleepers set, so whoever
  //       releases the lock afterwards wakes somebody.
  //   (2) Releasing clears kSleepers though more than one may sleep. The one
  //       that is woken therefore sets it again when it acquires or goes back
  //       to sleep.
  //   (3) If the woken one dies in between, nobody sets the bit. The others
  //       look again at the end of their slice (mp/shm/park.h).
  static constexpr uint32_t kSleepers = 1u << 31;

  bool TakeFree() {
    uint32_t free = 0;
    // Acquire pairs with the release in Release() and, after a death, with the
    // kernel's full barrier in front of the death certificate.
    return word_.compare_exchange_strong(free, Platform::Self(),
                                         std::memory_order_acquire,
                                         std::memory_order_relaxed);
  }
  AcquireResult AcquireSlow(Deadline deadline);

  // False if the word is not `word`, which then becomes what it is.
  bool Free(uint32_t& word) {
    return word_.compare_exchange_strong(word, 0, std::memory_order_release,
                                         std::memory_order_relaxed);
  }
  bool ReleaseSlow(uint32_t word);
  ABSL_ATTRIBUTE_NOINLINE void UnlockSlow(uint32_t word) {
    MP_CHECK(ReleaseSlow(word)) << "unlock() of a lock that nobody alive holds";
  }

  typename Platform::template Atomic<uint32_t> word_{0};
  AdaptiveSpin<Platform, kSpinForLock> spin_;
  typename Platform::template Atomic<uint32_t> takeovers_{0};
};

using InPlaceLock = BasicInPlaceLock<KernelPlatform>;

static_assert(sizeof(InPlaceLock) == 12);
static_assert(std::is_standard_layout_v<InPlaceLock>);
static_assert(std::is_trivially_destructible_v<InPlaceLock>);

// ---- implementation ----

// There are sleepers, or the lock is not this process's.
template <class Platform>
bool BasicInPlaceLock<Platform>::ReleaseSlow(uint32_t word) {
  const Token self = Platform::Self();
  for (;;) {
    const Token owner = word & kTokenMask;
    if (owner == kNoToken) return false;
    if (owner != self && Platform::IsDead(owner)) return false;
    if (!Free(word)) continue;
    if ((word & kSleepers) != 0) Platform::Unpark(word_, 1);
    return true;
  }
}

template <class Platform>
AcquireResult BasicInPlaceLock<Platform>::AcquireSlow(Deadline deadline) {
  const auto took_it = [this] {
    return word_.load(std::memory_order_relaxed) == 0 && TakeFree();
  };
  if (deadline != Deadline::Now() && spin_.Until(took_it)) return kAcquired;
  const Token self = Platform::Self();
  ParkSlices slices;
  uint32_t sleepers = 0;  // kSleepers once this process has slept: (2)
  uint32_t word = word_.load(std::memory_order_relaxed);
  for (;;) {
    const Token owner = word & kTokenMask;
    if (owner == kNoToken) {
      if (word_.compare_exchange_weak(word, self | sleepers,
                                      std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
        return kAcquired;
      }
      continue;
    }
    if (Platform::IsDead(owner)) {
      // Others may sleep on the dead holder's word: keep the bit. Acquire, so
      // that the dead holder's writes, which IsDead() made visible, stay before
      // what follows.
      if (word_.compare_exchange_weak(
              word, self | (word & kSleepers) | sleepers,
              std::memory_order_acquire, std::memory_order_relaxed)) {
        // If this process dies first, the next one counts.
        takeovers_.store(takeovers() + 1, std::memory_order_relaxed);
        return kOwnerDied;
      }
      continue;
    }
    const bool expired = deadline.Expired();
    if (expired && sleepers == 0) return kTimedOut;
    // Also when giving up: the wake-up that this process got may have been
    // meant for all who sleep.
    if ((word & kSleepers) == 0 &&
        !word_.compare_exchange_weak(word, word | kSleepers,
                                     std::memory_order_relaxed)) {
      continue;
    }
    if (expired) return kTimedOut;
    // A time-out is noticed above, after a last look at the word.
    Platform::Park(word_, word | kSleepers, owner, deadline, slices);
    sleepers = kSleepers;
    word = word_.load(std::memory_order_relaxed);
  }
}

}  // namespace mp

#endif  // MP_SYNC_IN_PLACE_LOCK_H_
