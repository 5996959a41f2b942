// Which processor a worker runs on. Internal to the executors.

#ifndef MP_POOL_PINNING_H_
#define MP_POOL_PINNING_H_

#include <span>

#include "absl/status/status.h"

namespace mp::pool_internal {

// InvalidArgument, with its number, if one is none that the calling thread may
// use.
absl::Status CheckProcessors(std::span<const int> processors);

// The calling thread runs on that one only, and so do the threads and processes
// that it makes from now on. Errors: sched_setaffinity.
absl::Status PinThisThread(int processor);

}  // namespace mp::pool_internal

#endif  // MP_POOL_PINNING_H_
