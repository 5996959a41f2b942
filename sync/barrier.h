// Barrier: so many processes wait for each other, again and again.
//
//   mp::Barrier barrier(3);             // before the fork
//   // in each of three processes:
//   for (...) {
//     <a part of the work>
//     if (!barrier.Wait().ok()) break;  // somebody gave up or died
//   }
//
// A Barrier is a handle: small, cheap to copy, and every copy means the same
// barrier, in this process and in the children that inherit it or get it as an
// argument. The barrier itself is 64 bytes of anonymous shared memory, or more
// if it has more than eight parties, four bytes for each; it goes when the last
// process drops its last handle. A moved-from handle may only be assigned to or
// destroyed.
//
// Who waits spins for a few microseconds, now and then for some tens of them
// (mp/shm/adaptive_spin.h), then sleeps. Who comes early for the next round
// waits until all have left the last one.
//
// A process that is stopped (SIGSTOP) in one of the few instructions that count
// the parties holds the others up, time-outs included.
//
// If a process dies inside Wait(), the barrier breaks: the others get an error,
// as a rule at once, a quarter of a second later at the latest, and so does who
// comes later, until Reset(). Somebody who dies outside is not missed before
// the others time out.
//
// Memory ordering: what a party did before it called Wait() is visible to all
// parties after they have passed. Threads: all calls are safe from any thread,
// and a thread is a party. Not for signal handlers.
//
// Differs from Python's: the death of a party breaks the barrier; a time-out
// holds also while the last round is still under way; less than one party is an
// error.

#ifndef MP_SYNC_BARRIER_H_
#define MP_SYNC_BARRIER_H_

#include <functional>
#include <memory>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/shm/handle.h"
#include "mp/sync/barrier_state.h"

namespace mp {

class Barrier {
 public:
  // For so many parties. `action` runs in the last one to come, before anybody
  // goes on. `timeout` is Wait()'s if that is called without. Aborts with a
  // message if there are less than one party, or no memory or descriptor for
  // it; Create() reports that instead (InvalidArgument, or as the system call
  // failed).
  explicit Barrier(int parties, std::function<void()> action = nullptr,
                   absl::Duration timeout = absl::InfiniteDuration());
  static absl::StatusOr<Barrier> Create(
      int parties, std::function<void()> action = nullptr,
      absl::Duration timeout = absl::InfiniteDuration());

  // Waits until all parties have called this. In which place the caller came:
  // each number from 0 to parties() - 1 once a round. Errors: Aborted if the
  // barrier is or gets broken; DeadlineExceeded if it is not open in time,
  // which breaks it. What the action throws comes out here and breaks it, too.
  absl::StatusOr<int> Wait() { return Wait(timeout_); }
  absl::StatusOr<int> Wait(absl::Duration timeout);

  // Breaks the barrier: who waits or comes gets an error, until Reset().
  void Abort() { state_->Abort(); }

  // Makes it as new. Who waits gets an error.
  void Reset() { state_->Reset(); }

  int parties() const { return static_cast<int>(state_->parties()); }
  // How many wait for it to open. A hint by the time it is returned.
  int n_waiting() const { return static_cast<int>(state_->waiting()); }
  bool broken() const { return state_->broken(); }

  // "Barrier(waiters=1/3)" or "Barrier(broken)".
  std::string ToString() const;

  // Whether both are handles of the same barrier.
  friend bool operator==(const Barrier& a, const Barrier& b) {
    return a.state_ == b.state_;
  }

 private:
  using Action = std::function<void()>;

  friend struct HandleAccess;
  Barrier(std::shared_ptr<BarrierState> state,
          std::shared_ptr<const Action> action, absl::Duration timeout);
  Barrier(std::shared_ptr<BarrierState> state, StaysBehind,
          absl::Duration timeout)
      : Barrier(std::move(state), nullptr, timeout) {}
  auto parts() const {
    return std::tuple(state_,
                      StaysBehind{action_ == nullptr ? nullptr : "an action"},
                      timeout_);
  }

  std::shared_ptr<BarrierState> state_;
  std::shared_ptr<const Action> action_;  // or null
  absl::Duration timeout_;
};

}  // namespace mp

#endif  // MP_SYNC_BARRIER_H_
