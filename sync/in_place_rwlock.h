// InPlaceRWLock: the readers-writer lock that lives inside your own structure
// in shared memory. Use mp::RWLock (mp/sync/rwlock.h) unless you design the
// layout of a shared segment yourself.
//
// 576 bytes, aligned to 64, standard layout, free when zero-filled, no
// destructor needed. All processes that use it must belong to one family
// (mp/shm/liveness.h).
//
// Guarantees: either one writer or up to kMaxReaders processes with any number
// of readers; what a writer did before it released the lock, or died, is
// visible to who holds it next, and what readers did to the next writer; nobody
// waits for a dead process.
//
// How it works. A writer takes a lock, by which it keeps readers out, and waits
// until those inside have left. Every process that reads has a slot of its own
// in a table, where it counts its readers: the slot of a dead process is
// obvious, and readers do not fight for one cache line. (Readers that announce
// themselves in a table: D. Dice, A. Kogan, "BRAVO: Biased locking for
// reader-writer locks", 2019.) A reader announces itself and then looks whether
// the lock is held. If it is, the reader withdraws and queues for the lock like
// a writer, only that it holds it no longer than it takes to announce itself.
// So a stream of readers does not keep a writer out. Among those who queue the
// lock is as unfair as an InPlaceLock: a running one may overtake sleeping
// ones.

#ifndef MP_SYNC_IN_PLACE_RWLOCK_H_
#define MP_SYNC_IN_PLACE_RWLOCK_H_

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"
#include "mp/sync/in_place_lock.h"

namespace mp {

template <class Platform, size_t kSlots = 64>
class ABSL_LOCKABLE BasicInPlaceRWLock {
 public:
  // Processes that can read at once; further ones wait until one has left.
  static constexpr size_t kMaxReaders = kSlots;

  constexpr BasicInPlaceRWLock() = default;
  BasicInPlaceRWLock(const BasicInPlaceRWLock&) = delete;
  BasicInPlaceRWLock& operator=(const BasicInPlaceRWLock&) = delete;

  // ---- For a writer.

