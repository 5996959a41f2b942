// Wait: waits for any of several things, and tells all that are ready.
//
//   mp::Queue<Result> results;
//   mp::Process worker(...);
//   ...
//   absl::StatusOr<std::vector<size_t>> ready =
//       mp::Wait({results, worker.sentinel()}, absl::Seconds(10));
//   MP_CHECK_OK(ready);
//   for (const size_t i : *ready) {
//     if (i == 0) Handle(results.GetNowait());
//     if (i == 1) std::cerr << "the worker has ended\n";
//   }
//
// What can be waited for, in any mixture, and when it is ready:
//
//   Connection<T>            Recv would not wait: a message, or the end of the
//                            file
//   Queue<T>, JoinableQueue<T>, SimpleQueue<T>
//                            Get would not wait: an item, or it is closed
//   ZeroCopyQueue<T>         Borrow would not wait, likewise
//   Event                    it is set, or was for a moment while this waited
//   int                      a descriptor that poll() finds readable, hung up
//                            or in error: a socket, a pipe, Process::sentinel()
//
// Nothing is taken, so somebody else may be quicker than the caller with what
// was found: use GetNowait() and timeouts of zero where others get, too.
//
// One thing or a thousand: all are looked at each time. To wait for the same
// things many times, keep a std::vector<Waitable>. The same thing may be there
// twice.
//
// Blocking: spins for a few microseconds if something in shared memory may
// become ready (mp/shm/adaptive_spin.h), then sleeps: with connections and
// descriptors in poll(), with up to 128 queues and events on all of them at
// once. Only a mixture of both, or more queues and events than that, takes
// other threads, one for each 127 queues and events, which are gone when Wait
// returns; that costs some tens of microseconds each time it sleeps. If there
// is no room for those or for their one descriptor, or the kernel is older than
// 5.16, queues and events are looked at every ten milliseconds instead. Signals
// do not shorten a wait; the threads block them.
//
// If a process dies, at whatever instruction: who waits leaves nothing behind.
// A wake-up that it had got reaches the next one within a quarter of a second,
// as does that of a process that dies between making something ready and waking
// the others. The end of a file, and of a process by its sentinel, are noticed
// at once.
//
// A sender that is stopped (SIGSTOP) in the middle of a Send on one of the
// connections delays what becomes ready meanwhile, and the timeout, by some ten
// milliseconds. A connection that another thread of this process closes is an
// error within a quarter of a second. Until then the other end does not see the
// end of the file.
//
// Memory ordering: what process X did before it set an event is visible to
// process Y after Wait found that set. For the others see Recv and Get.
//
// Errors, by code:
//   InvalidArgument     a descriptor is negative or not open; a handle is
//                       empty, as it was moved from; nothing to wait for, and
//                       no timeout
//   FailedPrecondition  a connection was closed by this process, or is the end
//                       of a one-way pipe that cannot receive
//   others              what poll() said
// The message names the place in the list. Nothing is said of the others then.
//
// Threads: any number may wait for the same things. Fork: a child may wait for
// what it inherits. Not for signal handlers.
//
// Differs from Python's connection.wait: it waits for queues and events as
// well; it returns places in the list, in ascending order.

#ifndef MP_IPC_WAIT_H_
#define MP_IPC_WAIT_H_

#include <cstddef>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/shm/wait_source.h"

namespace mp {

namespace ipc_internal {

class Waiter;

template <class T>
concept HasWaitSource = requires(const T& object) {
  WaitAccess::Source(object);
};

}  // namespace ipc_internal

// Something to wait for. Keeps the object alive, but not a descriptor.
class Waitable {
 public:
  Waitable(int fd) : fd_(fd) {}  // NOLINT: made implicitly in Wait()'s list
  template <ipc_internal::HasWaitSource T>
  Waitable(const T& object)  // NOLINT: likewise
      : source_(WaitAccess::Source(object)) {}

 private:
  friend class ipc_internal::Waiter;

  WaitSource source_;  // no kind: a descriptor
  int fd_ = -1;
};

// The places of all that are ready, ascending, as soon as there is one; empty
// after `timeout`. Zero or less looks once.
absl::StatusOr<std::vector<size_t>> Wait(
    std::span<const Waitable> objects,
    absl::Duration timeout = absl::InfiniteDuration());
inline absl::StatusOr<std::vector<size_t>> Wait(
    std::initializer_list<Waitable> objects,
    absl::Duration timeout = absl::InfiniteDuration()) {
  return Wait(std::span(objects.begin(), objects.size()), timeout);
}

}  // namespace mp

#endif  // MP_IPC_WAIT_H_
