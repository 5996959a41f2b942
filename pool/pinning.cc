#include "mp/pool/pinning.h"

#include <sched.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "mp/base/errno_status.h"
#include "mp/base/spin.h"

namespace mp::pool_internal {

absl::Status CheckProcessors(std::span<const int> processors) {
  if (processors.empty()) return absl::OkStatus();
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof(usable), &usable) != 0) {
    return ErrnoStatus(errno, "sched_getaffinity");
  }
  for (const int processor : processors) {
    if (processor < 0 || processor >= CPU_SETSIZE ||
        !CPU_ISSET(processor, &usable)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "workers on processor ", processor, ", which is not one to use"));
    }
  }
  return absl::OkStatus();
}

absl::Status PinThisThread(int processor) {
  // Counted once: to spin is right if the others have more than this one.
  AvailableProcessors();
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0) {
    return ErrnoStatus(errno,
                       absl::StrCat("sched_setaffinity(", processor, ")"));
  }
  return absl::OkStatus();
}

}  // namespace mp::pool_internal
