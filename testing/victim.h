// A traced process that executes an operation and is killed somewhere in it.
// Internal to the kill stepper.

#ifndef MP_TESTING_VICTIM_H_
#define MP_TESTING_VICTIM_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "mp/testing/kill_stepper.h"

namespace mp::testing_internal {

// The address of the next instruction of a stopped process.
uintptr_t InstructionPointer(pid_t pid);

class Victim {
 public:
  enum class Event {
    kStopped,  // after one instruction, or at the breakpoint
    kAsleep,   // still in the system call
    kDone,     // the operation has completed
    kFailed,   // see error()
  };

  virtual ~Victim() = default;

  // Leads it to the beginning of the operation. False: see error().
  virtual bool Begin() = 0;
  virtual Event Step() = 0;
  virtual Event Continue() = 0;
  // After kAsleep: calls unblock() and waits for what it does then.
  virtual Event Unblock() = 0;
  // SIGKILL, at this very instruction.
  virtual void Kill() = 0;

  virtual pid_t pid() const = 0;
  // The next instruction; 0 unless it is stopped.
  uintptr_t address() const { return InstructionPointer(pid()); }
  const absl::Status& error() const { return error_; }

 protected:
  absl::Status error_;
};

// That of `steps.victim()`, which exists already. It is not reaped: that is for
// who started it.
std::unique_ptr<Victim> FindVictim(const testing::KillSteps& steps);

}  // namespace mp::testing_internal

#endif  // MP_TESTING_VICTIM_H_
