// InPlaceCondition: the condition variable that lives inside your own structure
// in shared memory, beside an InPlaceLock or InPlaceRLock. Use mp::Condition
// (mp/sync/condition.h) unless you design the layout of a shared segment
// yourself.
//
//   struct Mailbox {  // in an mp::Segment, or any MAP_SHARED mapping
//     mp::InPlaceLock lock;
//     mp::InPlaceCondition filled;
//     ...
//   };
//   mailbox.lock.Acquire();
//   while (<empty>) mailbox.filled.Wait(mailbox.lock);
//   ...
//   mailbox.lock.Release();
//
// 1 KiB, standard layout, ready when zero-filled, no destructor needed. All
// processes that use it must belong to one family (mp/shm/liveness.h).
//
// Who waits is entered in a table, so a notification goes to one waiter, the
// one that has waited longest: not to somebody who came later, nor to a waiter
// that is dead. If a waiter is killed between its notification and its return,
// the notification is passed on. Everything but a waiter's own falling asleep
// happens under the user's lock, which knows if its holder died.
//
// A holder may die when it has changed what others wait for and has not told
// them. So all who wait look again when the lock has been taken over from a
// dead holder: by themselves, a quarter of a second later at the latest, or as
// soon as who took it over calls NotifyAll(). If they see the death first, one
// of them takes the lock over.

#ifndef MP_SYNC_IN_PLACE_CONDITION_H_
#define MP_SYNC_IN_PLACE_CONDITION_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "absl/base/thread_annotations.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/in_place_rlock.h"

namespace mp {

template <class Platform>
class BasicInPlaceCondition {
 public:
  // How many can wait in order. One that finds the table full returns after a
  // hundredth of a second as if it had been notified.
  static constexpr size_t kMaxWaiters = 84;

  constexpr BasicInPlaceCondition() = default;
  BasicInPlaceCondition(const BasicInPlaceCondition&) = delete;
  BasicInPlaceCondition& operator=(const BasicInPlaceCondition&) = delete;

  // Releases the lock, which the caller must hold (a recursive one however
  // often), waits to be notified, and acquires the lock again:
  //
  //   kAcquired   was notified, or the lock has been taken over from a dead
  //               holder meanwhile, which is to be taken for a notification
  //   kTimedOut   the deadline passed; the lock is held all the same
  //   kOwnerDied  the lock's last holder died; all waiters have been notified
  //
  // Acquiring the lock again is not limited by the deadline.
  template <class Lock>
  AcquireResult WaitUntil(Lock& lock, Deadline deadline);
  template <class Lock>
  AcquireResult Wait(Lock& lock) {
    return WaitUntil(lock, Deadline::Infinite());
  }

  // Notifies up to `count` who wait, the first to come first; returns how many.
  // With the lock held.
  int Notify(int count = 1);
  int NotifyAll() { return Notify(static_cast<int>(kMaxWaiters)); }

  // How many wait and have not been notified. A hint without the lock.
  int waiters();

  // Whether the calling process or, of a recursive lock, thread holds it.
  static bool Owns(const BasicInPlaceLock<Platform>& lock) {
    return lock.owner() == Platform::Self();
  }
  static bool Owns(const BasicInPlaceRLock<Platform>& lock) {
    return lock.IsOwned();
  }

 private:
  // A slot is free; or its waiter spins, or sleeps on `state`, or has been
  // notified and not yet returned.
  enum State : uint32_t { kFree, kSpinning, kAsleep, kNotified };

  struct Slot {
    typename Platform::template Atomic<uint32_t> state{kFree};
    typename Platform::template Atomic<Token> waiter{kNoToken};
    // When it came, or when it was notified: the order of all that. Wraps.
    typename Platform::template Atomic<uint32_t> ticket{0};

    bool Is(State is) const {
      return state.load(std::memory_order_relaxed) == is;
    }
    bool IsDead() const {
      return Platform::IsDead(waiter.load(std::memory_order_relaxed));
    }
    // With the lock held.
    void Free() { state.store(kFree, std::memory_order_relaxed); }
  };

