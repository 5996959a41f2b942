// Gate: where processes sleep until a condition in shared memory holds.
//
// The condition is any function of shared state; the gate is one word beside it
// that says whether somebody may be asleep, so that who changes the state makes
// a system call only if there is somebody to wake. (An "event count".)
//
//   waiter:    gate.Wait(spin, [&] { return <condition>; }, deadline);
//   notifier:  <make the condition true>;  FenceBeforeNotify();  gate.Notify();
//
// Notify wakes one sleeper. Two rules keep wake-ups few without losing any:
//
//   - Who was let through looks at the state anew and, if the condition is true
//     for another as well, calls Notify itself, so a chain of sleepers is woken
//     link by link.
//   - While somebody spins in front of the gate, Notify leaves the sleepers
//     alone: the spinner is there first, and the rule above does the rest.
//
// If a link of the chain or the spinner is killed or stopped, the sleepers go
// on at the end of their slice (mp/shm/park.h).

#ifndef MP_SHM_GATE_H_
#define MP_SHM_GATE_H_

#include <atomic>
#include <cstdint>

#include "absl/base/optimization.h"
#include "absl/cleanup/cleanup.h"
#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"

namespace mp {

// Orders the store that makes a condition true before the look at the gate.
// Without it the store may still be in this processor's store buffer when it
// sees nobody asleep, while the waiter, about to sleep, sees the old state.
// (Dekker's pattern; the waiter's side is the fence in Wait.)
inline void FenceBeforeNotify() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

// The same where the store was an atomic read-modify-write, or was followed by
// one, such as the release of an mp lock: on x86 that is a full barrier
// already.
inline void FenceBeforeNotifyAfterRmw() {
#if defined(__x86_64__)
  std::atomic_signal_fence(std::memory_order_seq_cst);
#else
  FenceBeforeNotify();
#endif
}

template <class Platform>
class BasicGate {
 public:
  // For waiters that watch one process, or with kNoToken nobody.
  struct WatchOne {
    Token token;
    bool operator()(WatchList& list) const {
      list.Add(token);
      return token == kNoToken || !Platform::IsDead(token);
    }
  };

  // Waits until `ready()` returns true: spins, then sleeps. Returns what
  // `ready()` said last, false only after the deadline or a death. `ready` may
  // be called many times and must read with acquire what the caller relies on.
  //
  // `watch(list)` is called before each sleep. It adds to the list those whose
  // death ends the wait, and returns whether all of them live.
  template <class Ready, class Watch = WatchOne>
  bool Wait(AdaptiveSpin<Platform, kSpinForPartner>& spin, Ready ready,
            Deadline deadline, Watch watch = {kNoToken}) {
    if (ready()) return true;
    if (deadline == Deadline::Now()) return false;
    return Spin(spin, ready) || Sleep(ready, deadline, watch);
  }

  // The same without spinning, for who need not be quick.
  template <class Ready, class Watch = WatchOne>
  bool Sleep(Ready ready, Deadline deadline, Watch watch = {kNoToken}) {
    ParkSlices slices;
    for (;;) {
      // Set anew each time round: the notifier that woke this process has
      // cleared it, and others may still sleep.
      const uint32_t ticket = SetSleepers();
      if (ready()) return true;
      WatchList watched;
      // The last thing the dead did may have been to make the condition true.
      if (!watch(watched)) return ready();
      const Token spinner = spinner_.load(std::memory_order_relaxed);
      const ParkResult result =
          Platform::Park(word_, ticket, watched, deadline, slices);
      ForgetSpinner(spinner);
      if (result == ParkResult::kTimedOut) return ready();
    }
  }

  // ---- Sleep() in two halves, for who waits at several gates at once
  // (mp/ipc/wait.h).
  //
  //   Ticket ticket = gate.BeforeSleep();      // at each gate
  //   <look at all conditions>; if none holds:
  //   <sleep while each *ticket.word is ticket.expected, for a slice at most>
  //   woken |= gate.AfterSleep(ticket);        // at each gate

  struct Ticket {
    const typename Platform::template Atomic<uint32_t>* word = nullptr;
    uint32_t expected = 0;
    Token spinner = kNoToken;
  };

  // From here on a notifier makes the sleep end, or the caller sees what that
  // made true when it looks next. The notifier that woke this process has
  // cleared kSleepers, and others may still sleep: hence anew each time.
  Ticket BeforeSleep() {
    Ticket ticket;
    ticket.word = &word_;
    ticket.expected = SetSleepers();
    ticket.spinner = spinner_.load(std::memory_order_relaxed);
    return ticket;
  }

  // Whether this process may have been given a wake-up. Another sleeper may
  // need that, so who was told so and leaves, for whatever reason, calls
  // Notify() if the condition is true then. If it is not, the next notifier
  // finds that somebody may sleep.
  bool AfterSleep(const Ticket& ticket) {
    ForgetSpinner(ticket.spinner);
    // A load behind the system call: the wake-up that ended it is seen.
    std::atomic_thread_fence(std::memory_order_acquire);
    if (word_.load(std::memory_order_relaxed) == ticket.expected) return false;
    SetSleepers();
    return true;
  }

