// Event: a flag that processes wait for.
//
//   mp::Event ready;                      // before the fork
//   mp::Process worker([ready]() mutable {
//     ready.Wait();
//     ...
//   });
//   MP_CHECK_OK(worker.Start());
//   ready.Set();
//
// An Event is a handle: small, cheap to copy, and every copy means the same
// event, in this process and in the children that inherit it or get it as an
// argument. The event itself is 64 bytes of anonymous shared memory that goes
// when the last process drops its last handle. A moved-from handle may only be
// assigned to or destroyed.
//
// Setting, clearing and asking never block and, if nobody sleeps, make no
// system call. A waiter spins for a few microseconds, now and then for some
// tens of them (mp/shm/adaptive_spin.h), then sleeps.
//
// If a process dies: one that waits leaves no trace; one that sets the event
// has set it or not. If it was killed in between that and waking the others,
// they wake up by themselves within a quarter of a second.
//
// Memory ordering: what process X did before it set the event is visible to
// process Y after it has seen the event set. Threads: all calls are safe from
// any thread. Signal handlers may call all but Wait().
//
// Differs from Python's: who waits when the event is set goes on and is told
// so, even if the event is cleared at once; a waiter that was killed does not
// block who sets the event.

#ifndef MP_SYNC_EVENT_H_
#define MP_SYNC_EVENT_H_

#include <memory>
#include <string>
#include <tuple>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/deadline.h"
#include "mp/shm/handle.h"
#include "mp/shm/wait_source.h"
#include "mp/sync/in_place_event.h"

namespace mp {

class Event {
 public:
  // A new event that is not set. Aborts with a message if there is no memory or
  // descriptor for it; Create() reports that instead.
  Event();
  static absl::StatusOr<Event> Create();

  bool IsSet() const { return state_->IsSet(); }

  // Lets everybody go on who waits, and who will wait until Clear().
  void Set() { state_->Set(); }
  void Clear() { state_->Clear(); }

  // Waits until the event is set; true if it is, or has been while this waited.
  // False after `timeout`; zero or less looks once.
  bool Wait(absl::Duration timeout = absl::InfiniteDuration()) {
    // The clock is read only if there is something to wait for.
    return state_->IsSet() || state_->WaitUntil(Deadline::After(timeout));
  }

  // "Event(set)" or "Event(unset)".
  std::string ToString() const;

  // Whether both are handles of the same event.
  friend bool operator==(const Event& a, const Event& b) {
    return a.state_ == b.state_;
  }

 private:
  friend struct HandleAccess;
  friend struct WaitAccess;
  explicit Event(std::shared_ptr<InPlaceEvent> state);
  auto parts() const { return std::tuple(state_); }
  WaitSource wait_source() const;

  std::shared_ptr<InPlaceEvent> state_;
};

}  // namespace mp

#endif  // MP_SYNC_EVENT_H_
