#include "mp/base/spin.h"

#include <sched.h>

#include <algorithm>

namespace mp {

int AvailableProcessors() {
  static const int count = [] {
    cpu_set_t set;
    // Fails on machines with more processors than the set holds: many.
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return CPU_SETSIZE;
    return std::max(1, CPU_COUNT(&set));
  }();
  return count;
}

}  // namespace mp
