// What mp::Wait() (mp/ipc/wait.h) has to know of an object to wait for it. A
// class whose objects can be waited for lets WaitAccess ask:
//
//   class Event {
//     ...
//    private:
//     friend struct WaitAccess;
//     WaitSource wait_source() const;
//
// There are two sorts of objects. Who makes one ready either notifies a gate,
// or has made a descriptor readable before.

#ifndef MP_SHM_WAIT_SOURCE_H_
#define MP_SHM_WAIT_SOURCE_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "mp/base/deadline.h"
#include "mp/shm/gate.h"
#include "mp/shm/platform.h"

namespace mp {

struct WaitSource {
  using Gate = BasicGate<KernelPlatform>;

  // For an object with a descriptor. If it is ready, the descriptor is
  // readable, or hung up. It may be readable without.
  struct Descriptor {
    int (*fd)(void* object);
    // False if it has certainly not hung up. Makes no system call as a rule.
    bool (*may_have_hung_up)(void* object);
    // The other two are null if the object is ready whenever that is readable.
    // Whether it is probably readable.
    bool (*may_be_readable)(void* object);
    // Makes it unreadable, unless the object is ready: returns whether it is.
    // May wait for others until the deadline.
    bool (*make_unreadable)(void* object, Deadline deadline);
  };

  // The same for all objects of a class. The functions get WaitSource::object.
  struct Kind {
    // Before the first look, and with a descriptor before each sleep: an error
    // if this process cannot wait for the object, or no longer. May set `mark`,
    // which ready() gets. Null if there is nothing to do.
    absl::Status (*check)(void* object, uint32_t& mark);
    // Whether it is ready: a few loads, acquire where that matters. A hang-up
    // is found out by the descriptor.
    bool (*ready)(void* object, uint32_t mark);
    // One of the two is not null.
    Gate& (*gate)(void* object);
    const Descriptor* descriptor;
  };

  std::shared_ptr<void> object;  // null for what is left of a moved handle
  const Kind* kind = nullptr;
};

struct WaitAccess {
  template <class T>
  static auto Source(const T& object) -> decltype(object.wait_source()) {
    return object.wait_source();
  }
};

}  // namespace mp

#endif  // MP_SHM_WAIT_SOURCE_H_
