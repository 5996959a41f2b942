// Leads a process that is already at work instruction by instruction, to where
// it is to die.
//
//   absl::StatusOr<SteppedProcess> victim = SteppedProcess::Stop(worker_pid);
//   queue.Put(1);  // what it waits for
//   while (victim->instructions() < 100) victim->Step();
//   victim->Kill();
//
// For processes that the library starts and watches itself, such as a pool's
// workers. An operation that a test can run in a child of its own is for
// mp/testing/kill_stepper.h, which does the rest as well.

#ifndef MP_TESTING_STEPPED_PROCESS_H_
#define MP_TESTING_STEPPED_PROCESS_H_

#include <sys/types.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/testing/kill_stepper.h"

namespace mp::testing {

// Belongs to the thread that made it; the process must have one thread. Never
// reaps it: that is for who started it.
class SteppedProcess {
 public:
  enum class Event {
    kStopped,  // after an instruction
    kAsleep,   // in a system call; Await() goes on from there
    kEnded,
  };

  // Stops it where it is. If it sleeps in a system call, the first step goes
  // into that again. Errors: what ptrace said; also if it has ended.
  static absl::StatusOr<SteppedProcess> Stop(pid_t pid);

  SteppedProcess(SteppedProcess&& other) noexcept;
  SteppedProcess& operator=(SteppedProcess&&) = delete;
  // Kills it.
  ~SteppedProcess();

  // Executes one instruction. kAsleep: it has been asleep in a system call for
  // `patience`, and still is.
  Event Step(absl::Duration patience = absl::Milliseconds(5));
  // After kAsleep: waits for as long again. kStopped: the call has returned.
  Event Await(absl::Duration patience = absl::Milliseconds(5));

  // SIGKILL, between two instructions, or in its sleep.
  void Kill();

  // How many instructions it has executed, and signals it has been given.
  int64_t instructions() const { return instructions_; }
  // Where it stands, also after its death.
  KillPoint point() const;

 private:
  explicit SteppedProcess(pid_t pid) : pid_(pid) {}

  bool MaySleepInNextInstruction() const;
  Event Stopped();

  pid_t pid_;  // 0: it is not ours any more
  int64_t instructions_ = 0;
  bool asleep_ = false;
  bool first_ = true;  // no step has been made
  int signal_ = 0;     // to be delivered with the next step
  uintptr_t address_ = 0;
};

}  // namespace mp::testing

#endif  // MP_TESTING_STEPPED_PROCESS_H_
