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
#include <cstdint>

namespace mp {

// The history, in rounds times 8. Zero-initialised; may live in shared memory.
// Only a hint: races on it do not matter.
template <class Platform>
class AdaptiveSpin {
 public:
  // Calls `done()` until it returns true or the budget is spent; true if it
  // did. Does nothing where only one processor is available.
  template <class Done>
  bool Until(Done done) {
    if (!Platform::MaySpin()) return false;
    const uint32_t history = history_.load(std::memory_order_relaxed);
    const uint32_t budget = std::min(kMaxRounds, history / 4 + kMinRounds);
    uint32_t round = 0;
    while (round < budget) {
      Platform::Relax();
      if (done()) {
        history_.store(history - history / 8 + round,
                       std::memory_order_relaxed);
        return true;
      }
      ++round;
    }
    // It did not help: a smaller budget next time.
    history_.store(history - history / 8, std::memory_order_relaxed);
    return false;
  }

 private:
  static constexpr uint32_t kMinRounds = 10;
  static constexpr uint32_t kMaxRounds = 100;  // a few microseconds

  typename Platform::template Atomic<uint32_t> history_{0};
};

}  // namespace mp

#endif  // MP_SHM_ADAPTIVE_SPIN_H_
