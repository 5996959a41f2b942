// Spinning before sleeping, for as long as that has helped lately.
//
// A partner that runs answers in a tenth of a microsecond; putting a process to
// sleep and waking it costs 10 to 20. A partner that does not run answers after
// its next time slice. Which it is, only history tells: every object that is
// waited for keeps how long spinning took when it succeeded, and the budget
// follows that, as in glibc's adaptive mutex.
//
// That alone has a trap: when both sides sleep, each wakes later than the other
// spins, and they go on sleeping for ever though both could run. So one spin in
// many is long enough to outlast a wake-up; if that succeeds, both are running,
// and short spins do again.

#ifndef MP_SHM_ADAPTIVE_SPIN_H_
#define MP_SHM_ADAPTIVE_SPIN_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace mp {

// Zero-initialised; 4 bytes that may live in shared memory. Only a hint: races
// on it do not matter.
template <class Platform>
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
    const uint32_t budget =
        failures % kLongEvery == kLongEvery - 1
            ? kLongRounds
            : std::min(kMaxRounds, history / 4 + kMinRounds);
    const uint32_t faded = history - history / 8;
    for (uint32_t round = 0; round < budget; ++round) {
      Platform::Relax();
      if (!done()) continue;
      word_.store(failures * kFailure + faded + std::min(round, kMaxRounds),
                  std::memory_order_relaxed);
      return true;
    }
    // It did not help: a smaller budget next time. The count may wrap.
    word_.store((failures + 1) * kFailure + faded, std::memory_order_relaxed);
    return false;
  }

 private:
  // A round takes 10 to 60 ns.
  static constexpr uint32_t kMinRounds = 50;
  static constexpr uint32_t kMaxRounds = 200;
  static constexpr uint32_t kLongRounds = 2000;
  static constexpr uint32_t kLongEvery = 32;
  // The word: how long spinning took when it succeeded, in rounds times 8, and
  // above that how often it did not succeed.
  static constexpr uint32_t kFailure = 1 << 16;

  typename Platform::template Atomic<uint32_t> word_{0};
};

}  // namespace mp

#endif  // MP_SHM_ADAPTIVE_SPIN_H_
