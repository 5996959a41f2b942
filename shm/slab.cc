#include "mp/shm/slab.h"

#include <algorithm>
#include <limits>
#include <mutex>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/base/fork_handlers.h"
#include "mp/shm/liveness.h"

namespace mp::shm_internal {
namespace {

constexpr size_t kFirstSlab = size_t{16} << 10;
constexpr size_t kLargestSlab = size_t{1} << 20;
// Larger objects get a segment of their own: they would waste the rest of a
// slab that small ones could still use.
constexpr size_t kLargestInSlab = kLargestSlab / 4;

// The slab that this process carves from at present.
class Allocator {
 public:
  static Allocator& Get() {
    static auto* const allocator = new Allocator;  // outlives every thread
    return *allocator;
  }

  absl::StatusOr<std::shared_ptr<std::byte>> Allocate(size_t size) {
    size = std::max<size_t>(size, 1);  // also nothing has an address of its own
    if (size > kLargestInSlab) {
      absl::StatusOr<std::shared_ptr<Segment>> own = NewSlab(size);
      if (!own.ok()) return own.status();
      std::byte* const object = (*own)->data();
      return std::shared_ptr<std::byte>(*std::move(own), object);
    }
    const size_t rounded =
        (size + kSlabAlignment - 1) / kSlabAlignment * kSlabAlignment;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (slab_ == nullptr || slab_->size() - used_ < rounded) {
      absl::StatusOr<std::shared_ptr<Segment>> slab =
          NewSlab(std::max(next_size_, rounded));
      if (!slab.ok()) return slab.status();
      slab_ = *std::move(slab);
      used_ = 0;
      next_size_ = std::min(2 * next_size_, kLargestSlab);
    }
    std::byte* const object = slab_->data() + used_;
    used_ += rounded;
    return std::shared_ptr<std::byte>(slab_, object);
  }

 private:
  Allocator() {
    // Parent and child must not carve the same bytes.
    AddForkHandlers({.before = [] { Get().mutex_.lock(); },
                     .in_parent = [] { Get().mutex_.unlock(); },
                     .in_child =
                         [] {
                           Get().slab_.reset();
                           Get().next_size_ = kFirstSlab;
                           Get().mutex_.unlock();
                         }});
  }

  static absl::StatusOr<std::shared_ptr<Segment>> NewSlab(size_t size) {
    return Segment::Create(
        {.name = "slab", .layout = kSlabLayout, .size = size});
  }

  std::mutex mutex_;
  std::shared_ptr<Segment> slab_;
  size_t used_ = 0;
  size_t next_size_ = kFirstSlab;
};

// Made before main(), while no other thread can fork: a child forked while the
// static in Get() is initialised would wait for that for ever.
[[maybe_unused]] const Allocator& made_before_main = Allocator::Get();

}  // namespace

absl::StatusOr<std::shared_ptr<std::byte>> AllocateShared(size_t size) {
  if (absl::Status status = Liveness::Join(); !status.ok()) return status;
  return Allocator::Get().Allocate(size);
}

absl::StatusOr<std::shared_ptr<std::byte>> AllocateShared(size_t header,
                                                          size_t count,
                                                          size_t size) {
  // Segments have a limit of their own, far below.
  if (count > (std::numeric_limits<size_t>::max() / 2 - header) / size) {
    return absl::InvalidArgumentError(
        absl::StrCat("a shared array of ", count, " times ", size, " bytes"));
  }
  return AllocateShared(header + count * size);
}

}  // namespace mp::shm_internal
