// How the handle of a shared object gets to a process that has not inherited
// it: it is taken apart here and put together there. A handle class lets
// HandleAccess do so, and the codec (mp/ipc/codec.h) does the rest:
//
//   class Event {
//     ...
//    private:
//     friend struct HandleAccess;
//     explicit Event(std::shared_ptr<InPlaceEvent> state);
//     auto parts() const { return std::tuple(state_); }
//
// The constructor takes what parts() returns: anything that can be sent; a
// std::shared_ptr to an object in shared memory (mp/shm/slab.h), which arrives
// as one to the same object; or what is below. After an error at the receiver
// parts may be empty. A handle whose parts may contradict themselves is made of
// nothing then, and says so by `bool valid() const`, which is an error of the
// message.

#ifndef MP_SHM_HANDLE_H_
#define MP_SHM_HANDLE_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "mp/base/unique_fd.h"
#include "mp/shm/segment.h"

namespace mp {

// A part that cannot leave the process: a handle that has it cannot be sent.
struct StaysBehind {
  // For the message; null if it is not there, so the handle may go.
  const char* what = nullptr;
};

// A whole segment with that layout.
template <uint64_t kLayout>
struct SegmentPart {
  std::shared_ptr<Segment> segment;
};

// A descriptor; the receiver has its own duplicate.
struct DescriptorPart {
  std::shared_ptr<const UniqueFd> fd;
};

struct HandleAccess {
  template <class H>
  static auto Parts(const H& handle) -> decltype(handle.parts()) {
    return handle.parts();
  }
  template <class H, class... Part>
  static auto FromParts(Part&&... parts)
      -> decltype(H(std::forward<Part>(parts)...)) {
    return H(std::forward<Part>(parts)...);
  }
  template <class H>
  static auto Valid(const H& handle) -> decltype(handle.valid()) {
    return handle.valid();
  }
};

}  // namespace mp

#endif  // MP_SHM_HANDLE_H_
