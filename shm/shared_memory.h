// SharedMemory: a block of bytes that processes share.
//
//   mp::SharedMemory block(1'000'000);  // before the fork
//   std::span<std::byte> bytes = block.bytes();
//
//   struct Header {                     // or a structure of your own,
//     mp::InPlaceLock lock;             // free when zero-filled
//     int64_t frames;
//   };
//   Header& header = block.At<Header>(0);
//
// A SharedMemory is a handle: small, cheap to copy, and every copy means the
// same block, in this process and in the children that inherit it or get it as
// an argument. The block is zero-filled at first and aligned to 64 bytes. All
// of it is reserved when it is created, so a full machine is an error there and
// never SIGBUS later. It has no name, and goes when the last process drops its
// last handle, or ends in whatever way. A moved-from handle may only be
// assigned to or destroyed.
//
// Named blocks are for programs that are no forks of each other:
//
//   auto ours = mp::SharedMemory::CreateNamed("frames", 1'000'000);
//   auto theirs = mp::SharedMemory::OpenNamed("frames");  // in another program
//
// The process that creates a named block owns the name: the name is free again
// when that process ends, kill -9 included, drops its last handle, or calls
// Unlink(), and children that were being forked at that moment have begun to
// run. The memory stays as long as somebody has it. Who opens a block never
// owns it. Programs must run as the same user, see each other in /proc, and be
// in one network namespace; the descriptors of an owner that is not dumpable
// (PR_SET_DUMPABLE) are not for us to see. Locks and the other primitives of mp
// do not work in named blocks between unrelated programs, which cannot know of
// each other's death (mp/shm/liveness.h): there is std::atomic.
//
// Threads: all calls are safe from any thread. What the bytes mean, and who may
// write when, is yours to decide.
//
// Differs from Python's: blocks need no name; no tracker, no names that stay
// behind; size() is what was asked for, also for who opens it; no close(): drop
// the handle.

#ifndef MP_SHM_SHARED_MEMORY_H_
#define MP_SHM_SHARED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/shm/handle.h"
#include "mp/shm/segment.h"
#include "mp/shm/slab.h"

namespace mp {

class SharedMemory {
 public:
  // `size` bytes, more than zero. Aborts with a message if there is no memory
  // or descriptor for them; Create() reports that instead (ResourceExhausted,
  // or InvalidArgument for an impossible size).
  explicit SharedMemory(size_t size);
  static absl::StatusOr<SharedMemory> Create(size_t size);

  // The same with a name, of up to 64 bytes of any kind but NUL; what cannot be
  // shown counts up to four times. AlreadyExists if somebody has it.
  static absl::StatusOr<SharedMemory> CreateNamed(std::string_view name,
                                                  size_t size);
  // The block of that name. NotFound if there is none; PermissionDenied if the
  // owner's descriptors are not for us to see.
  static absl::StatusOr<SharedMemory> OpenNamed(std::string_view name);

  size_t size() const { return bytes().size(); }
  std::span<std::byte> bytes() const;

  // The T that begins at `offset`: zeros, or what was written there. Aborts
  // with a message if it is not within the block, or not aligned.
  template <class T>
  T& At(size_t offset) const {
    shm_internal::RequireSafe<T>();
    const std::span<std::byte> all = bytes();
    MP_CHECK(offset <= all.size() && sizeof(T) <= all.size() - offset &&
             offset % alignof(T) == 0)
        << "an object of " << sizeof(T) << " bytes, aligned to " << alignof(T)
        << ", at " << offset << " of a block of " << all.size();
    return *reinterpret_cast<T*>(all.data() + offset);
  }

  // Empty if it has none.
  const std::string& name() const;
  // Gives the name up; the block stays with who has it. FailedPrecondition if
  // this process does not own it, or not any more.
  absl::Status Unlink();

  // Whether both are handles of the same block, got by copying one of them.
  friend bool operator==(const SharedMemory& a, const SharedMemory& b) {
    return a.block_ == b.block_;
  }

 private:
  struct Block;

  static constexpr uint64_t kLayout = LayoutFingerprint("block", 1, 64);

  explicit SharedMemory(std::shared_ptr<Block> block);
  static absl::StatusOr<SharedMemory> FromSegment(
      std::shared_ptr<Segment> segment, std::string name);

  friend struct HandleAccess;
  std::tuple<SegmentPart<kLayout>, std::string> parts() const;
  SharedMemory(SegmentPart<kLayout> part, std::string name);
  bool valid() const { return block_ != nullptr; }

  std::shared_ptr<Block> block_;
};

}  // namespace mp

#endif  // MP_SHM_SHARED_MEMORY_H_