  // Calls `done()` until it returns true or the budget is spent; returns what
  // it said last. Notify leaves the sleepers alone meanwhile, so the caller
  // looks at the state afterwards and calls Notify if it leaves the condition
  // true.
  template <class Done>
  bool Spin(AdaptiveSpin<Platform, kSpinForPartner>& spin, Done done) {
    const bool announced = AnnounceSpin();
    const absl::Cleanup withdraw = [this, announced] {  // done() may throw
      if (announced) WithdrawSpin();
    };
    return spin.Until(done);
  }

  // Says that the caller will spin in a moment, for who is about to do what has
  // a notifier come: so that one finds a spinner, however quick it is. False if
  // that was not necessary; otherwise Spin() or WithdrawSpin() is to follow.
  bool AnnounceSpin() {
    // Only sleepers need to know of a spinner. Without any, the notifier's
    // cache line is left alone. But there may have been when this process
    // announced itself before.
    if (ABSL_PREDICT_TRUE(!Has(kSleepers))) return IsSpinner();
    Token before = kNoToken;
    return spinner_.compare_exchange_strong(before, Platform::Self(),
                                            std::memory_order_relaxed) ||
           before == Platform::Self();
  }

  // Whether that is so at the moment, for this process.
  bool IsSpinner() const {
    return spinner_.load(std::memory_order_relaxed) == Platform::Self();
  }

  // The caller looks at the state afterwards, as after Spin(), which calls this
  // itself.
  void WithdrawSpin() {
    // Perhaps another thread of this process spins, too. Then that costs a
    // wake-up; or it has said this already.
    if (IsSpinner()) spinner_.store(kNoToken, std::memory_order_relaxed);
    // Either the notifier sees no spinner, or this process sees the notifier's
    // new state when it looks next: pairs with FenceBeforeNotify.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }

  // Wakes one sleeper, if there is any and nobody spins. FenceBeforeNotify()
  // first.
  void Notify() {
    if (ABSL_PREDICT_TRUE(!Has(kSleepers))) return;
    if (spinner_.load(std::memory_order_relaxed) != kNoToken) return;
    Wake(1, kSleepers, kLeftAsleep);
  }

  // Wakes all sleepers. FenceBeforeNotify() first.
  void NotifyAll() {
    if (ABSL_PREDICT_TRUE(!Has(kSleepers | kLeftAsleep))) return;
    // It may be dead, and this for that reason. If not, that costs a wake-up.
    spinner_.store(kNoToken, std::memory_order_relaxed);
    Wake(kWakeAll, kSleepers | kLeftAsleep, 0);
  }

 private:
  // The word:
  //
  //   bit 0      kSleepers: somebody may sleep, and no wake-up is under way
  //   bit 1      kLeftAsleep: Notify has woken one; others may sleep on
  //   bits 31-2  count wake-ups, so that a waiter that is between its last look
  //              and its sleep notices one
  //
  // Notify need not look at kLeftAsleep: who was woken will set kSleepers.
  static constexpr uint32_t kSleepers = 1;
  static constexpr uint32_t kLeftAsleep = 2;
  static constexpr uint32_t kFlags = kSleepers | kLeftAsleep;

  // Returns the word to sleep on.
  uint32_t SetSleepers() {
    const uint32_t word =
        word_.fetch_or(kSleepers, std::memory_order_relaxed) | kSleepers;
    // Either this process sees the new state when it looks next, or the
    // notifier sees kSleepers and no spinner: pairs with FenceBeforeNotify.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return word;
  }

  // A spinner that was there before a sleep and still is, is dead or stopped.
  // If it is not, that costs a wake-up too many.
  void ForgetSpinner(Token spinner) {
    if (spinner == kNoToken) return;
    spinner_.compare_exchange_strong(spinner, kNoToken,
                                     std::memory_order_relaxed);
  }

  bool Has(uint32_t flags) const {
    return (word_.load(std::memory_order_relaxed) & flags) != 0;
  }

  // If any of `flags` is set: wakes up to `count`, and leaves the flags `left`.
  void Wake(int count, uint32_t flags, uint32_t left) {
    uint32_t word = word_.load(std::memory_order_relaxed);
    while ((word & flags) != 0) {
      if (word_.compare_exchange_weak(word, ((word | kFlags) + 1) | left,
                                      std::memory_order_relaxed)) {
        Platform::Unpark(word_, count);
        return;
      }
    }
  }

  typename Platform::template Atomic<uint32_t> word_{0};
  typename Platform::template Atomic<Token> spinner_{kNoToken};
};

}  // namespace mp

#endif  // MP_SHM_GATE_H_
