#include "mp/ipc/ring.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/shm/liveness.h"

namespace mp::ipc_internal {
namespace {

// Positions are counted in blocks modulo 2^32; half of that keeps full and
// empty apart.
constexpr size_t kMaxCapacity = (size_t{1} << 31) * kBlock;

constexpr uint32_t kNoLimit = std::numeric_limits<uint32_t>::max();

}  // namespace

absl::StatusOr<Ring> Ring::Create(const RingOptions& options) {
  if (options.capacity_bytes == 0 || options.capacity_bytes > kMaxCapacity) {
    return absl::InvalidArgumentError(
        absl::StrCat("capacity of ", options.capacity_bytes,
                     " bytes: must be from 1 to ", kMaxCapacity));
  }
  if (absl::Status status = Liveness::Join(); !status.ok()) return status;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t capacity = std::bit_ceil(std::max(options.capacity_bytes, page));
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      Segment::Create({.name = options.name,
                       .layout = kLayout,
                       .size = sizeof(Control),
                       .ring_size = capacity});
  if (!segment.ok()) return segment.status();
  auto* const control = new ((*segment)->data()) Control;
  control->max_records =
      options.max_records != 0 ? options.max_records : kNoLimit;
  return Ring({*std::move(segment)});
}

Ring::Ring(SegmentPart<kLayout> part) {
  if (part.segment == nullptr) return;
  memory_ = part.segment->ring();
  capacity_blocks_ = static_cast<uint32_t>(part.segment->ring_size() / kBlock);
  MP_CHECK(std::has_single_bit(capacity_blocks_) &&
           part.segment->size() >= sizeof(Control))
      << "a ring in a segment that holds none";
  control_ = std::shared_ptr<Control>(
      part.segment, reinterpret_cast<Control*>(part.segment->data()));
}

void Ring::Close() {
  Control& control = *control_;
  {
    const std::lock_guard hold(control.producers.lock);
    // Release: who sees the ring closed sees what was put before.
    control.closed.store(1, std::memory_order_release);
  }
  FenceBeforeNotify();
  control.not_empty.NotifyAll();
  control.not_full.NotifyAll();
}

uint32_t Ring::size() const {
  // The tail belongs to the head if the head did not move meanwhile.
  uint64_t head = control_->head.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t tail = control_->tail.load(std::memory_order_acquire);
    const uint64_t again = control_->head.load(std::memory_order_acquire);
    if (again == head) {
      return Cursor::Unpack(tail).records - Cursor::Unpack(head).records;
    }
    head = again;
  }
}

uint32_t Ring::gotten() const {
  return Cursor::Unpack(control_->head.load(std::memory_order_acquire)).records;
}

bool Ring::closed() const {
  return control_->closed.load(std::memory_order_acquire) != 0;
}

uint32_t Ring::max_records() const {
  return control_->max_records == kNoLimit ? 0 : control_->max_records;
}

}  // namespace mp::ipc_internal
