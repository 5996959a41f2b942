// Kills a process at every single instruction of an operation.
//
//   KillAtEveryInstruction({
//       .prepare = [&] { queue = Queue<int>::Create(4).value(); },
//       .op = [&] { queue->Put(1); },
//       .check = [&](const KillPoint& point) {
//         EXPECT_EQ(queue->qsize(), point.completed() ? 1 : Le(1));
//       }});
//
// For instruction 1, 2, 3 … of `op`, a forked child runs it under ptrace and
// dies there by SIGKILL, exactly between two instructions; it is reaped, and
// `check` looks in the parent at what the survivors see. This is a proof for
// one operation against a quiet world; for many at once see mp/testing/storm.h.
//
// The process may also be one that exists already and that somebody else
// watches, such as a worker of a pool, which sleeps until it is given something
// to do: see KillSteps::victim.

#ifndef MP_TESTING_KILL_STEPPER_H_
#define MP_TESTING_KILL_STEPPER_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace mp::testing {

// Where a child died.
struct KillPoint {
  enum class State {
    kRunning,    // between two instructions
    kAsleep,     // in a system call that had put it to sleep
    kCompleted,  // after the operation
  };

  // How many instructions of the operation it had executed; the last one, if it
  // was asleep, is the system call, which had not returned.
  int64_t instruction = 0;
  State state = State::kRunning;
  // The instruction it would have executed next; 0 if it was asleep.
  uintptr_t address = 0;

  bool completed() const { return state == State::kCompleted; }
  bool asleep() const { return state == State::kAsleep; }
  // Also names the function and the place in the binary.
  std::string ToString() const;
};

// What to do: for each death, in this order, and at the end once more for a
// child that completes the operation. Before all that, a first run without
// check() counts the instructions. `setup` and `op` run in the child, the
// others in the parent.
struct KillSteps {
  // Makes or repairs the object. May be empty.
  std::function<void()> prepare = nullptr;
  // At full speed, before the operation. May be empty.
  std::function<void()> setup = nullptr;
  // The operation. It must do the same each time it runs from
  // the same state, and must not end the process.
  std::function<void()> op = nullptr;
  // Called while `op` sleeps in a system call, and makes it go on: opens the
  // lock, sends the message. May do nothing if `op` goes on by itself. Called
  // for each sleep. If empty, the run ends with the first sleep: `op` is killed
  // there and never completes.
  std::function<void()> unblock = nullptr;
  // After the death. A GoogleTest failure ends the run and is explained.
  std::function<void(const KillPoint&)> check = nullptr;

  // For a process that is found, not forked. After prepare(), in the parent:
  // the process, which has one thread, waits in a system call and is stopped
  // there. `op` is then called in the parent and gives it the operation, for
  // example submits a task; there is no `setup`. The operation begins where
  // that call returns, or one instruction later if there is none, and has
  // completed when the process has ended, or sleeps, and done() is true. After
  // its death it is left to who started it. SIGKILL is all it gets of the
  // stepper: it is for check() to find out that it has died.
  std::function<pid_t()> victim = nullptr;
  std::function<bool()> done = nullptr;

  // Which instructions: the first one, and then every `stride`th. More than one
  // is for instrumented builds only, where an operation has too many.
  int64_t first = 1;
  int64_t stride = 1;
  // An operation with more instructions than this hangs.
  int64_t max_instructions = 1'000'000;
  // A system call that has slept for this long is taken to sleep until it is
  // unblocked. Shorter sleeps count as running.
  absl::Duration asleep_after = absl::Milliseconds(5);
  // If it still sleeps this long after unblock(), it was stranded.
  absl::Duration stranded_after = absl::Seconds(10);
};

struct KillReport {
  // Of the whole operation, counted in the first run.
  int64_t instructions = 0;
  // Children killed before the operation had completed.
  int64_t deaths = 0;
  // System calls of the operation that slept. It is killed in each of them
  // asleep, and again when the call has returned.
  int64_t sleeps = 0;
  // False if it sleeps and there is no unblock().
  bool completed = false;
  // Deaths at another instruction than a run alone had there: the operation
  // does not do the same each time, for example because malloc() takes another
  // way when the heap of this process has changed. They count, but some
  // instructions may be missed.
  int64_t diverged = 0;
};

// Runs it all and fails the current test if `check` failed, if the operation
// crashed, ended the process, failed an assertion, hung or was stranded, or if
// this process may not trace its children. Call it from the main thread. Costs
// about a millisecond for each instruction.
//
// On AArch64 the way to an instruction is stepped too, so the cost grows with
// the square of their number; and a load-exclusive loop never ends under
// ptrace, so build for processors with atomic instructions (LSE).
//
// Not for ThreadSanitizer: its run-time library may hold a lock at the
// instruction at which a child dies or is forked.
KillReport KillAtEveryInstruction(const KillSteps& steps);

}  // namespace mp::testing

namespace mp::testing_internal {

// The same without failing the test.
absl::StatusOr<testing::KillReport> RunKillSteps(
    const testing::KillSteps& steps);

}  // namespace mp::testing_internal

#endif  // MP_TESTING_KILL_STEPPER_H_
