// BarrierState: what is behind mp::Barrier in shared memory. Internal to sync.
//
// The stages are those of Python's barrier. A round fills up with parties; the
// last one runs the action, if there is one, and opens the barrier; then it
// drains: parties leave, and who comes for the next round waits until all have
// left. So nobody inside can miss how its round has ended. Every change is one
// store under a lock, so a party that dies within leaves its entry in the
// table, and nothing half done.

#ifndef MP_SYNC_BARRIER_STATE_H_
#define MP_SYNC_BARRIER_STATE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <type_traits>

#include "absl/cleanup/cleanup.h"
#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"
#include "mp/sync/in_place_lock.h"

namespace mp {

// What Wait() returns instead of an index.
inline constexpr int kBarrierBroken = -1;
inline constexpr int kBarrierTimedOut = -2;

// Followed in memory by its parties' entries, zero-filled.
template <class Platform>
class BasicBarrierState {
 public:
  // The token of a party that is inside, or kNoToken.
  using Entry = typename Platform::template Atomic<Token>;

  // REQUIRES: parties > 0.
  explicit BasicBarrierState(uint32_t parties) : parties_(parties) {}
  BasicBarrierState(const BasicBarrierState&) = delete;
  BasicBarrierState& operator=(const BasicBarrierState&) = delete;

  // Waits until as many as there are parties have called this; the last one
  // runs the action first, if there is one. Returns in which place the caller
  // came, from 0, or that the barrier is broken, or was broken by this call: at
  // the deadline, or if the action throws. Who comes when the last round is
  // still under way may time out without having been inside.
  template <class Action>
  int Wait(const Action* action, Deadline deadline);

  void Abort() {
    {
      const Hold hold(lock_);
      Enter(kBroken);
    }
    NotifyAll();
  }
  void Reset();

  uint32_t parties() const { return parties_; }
  // How many wait for the barrier to open. A hint.
  uint32_t waiting();
  bool broken() const { return stage() == kBroken; }

 private:
  enum Stage : uint32_t {
    kFilling,
    kActing,     // the last one has come and runs the action
    kDraining,   // open
    kResetting,  // who is inside leaves with an error, then it fills again
    kBroken,     // until somebody resets it
  };

  // A holder that died has left its entry, by which it is noticed.
  using Hold = std::scoped_lock<BasicInPlaceLock<Platform>>;

  std::span<Entry> entries() {
    return {reinterpret_cast<Entry*>(this + 1), parties_};
  }
  Stage stage() const {
    return static_cast<Stage>(stage_.load(std::memory_order_acquire));
  }
  bool closed() const {
    const Stage now = stage();
    return now == kFilling || now == kActing;
  }
  // Whether a next round has to wait.
  bool busy() const {
    const Stage now = stage();
    return now == kActing || now == kDraining || now == kResetting;
  }

  // With the lock held. Release: who sees the stage sees what the parties did
  // before they came, as each of them has had the lock.
  void Enter(Stage stage) { stage_.store(stage, std::memory_order_release); }

  // How many parties are inside, the unburied dead among them. Exact only with
  // the lock held.
  uint32_t Inside() {
    return static_cast<uint32_t>(
        std::count_if(entries().begin(), entries().end(), [](const Entry& e) {
          return e.load(std::memory_order_relaxed) != kNoToken;
        }));
  }

  // With the lock held: takes the entries of the dead away. The barrier is
  // broken then, also if it was open already: the next round would wait for
  // them.
  void BuryTheDead() {
    for (Entry& entry : entries()) {
      const Token party = entry.load(std::memory_order_relaxed);
      if (party == kNoToken || !Platform::IsDead(party)) continue;
      // In this order: if this process dies in between, they must be found.
      Enter(kBroken);
      entry.store(kNoToken, std::memory_order_relaxed);
    }
  }

  void NotifyAll() {
    FenceBeforeNotifyAfterRmw();  // the lock has been released
    gate_.NotifyAll();
  }

