// Spinning before sleeping, for as long as that has helped lately.
//
// A partner that runs answers in a tenth of a microsecond; putting a process to
// sleep and waking it costs 10 to 20. A partner that does not run answers after
// its next time slice. Which it is, only history tells: every object that is
// waited for keeps how long spinning took when it succeeded, and the budget
// follows that, as in glibc's adaptive mutex.

#ifndef MP_SHM_ADAPTIVE_SPIN_H_
#define MP_SHM_ADAPTIVE_SPIN_H_

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

namespace mp {

// What one spins for. Units are pauses, of 10 to 60 ns.
struct SpinStyle {
  // Pauses between looks: these, then twice as many each time, up to the last.
  uint32_t first_gap;
  uint32_t last_gap;
  bool for_partner;  // see kSpinForPartner
};

// For a lock. Each look takes the lock's cache line away from who holds it, or
// takes the lock itself, so that its data move to another cache. Looks that
// become rare let one process go through many critical sections at the speed of
// its own cache, and cost a waiter no more than it has waited already.
// (Back-off after T. E. Anderson, "The performance of spin lock alternatives
// for shared-memory multiprocessors", 1990.)
inline constexpr SpinStyle kSpinForLock = {
    .first_gap = 4, .last_gap = 64, .for_partner = false};

// For a partner's answer. What it wrote is there at once and stays, and until
// then a look costs no more than a load from this processor's cache.
//
// A partner that answered the last time and is late now is more likely held up
// for a moment, by a page fault for example, than gone. So the first spin after
// a success is as long as a page fault takes, and more; to fall asleep over it,
// be woken, and have the partner fall asleep meanwhile costs ten times as much.
//
// There is a trap: when both partners sleep, each wakes later than the other
// spins, and they go on sleeping for ever though both could run. So a spin
// after a failure is long enough to outlast a wake-up; if that succeeds, both
// are running, and shorter spins do again. If it does not, the next long one
// comes after twice as many failures, so that in the long run one in 64 is
// long.
inline constexpr SpinStyle kSpinForPartner = {
    .first_gap = 1, .last_gap = 1, .for_partner = true};

// Zero-initialised; 4 bytes that may live in shared memory. Only a hint: races
// on it do not matter.
template <class Platform, SpinStyle kStyle>
class AdaptiveSpin {
 public:
  // Calls `done()` until it returns true or the budget is spent; true if it
  // did. Does nothing where only one processor is available.
  template <class Done>
  bool Until(Done done) {
    if (!Platform::MaySpin()) return false;
    const uint32_t word = word_.load(std::memory_order_relaxed);
    const uint32_t history = word % kFailure;
    const uint32_t failures = word / kFailure;
    const uint32_t faded = history - history / 8;
    const uint32_t budget = Budget(history, failures);
    uint32_t gap = kStyle.first_gap;
    for (uint32_t spent = 0; spent < budget;) {
      for (uint32_t i = 0; i < gap; ++i) Platform::Relax();
      spent += gap;
      gap = std::min(2 * gap, kStyle.last_gap);
      if (!done()) continue;
      word_.store(faded + std::min(spent, kMaxPauses),
                  std::memory_order_relaxed);
      return true;
    }
    // It did not help: a smaller budget next time. The count may wrap.
    word_.store((failures + 1) * kFailure + faded, std::memory_order_relaxed);
    return false;
  }

 private:
  static constexpr uint32_t kMinPauses = 50;
  static constexpr uint32_t kMaxPauses = 200;
  static constexpr uint32_t kPausesToOutlastWakeUp = 1000;
  static constexpr uint32_t kLongestStretchWithoutLong = 64;
  // The word: how long spinning took when it succeeded, in pauses times 8, and
  // above that how often in a row it has not succeeded since.
  static constexpr uint32_t kFailure = 1 << 16;

  static uint32_t Budget(uint32_t history, uint32_t failures) {
    if (kStyle.for_partner) {
      if (failures == 0) return kMaxPauses;
      if (std::has_single_bit(failures) ||
          failures % kLongestStretchWithoutLong == 0) {
        return kPausesToOutlastWakeUp;
      }
    }
    return std::min(kMaxPauses, history / 4 + kMinPauses);
  }

  typename Platform::template Atomic<uint32_t> word_{0};
};

}  // namespace mp

#endif  // MP_SHM_ADAPTIVE_SPIN_H_
