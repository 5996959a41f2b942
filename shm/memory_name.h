// MemoryName: how a program finds the shared memory of another that it is no
// fork of. Internal to shm; see mp/shm/shared_memory.h.
//
// A name is a socket in the kernel's abstract namespace, so no file holds it
// and the kernel frees it when its owner ends in whatever way. Nothing is ever
// sent: that the name is bound makes it unique, and a second socket's name
// tells where the memory is, a descriptor of the owner, which /proc opens for
// other processes of the same user.
//
// The owner is the process that claimed the name. Its forked children have no
// part in it, also while they live longer.

#ifndef MP_SHM_MEMORY_NAME_H_
#define MP_SHM_MEMORY_NAME_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"

namespace mp {

class MemoryName {
 public:
  // Bytes in a name; what cannot be shown counts up to four times.
  static constexpr size_t kMaxSize = 64;

  // Claims `name`, which nobody finds yet. Errors: AlreadyExists;
  // InvalidArgument if it is empty, too long or contains a NUL; as the system
  // call failed.
  static absl::StatusOr<MemoryName> Claim(std::string_view name);

  // Nobody's.
  MemoryName() = default;
  MemoryName(MemoryName&& other) noexcept
      : escaped_(std::move(other.escaped_)), id_(std::exchange(other.id_, 0)) {}
  MemoryName& operator=(MemoryName&&) = delete;
  ~MemoryName() { GiveUp(); }

  // From now on, Open() opens the segment behind `fd`, which must stay open as
  // long as this object lives. Its name must be SegmentName().
  absl::Status Publish(int fd);

  // False, and nothing done, if the calling process does not own the name, or
  // not any more.
  bool GiveUp();

  // What the published segment must be called (SegmentOptions::name).
  std::string SegmentName() const;

  // A descriptor of the segment published under `name` by any process of this
  // user. NotFound if there is none, PermissionDenied if it is another user's,
  // or as the system call failed.
  static absl::StatusOr<UniqueFd> Open(std::string_view name);

 private:
  MemoryName(std::string escaped, uint64_t id)
      : escaped_(std::move(escaped)), id_(id) {}

  std::string escaped_;
  uint64_t id_ = 0;  // of its sockets; 0: none
};

}  // namespace mp

#endif  // MP_SHM_MEMORY_NAME_H_