  // What a condition needs of both kinds of locks.
  static uint32_t Depth(const BasicInPlaceLock<Platform>&) { return 1; }
  static uint32_t Depth(const BasicInPlaceRLock<Platform>& lock) {
    return lock.depth();
  }
  template <class Lock>
  static void ReleaseAll(Lock& lock,
                         uint32_t depth) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    for (uint32_t i = 0; i < depth; ++i) lock.Release();
  }
  template <class Lock>
  static AcquireResult AcquireAll(Lock& lock, uint32_t depth)
      ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const AcquireResult result = lock.Acquire();
    for (uint32_t i = 1; i < depth; ++i) lock.Acquire();
    return result;
  }

  // All that were ever used.
  std::span<Slot> slots() {
    return std::span(slots_).first(used_.load(std::memory_order_relaxed));
  }

  // With the lock held. Null if the table is full.
  Slot* Register();
  // With the lock held: who has waited longest, null if nobody waits.
  Slot* Oldest();
  // With the lock held, which is what orders the notifier's changes before the
  // waiter's looks.
  void Signal(Slot& slot);
  // With the lock held. A notification that a dead process has not used goes to
  // another one, if that has waited already when it was sent.
  void PassOnFromTheDead();

  // Until it is notified, something must be done under the lock, which has been
  // taken over so often before, or the deadline has passed; then false.
  template <class Lock>
  bool Sleep(Slot& own, const Lock& lock, uint32_t takeovers,
             Deadline deadline);

  Slot slots_[kMaxWaiters];
  typename Platform::template Atomic<uint32_t> used_{0};
  typename Platform::template Atomic<uint32_t> next_ticket_{0};
  // Nobody ever wakes those for whom there is no slot.
  typename Platform::template Atomic<uint32_t> table_full_{0};
  AdaptiveSpin<Platform, kSpinForPartner> spin_;
};

using InPlaceCondition = BasicInPlaceCondition<KernelPlatform>;

static_assert(sizeof(InPlaceCondition) == 1024);
static_assert(std::is_standard_layout_v<InPlaceCondition>);
static_assert(std::is_trivially_destructible_v<InPlaceCondition>);

// ---- implementation ----

template <class Platform>
template <class Lock>
AcquireResult BasicInPlaceCondition<Platform>::WaitUntil(Lock& lock,
                                                         Deadline deadline) {
  MP_CHECK(Owns(lock)) << "to wait for a condition one must hold its lock";
  Slot* const slot = Register();
  const uint32_t depth = Depth(lock);
  const uint32_t takeovers = lock.takeovers();
  for (;;) {
    ReleaseAll(lock, depth);
    bool in_time = true;
    if (slot != nullptr) {
      in_time = Sleep(*slot, lock, takeovers, deadline);
    } else {
      ParkSlices slices;
      in_time = Platform::Park(table_full_, 0, WatchList(), deadline, slices) !=
                ParkResult::kTimedOut;
    }
    const AcquireResult result = AcquireAll(lock, depth);
    bool notified = in_time;
    if (slot != nullptr) {
      PassOnFromTheDead();
      notified = slot->Is(kNotified) || lock.takeovers() != takeovers;
      if (!notified && in_time && result == kAcquired) continue;
      slot->Free();
    }
    if (result == kOwnerDied) {
      NotifyAll();
      return kOwnerDied;
    }
    return notified ? kAcquired : kTimedOut;
  }
}

template <class Platform>
int BasicInPlaceCondition<Platform>::Notify(int count) {
  PassOnFromTheDead();
  int notified = 0;
  while (notified < count) {
    Slot* const oldest = Oldest();
    if (oldest == nullptr) break;
    Signal(*oldest);
    ++notified;
  }
  return notified;
}

template <class Platform>
int BasicInPlaceCondition<Platform>::waiters() {
  return static_cast<int>(
      std::count_if(slots().begin(), slots().end(), [](Slot& slot) {
        // Acquire: see Register().
        const uint32_t state = slot.state.load(std::memory_order_acquire);
        return (state == kSpinning || state == kAsleep) && !slot.IsDead();
      }));
}