  // Waits until nobody holds the lock, and takes it: kAcquired, or kOwnerDied
  // if a writer died. Then the next writer is told, and all readers until then.
  AcquireResult Acquire() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    return AcquireUntil(Deadline::Infinite());
  }
  // As Acquire(), but gives up with kTimedOut at the deadline. An expired
  // deadline looks once, and still takes over from the dead; it may find a
  // reader that is just finding that it has to wait.
  [[nodiscard]] AcquireResult AcquireUntil(Deadline deadline)
      ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true);
  // Gives the lock back. False, and nothing done, if no writer of this process
  // holds it.
  bool Release() ABSL_UNLOCK_FUNCTION();
  // As if this process, which must be the writer, had died. For one that could
  // not finish a repair.
  void ReleaseUnrepaired() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    MP_CHECK(writer() == Platform::Self()) << "not the writer";
    writing_.store(kDeadToken, std::memory_order_relaxed);
    lock_.ReleaseUnrepaired();
  }

  // ---- For a reader. Not recursive: who reads and wants to read again would
  // wait for a writer that waits for it.

  // Waits until no writer holds the lock, and takes it: kAcquired, or
  // kOwnerDied if a writer has died and no other has held the lock since.
  AcquireResult AcquireShared() ABSL_SHARED_LOCK_FUNCTION() {
    return AcquireSharedUntil(Deadline::Infinite());
  }
  // As AcquireShared(), but gives up with kTimedOut at the deadline. An expired
  // deadline looks once, and may find others queueing though none of them would
  // keep it out.
  [[nodiscard]] AcquireResult AcquireSharedUntil(Deadline deadline)
      ABSL_SHARED_TRYLOCK_FUNCTION(true) {
    if (ABSL_PREDICT_TRUE(Enter(Home()))) return kAcquired;
    return AcquireSharedSlow(deadline);
  }
  // Gives it back. False, and nothing done, if no thread of this process holds
  // the lock as a reader, or is about to.
  bool ReleaseShared() ABSL_UNLOCK_FUNCTION() {
    if (ABSL_PREDICT_TRUE(Leave(Home()))) return true;
    Slot* const own = FindOwn();
    return own != nullptr && Leave(*own);
  }

  // ---- Hints by the time they are returned.

  // Token of the writer, kNoToken if there is none.
  Token writer() const { return writing_.load(std::memory_order_relaxed); }
  // Tokens of the processes that read.
  std::vector<Token> readers() const {
    std::vector<Token> tokens;
    for (const Slot& slot : slots_) {
      const uint64_t content = slot.load(std::memory_order_relaxed);
      if (ReadersOf(content) > 0) tokens.push_back(OwnerOf(content));
    }
    return tokens;
  }

  // The standard SharedLockable requirements. They take over from the dead,
  // too, but do not tell.
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { Acquire(); }
  bool try_lock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    return AcquireUntil(Deadline::Now());
  }
  void unlock() ABSL_UNLOCK_FUNCTION() {
    MP_CHECK(Release()) << "unlock() of a lock that this process does not hold";
  }
  void lock_shared() ABSL_SHARED_LOCK_FUNCTION() { AcquireShared(); }
  bool try_lock_shared() ABSL_SHARED_TRYLOCK_FUNCTION(true) {
    return AcquireSharedUntil(Deadline::Now());
  }
  void unlock_shared() ABSL_UNLOCK_FUNCTION() {
    MP_CHECK(ReleaseShared())
        << "unlock_shared() of a lock that this process does not read under";
  }

 private:
  // A process's token and, in the upper half, how many of its threads read or
  // are about to look whether they may. 0 if the slot is nobody's. A process
  // keeps its slot when its last reader leaves, until another needs it. Slots
  // are given and taken away under the lock only, so a process has one at most.
  using Slot = typename Platform::template Atomic<uint64_t>;

  static constexpr uint64_t kOneReader = uint64_t{1} << 32;
  static constexpr Token OwnerOf(uint64_t content) {
    return static_cast<Token>(content);
  }
  static constexpr uint64_t ReadersOf(uint64_t content) {
    return content >> 32;
  }

  // The `i`th slot for this process to look at. Neighbours in the liveness
  // table have slots in different cache lines.
  static size_t Index(size_t i) {
    constexpr size_t kInLine = 64 / sizeof(Slot);
    constexpr size_t kLines = (kSlots + kInLine - 1) / kInLine;
    const size_t at = (Platform::Self() + i) % kSlots;
    return at % kLines * kInLine + at / kLines;
  }

  // Where the process's own slot is, unless that was another's already.
  Slot& Home() { return slots_[Index(0)]; }

  // Null if this process has no slot.
  Slot* FindOwn() {
    for (size_t i = 0; i < kSlots; ++i) {
      Slot& slot = slots_[Index(i)];
      if (OwnerOf(slot.load(std::memory_order_relaxed)) == Platform::Self()) {
        return &slot;
      }
    }
    return nullptr;
  }

  // One more reader; false if the slot is another's.
  static bool Announce(Slot& own) {
    // Most often there is no other: a guess saves a load, which would wait for
    // the last atomic operation to end.
    uint64_t content = Platform::Self();
    while (!own.compare_exchange_weak(content, content + kOneReader,
                                      std::memory_order_relaxed)) {
      if (OwnerOf(content) != Platform::Self()) return false;
    }
    return true;
  }

  // One reader less; false if there is none, or the slot is another's.
  bool Leave(Slot& own) {
    uint64_t content = Platform::Self() | kOneReader;  // a guess, too
    // Release: what the reader did is visible to the writer in Drained().
    while (!own.compare_exchange_weak(content, content - kOneReader,
                                      std::memory_order_release,
                                      std::memory_order_relaxed)) {
      if (OwnerOf(content) != Platform::Self() || ReadersOf(content) == 0) {
        return false;
      }
    }
    // Either the writer sees this before it sleeps, or it is seen here.
    FenceBeforeNotifyAfterRmw();
    gate_.Notify();
    return true;
  }

  // Takes the lock for reading if it is obvious that nobody holds it.
  bool Enter(Slot& own) {
    if (lock_.IsHeld()) return false;  // without disturbing the writer
    if (!Announce(own)) return false;
    // Dekker's pattern: either this process sees that the lock is held, or its
    // holder sees this reader. IsHeld() reads with acquire what the last writer
    // did.
    FenceBeforeNotifyAfterRmw();
    if (ABSL_PREDICT_TRUE(!lock_.IsHeld())) return true;
    Leave(own);
    return false;
  }

  AcquireResult AcquireSharedSlow(Deadline deadline)
      ABSL_NO_THREAD_SAFETY_ANALYSIS;

  // ---- With the lock held.

  // Gives the reader a slot, if there is one; true if it is announced then.
  bool EnterWithSlot();

  // Whether nobody reads any more. Buries all dead readers: who waits for the
  // living ones must not watch the dead.
  bool Drained() {
    bool drained = true;
    for (uint64_t slots = used_.load(std::memory_order_relaxed); slots != 0;
         slots &= slots - 1) {
      Slot& slot = slots_[static_cast<size_t>(std::countr_zero(slots))];
      const uint64_t content = slot.load(std::memory_order_acquire);
      if (ReadersOf(content) == 0) continue;
      if (Platform::IsDead(OwnerOf(content))) {
        slot.store(0, std::memory_order_relaxed);
      } else {
        drained = false;
      }
    }
    return drained;
  }

  // Waits until `ready()`, which the readers that leave or die bring about.
  template <class Ready>
  bool WaitForReaders(Ready ready, Deadline deadline) {
    const auto watch_readers = [this](WatchList& list) {
      for (const Slot& slot : slots_) {
        const uint64_t content = slot.load(std::memory_order_relaxed);
        if (ReadersOf(content) > 0) list.Add(OwnerOf(content));
      }
      return true;  // ready() has looked
    };
    return gate_.Wait(spin_, ready, deadline, watch_readers);
  }

  bool unrepaired() const { return writer() != kNoToken; }

  // The lock stays held by nobody as long as no writer has repaired what the
  // last one left, so that readers do not just walk in.
  void FreeLock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (ABSL_PREDICT_FALSE(unrepaired())) {
      lock_.ReleaseUnrepaired();
    } else {
      lock_.Release();
    }
  }

  BasicInPlaceLock<Platform> lock_;
  // The writer's token, from when it has the lock to itself until it releases
  // it. Who gets the lock and finds one here knows that a writer died; a reader
  // or waiter that dies with the lock leaves it as it was.
  typename Platform::template Atomic<Token> writing_{kNoToken};
  // The lock's holder waits here for readers to leave.
  BasicGate<Platform> gate_;
  AdaptiveSpin<Platform, kSpinForPartner> spin_;
  AdaptiveSpin<Platform, kSpinForLock> reader_spin_;
  // Bit i: slots_[i] has been somebody's.
  typename Platform::template Atomic<uint64_t> used_{0};
  static_assert(kSlots <= 64 && (kSlots <= 8 || kSlots % 8 == 0));

  alignas(64) Slot slots_[kSlots];
};

