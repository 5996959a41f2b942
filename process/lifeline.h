// The lifeline: what ends a process when its parent has died, SIGKILLed too.
//
// The parent holds the only write end of a pipe. A child has a read end that it
// has told the kernel to answer with SIGKILL when the write end goes. So no
// thread watches, nothing that the program does with signals matters, and it is
// the end of the process that counts, not that of the thread which started the
// child (as it is for PR_SET_PDEATHSIG).
//
// A program that closes descriptors which are not its own cuts the lifelines.

#ifndef MP_PROCESS_LIFELINE_H_
#define MP_PROCESS_LIFELINE_H_

#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"

namespace mp::process_internal {

// In the parent: a lifeline for one child, to be inherited by it or sent to it.
// Errors name the system call; it needs /proc.
absl::StatusOr<UniqueFd> NewLifeline();

// In the child, which from now on ends when the process that called
// NewLifeline() has, for as long as the descriptor is open. If that process has
// ended already, does not return. Async-signal-safe.
void HoldLifeline(int lifeline);

}  // namespace mp::process_internal

#endif  // MP_PROCESS_LIFELINE_H_
