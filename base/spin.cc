#include "mp/base/spin.h"

#include <sched.h>

#include <algorithm>
#include <atomic>

namespace mp {

namespace {

int CountProcessors() {
  cpu_set_t set;
  // Fails on machines with more processors than the set holds: many.
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return CPU_SETSIZE;
  return std::max(1, CPU_COUNT(&set));
}

// Not a static that is initialised once: a child forked while another thread
// did that would wait for the thread, which it does not have.
std::atomic<int> known{0};

}  // namespace

int AvailableProcessors() {
  int count = known.load(std::memory_order_relaxed);
  if (count == 0) {
    count = CountProcessors();
    known.store(count, std::memory_order_relaxed);
  }
  return count;
}

void SetAvailableProcessorsForTest(int count) {
  known.store(count, std::memory_order_relaxed);
}

}  // namespace mp