using InPlaceRWLock = BasicInPlaceRWLock<KernelPlatform>;

static_assert(sizeof(InPlaceRWLock) == 576);
static_assert(std::is_standard_layout_v<InPlaceRWLock>);
static_assert(std::is_trivially_destructible_v<InPlaceRWLock>);

// ---- implementation ----

template <class Platform, size_t kSlots>
AcquireResult BasicInPlaceRWLock<Platform, kSlots>::AcquireUntil(
    Deadline deadline) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (!lock_.AcquireUntil(deadline)) return kTimedOut;
  FenceBeforeNotifyAfterRmw();  // see Enter()
  if (ABSL_PREDICT_FALSE(!Drained()) &&
      !WaitForReaders([this] { return Drained(); }, deadline)) {
    FreeLock();
    return kTimedOut;
  }
  const AcquireResult result = unrepaired() ? kOwnerDied : kAcquired;
  writing_.store(Platform::Self(), std::memory_order_relaxed);
  // The writer may be killed at its first change: only the compiler could make
  // that come before the store, as the kernel's certificate of a death is a
  // full barrier for the processors.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return result;
}

template <class Platform, size_t kSlots>
bool BasicInPlaceRWLock<Platform, kSlots>::Release()
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (ABSL_PREDICT_FALSE(writer() != Platform::Self())) return false;
  // Release: the writer's last change comes before.
  writing_.store(kNoToken, std::memory_order_release);
  lock_.Release();
  return true;
}

template <class Platform, size_t kSlots>
AcquireResult BasicInPlaceRWLock<Platform, kSlots>::AcquireSharedSlow(
    Deadline deadline) {
  Slot* const own = FindOwn();
  if (own != nullptr) {
    if (own != &Home() && Enter(*own)) return kAcquired;
    // Not for the lock itself: readers that take turns with it would make each
    // other come here again and again. In vain as long as nobody has repaired
    // what a dead writer left.
    if (deadline != Deadline::Now() && lock_.owner() != kDeadToken &&
        reader_spin_.Until([this, own] { return Enter(*own); })) {
      return kAcquired;
    }
  }
  if (!lock_.AcquireUntil(deadline)) return kTimedOut;
  AcquireResult result = unrepaired() ? kOwnerDied : kAcquired;
  if (!EnterWithSlot() &&
      !WaitForReaders([this] { return EnterWithSlot(); }, deadline)) {
    result = kTimedOut;
  }
  FreeLock();
  return result;
}

template <class Platform, size_t kSlots>
bool BasicInPlaceRWLock<Platform, kSlots>::EnterWithSlot() {
  Slot* const own = FindOwn();
  if (own != nullptr) return Announce(*own);
  for (size_t i = 0; i < kSlots; ++i) {
    const size_t index = Index(i);
    uint64_t content = slots_[index].load(std::memory_order_relaxed);
    if (ReadersOf(content) > 0 && !Platform::IsDead(OwnerOf(content))) continue;
    used_.store(used_.load(std::memory_order_relaxed) | uint64_t{1} << index,
                std::memory_order_relaxed);
    // Fails if its process has become a reader again.
    if (slots_[index].compare_exchange_strong(content,
                                              Platform::Self() | kOneReader,
                                              std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

}  // namespace mp

#endif  // MP_SYNC_IN_PLACE_RWLOCK_H_
