// InPlaceEvent: the event that lives inside your own structure in shared
// memory. Use mp::Event (mp/sync/event.h) unless you design the layout of a
// shared segment yourself.
//
// 16 bytes, standard layout, not set when zero-filled, no destructor needed.
// All processes that use it must belong to one family (mp/shm/liveness.h).
//
// Setting, clearing and asking are one atomic operation each; nobody owns
// anything, so the death of a process leaves nothing to repair. If a process is
// killed between setting the event and waking those who wait, they go on at the
// end of their slice (mp/shm/park.h), or with the next Set().

#ifndef MP_SYNC_IN_PLACE_EVENT_H_
#define MP_SYNC_IN_PLACE_EVENT_H_

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/platform.h"

namespace mp {

template <class Platform>
class BasicInPlaceEvent {
 public:
  constexpr BasicInPlaceEvent() = default;
  BasicInPlaceEvent(const BasicInPlaceEvent&) = delete;
  BasicInPlaceEvent& operator=(const BasicInPlaceEvent&) = delete;

  // Acquire: who sees the event set sees what happened before any Set() of it
  // since it was last cleared.
  bool IsSet() const {
    return (word_.load(std::memory_order_acquire) & kSet) != 0;
  }

  // Lets everybody go on who waits, and who will wait until Clear().
  void Set() {
    // A read-modify-write even if it is set already, so that who sees the event
    // set synchronises with this call, too.
    word_.fetch_or(kSet, std::memory_order_acq_rel);
    FenceBeforeNotifyAfterRmw();
    // Likewise: who set it before may have been killed here.
    gate_.NotifyAll();
  }

  void Clear() {
    uint32_t word = word_.load(std::memory_order_relaxed);
    // The next count. If that fails, another process has cleared it.
    if ((word & kSet) != 0) {
      word_.compare_exchange_strong(word, word + 1, std::memory_order_relaxed,
                                    std::memory_order_relaxed);
    }
  }

  // Waits until the event is set. True if it is, or has been meanwhile: who
  // waits when it is set goes on, even if it is cleared at once. False only
  // after the deadline; an expired one looks once.
  bool WaitUntil(Deadline deadline) {
    const uint32_t before = word_.load(std::memory_order_acquire);
    if ((before & kSet) != 0) return true;
    return gate_.Wait(
        spin_, [this, before] { return WasSet(before); }, deadline);
  }
  void Wait() { WaitUntil(Deadline::Infinite()); }

  // The parts of WaitUntil(), for who waits for several things at once: a mark
  // of the moment from which it waits, whether the event was set then or has
  // been since, and where it sleeps.
  uint32_t Mark() const { return word_.load(std::memory_order_acquire); }
  bool WasSet(uint32_t since) const {
    return (since & kSet) != 0 ||
           word_.load(std::memory_order_acquire) != since;
  }
  BasicGate<Platform>& gate() { return gate_; }

 private:
  // The word: bit 0 says whether the event is set, the others count how often
  // it was cleared. It is a waiter's ticket: when it has changed at all, the
  // event has been set. (A waiter would have to be asleep for 2^31 times.)
  static constexpr uint32_t kSet = 1;

  typename Platform::template Atomic<uint32_t> word_{0};
  AdaptiveSpin<Platform, kSpinForPartner> spin_;
  BasicGate<Platform> gate_;
};

using InPlaceEvent = BasicInPlaceEvent<KernelPlatform>;

static_assert(sizeof(InPlaceEvent) == 16);
static_assert(std::is_standard_layout_v<InPlaceEvent>);
static_assert(std::is_trivially_destructible_v<InPlaceEvent>);

}  // namespace mp

#endif  // MP_SYNC_IN_PLACE_EVENT_H_