template <class Platform>
auto BasicInPlaceCondition<Platform>::Register() -> Slot* {
  size_t used = used_.load(std::memory_order_relaxed);
  const auto is_free = [](Slot& slot) { return slot.Is(kFree); };
  auto slot = std::find_if(slots_, slots_ + used, is_free);
  if (slot == slots_ + used) {
    if (used == kMaxWaiters) {
      Oldest();  // frees those of the dead
      slot = std::find_if(slots_, slots_ + used, is_free);
      if (slot == slots_ + used) return nullptr;
    } else {
      used_.store(static_cast<uint32_t>(used + 1), std::memory_order_relaxed);
    }
  }
  const uint32_t ticket = next_ticket_.load(std::memory_order_relaxed);
  next_ticket_.store(ticket + 1, std::memory_order_relaxed);
  slot->waiter.store(Platform::Self(), std::memory_order_relaxed);
  slot->ticket.store(ticket, std::memory_order_relaxed);
  // Release: who finds the slot in use finds its waiter there.
  slot->state.store(kSpinning, std::memory_order_release);
  return slot;
}

template <class Platform>
auto BasicInPlaceCondition<Platform>::Oldest() -> Slot* {
  const uint32_t now = next_ticket_.load(std::memory_order_relaxed);
  Slot* oldest = nullptr;
  uint32_t oldest_age = 0;
  for (Slot& slot : slots()) {
    if (!slot.Is(kSpinning) && !slot.Is(kAsleep)) continue;
    if (slot.IsDead()) {
      slot.Free();
      continue;
    }
    const uint32_t age = now - slot.ticket.load(std::memory_order_relaxed);
    if (oldest == nullptr || age > oldest_age) {
      oldest = &slot;
      oldest_age = age;
    }
  }
  return oldest;
}

template <class Platform>
void BasicInPlaceCondition<Platform>::Signal(Slot& slot) {
  slot.ticket.store(next_ticket_.load(std::memory_order_relaxed),
                    std::memory_order_relaxed);
  if (slot.state.exchange(kNotified, std::memory_order_relaxed) == kAsleep) {
    Platform::Unpark(slot.state, 1);
  }
}

template <class Platform>
void BasicInPlaceCondition<Platform>::PassOnFromTheDead() {
  for (Slot& slot : slots()) {
    if (!slot.Is(kNotified) || !slot.IsDead()) continue;
    const uint32_t sent = slot.ticket.load(std::memory_order_relaxed);
    slot.Free();
    Slot* const oldest = Oldest();
    if (oldest == nullptr) continue;
    const uint32_t came = oldest->ticket.load(std::memory_order_relaxed);
    if (static_cast<int32_t>(came - sent) < 0) Signal(*oldest);
  }
}

template <class Platform>
template <class Lock>
bool BasicInPlaceCondition<Platform>::Sleep(Slot& own, const Lock& lock,
                                            uint32_t takeovers,
                                            Deadline deadline) {
  const auto notified = [&own] { return own.Is(kNotified); };
  if (notified()) return true;
  if (deadline == Deadline::Now()) return false;
  if (spin_.Until(notified)) return true;
  // Adds all whose death may concern this waiter. False if one did.
  const auto watch = [&](WatchList& list) {
    for (Slot& slot : slots()) {
      // Acquire: see Register().
      const uint32_t state = slot.state.load(std::memory_order_acquire);
      if (&slot == &own || state == kFree) continue;
      if (!slot.IsDead()) {
        list.Add(slot.waiter.load(std::memory_order_relaxed));
      } else if (state == kNotified) {
        return false;
      }
    }
    const Token owner = lock.owner();
    list.Add(owner);
    return lock.takeovers() == takeovers &&
           (owner == kNoToken || !Platform::IsDead(owner));
  };
  ParkSlices slices;
  for (;;) {
    uint32_t state = kSpinning;
    // The first time round; then it says kAsleep already.
    own.state.compare_exchange_strong(state, kAsleep, std::memory_order_relaxed,
                                      std::memory_order_relaxed);
    if (state == kNotified) return true;
    WatchList watched;
    if (!watch(watched)) return true;
    const ParkResult result =
        Platform::Park(own.state, kAsleep, watched, deadline, slices);
    if (notified()) return true;
    if (result == ParkResult::kTimedOut) return false;
  }
}

}  // namespace mp

#endif  // MP_SYNC_IN_PLACE_CONDITION_H_