  // Until `ready()`; false at the deadline. Parties that die are buried, which
  // may make it ready.
  template <class Ready>
  bool WaitFor(Ready ready, Deadline deadline) {
    const auto watch_parties = [this](WatchList& list) {
      return std::all_of(
          entries().begin(), entries().end(), [&list](const Entry& entry) {
            const Token party = entry.load(std::memory_order_relaxed);
            list.Add(party);
            return party == kNoToken || !Platform::IsDead(party);
          });
    };
    while (!gate_.Wait(spin_, ready, deadline, watch_parties)) {
      const bool expired = deadline.Expired();
      {
        const Hold hold(lock_);
        BuryTheDead();
      }
      NotifyAll();
      if (expired) return ready();
    }
    return true;
  }

  // Which place the caller got in the table, or kBarrierBroken or
  // kBarrierTimedOut. The last one opens the barrier if `opens`.
  int Come(bool opens, Deadline deadline);
  // What Wait() returns.
  int Leave(int place, bool timed_out);

  const uint32_t parties_;
  typename Platform::template Atomic<uint32_t> stage_{kFilling};
  BasicInPlaceLock<Platform> lock_;
  BasicGate<Platform> gate_;
  AdaptiveSpin<Platform, kSpinForPartner> spin_;
};

using BarrierState = BasicBarrierState<KernelPlatform>;

static_assert(std::is_standard_layout_v<BarrierState>);
static_assert(std::is_trivially_destructible_v<BarrierState>);

// ---- implementation ----

template <class Platform>
template <class Action>
int BasicBarrierState<Platform>::Wait(const Action* action, Deadline deadline) {
  const int place = Come(/*opens=*/action == nullptr, deadline);
  if (place < 0) return place;
  const bool last = place + 1 == static_cast<int>(parties_);
  if (last && stage() == kActing) {
    absl::Cleanup threw = [this, place] {
      Leave(place, /*timed_out=*/true);  // closed still, so this breaks it
    };
    (*action)();
    std::move(threw).Cancel();
    const Hold hold(lock_);
    if (stage() == kActing) Enter(kDraining);
  }
  if (last) {
    NotifyAll();
    return Leave(place, /*timed_out=*/false);
  }
  const bool open = WaitFor([this] { return !closed(); }, deadline);
  return Leave(place, /*timed_out=*/!open);
}

template <class Platform>
int BasicBarrierState<Platform>::Come(bool opens, Deadline deadline) {
  for (;;) {
    {
      const Hold hold(lock_);
      if (stage() == kBroken) return kBarrierBroken;
      if (stage() == kFilling) {
        // While it fills, nobody leaves but by breaking it. So a round in which
        // nobody dies takes the entries in their order.
        size_t place = 0;
        while (place < parties_ &&
               entries()[place].load(std::memory_order_relaxed) != kNoToken) {
          ++place;
        }
        if (place == parties_) {  // the dead are inside
          BuryTheDead();
          return kBarrierBroken;
        }
        entries()[place].store(Platform::Self(), std::memory_order_relaxed);
        if (Inside() == parties_) {
          BuryTheDead();
          if (stage() == kFilling) Enter(opens ? kDraining : kActing);
        }
        return static_cast<int>(place);
      }
    }
    if (!WaitFor([this] { return !busy(); }, deadline)) return kBarrierTimedOut;
  }
}

template <class Platform>
int BasicBarrierState<Platform>::Leave(int place, bool timed_out) {
  int result = kBarrierBroken;
  {
    const Hold hold(lock_);
    if (timed_out && closed()) {
      Enter(kBroken);
      result = kBarrierTimedOut;
    } else if (stage() == kDraining) {
      result = place;
    }
    // The last one out lets it fill again, while it still has its entry: if it
    // dies now, that is found. In an empty barrier nobody would look.
    if (busy() && Inside() == 1) Enter(kFilling);
    entries()[static_cast<size_t>(place)].store(kNoToken,
                                                std::memory_order_relaxed);
    if (stage() == kDraining) return result;  // others have to leave still
  }
  NotifyAll();
  return result;
}

template <class Platform>
void BasicBarrierState<Platform>::Reset() {
  {
    const Hold hold(lock_);
    BuryTheDead();
    if (stage() != kDraining) Enter(Inside() > 0 ? kResetting : kFilling);
  }
  NotifyAll();
}

template <class Platform>
uint32_t BasicBarrierState<Platform>::waiting() {
  return closed() ? Inside() : 0;
}

}  // namespace mp

#endif  // MP_SYNC_BARRIER_STATE_H_
