#include "mp/ipc/queue.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace mp::ipc_internal {
namespace {

constexpr size_t kDefaultCapacity = size_t{1} << 20;

}  // namespace

absl::StatusOr<Ring> CreateQueueRing(QueueOptions options,
                                     std::optional<size_t> item_size) {
  if (options.maxsize > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a queue of at most ", options.maxsize, " items: the limit is ",
        std::numeric_limits<uint32_t>::max()));
  }
  if (options.capacity_bytes == 0) {
    options.capacity_bytes = options.maxsize != 0 && item_size.has_value()
                                 ? options.maxsize * RecordSize(*item_size)
                                 : kDefaultCapacity;
  }
  return Ring::Create({.name = "queue",
                       .capacity_bytes = options.capacity_bytes,
                       .max_records = static_cast<uint32_t>(options.maxsize)});
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
    case RingResult::kCorrupted:
      return absl::DataLossError("the queue's shared memory is corrupted");
    default:
      return absl::InternalError("Put");
  }
}

absl::Status GetError(RingResult result, bool nowait) {
  switch (result) {
    case RingResult::kTimedOut:
      if (nowait) return absl::UnavailableError("the queue is empty");
      return absl::DeadlineExceededError("the queue stayed empty");
    case RingResult::kClosed:
      return absl::OutOfRangeError("the queue is closed and empty");
    case RingResult::kCorrupted:
      return absl::DataLossError("the queue's shared memory is corrupted");
    default:
      return absl::InternalError("Get");
  }
}

}  // namespace mp::ipc_internal
