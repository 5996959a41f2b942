#include "mp/ipc/queue.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace mp::ipc_internal {
namespace {

// Fits into a processor's cache and is reserved quickly. More comes when
// needed.
constexpr size_t kFirstBytes = size_t{64} << 10;

}  // namespace

absl::StatusOr<Ring> CreateQueueRing(const QueueOptions& options) {
  if (options.maxsize > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a queue of at most ", options.maxsize, " items: the limit is ",
        std::numeric_limits<uint32_t>::max()));
  }
  RingOptions ring = {.name = "queue",
                      .capacity_bytes = options.capacity_bytes,
                      .max_records = static_cast<uint32_t>(options.maxsize)};
  if (options.capacity_bytes == 0) {
    ring.capacity_bytes = kFirstBytes;
    ring.growth = RingGrowth::kUnlimited;
  }
  return Ring::Create(ring);
}

absl::Status PutError(RingResult result, size_t size, const Ring& ring,
                      bool nowait) {
  switch (result) {
    case RingResult::kTimedOut:
      if (nowait) return absl::ResourceExhaustedError("the queue is full");
      return absl::DeadlineExceededError("the queue stayed full");
    case RingResult::kClosed:
      return absl::FailedPreconditionError("Put on a closed queue");
    case RingResult::kTooLarge:
      return absl::InvalidArgumentError(absl::StrCat(
          "an item of ", size, " encoded bytes: the queue's memory takes ",
          ring.max_record_size(),
          " at most; raise QueueOptions::capacity_bytes"));
    default:
      return Ring::ErrorOf(result, "queue");
  }
}

absl::Status GetError(RingResult result, bool nowait) {
  switch (result) {
    case RingResult::kTimedOut:
      if (nowait) return absl::UnavailableError("the queue is empty");
      return absl::DeadlineExceededError("the queue stayed empty");
    case RingResult::kClosed:
      return absl::OutOfRangeError("the queue is closed and empty");
    default:
      return Ring::ErrorOf(result, "queue");
  }
}

}  // namespace mp::ipc_internal
