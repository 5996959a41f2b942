// This program, to be started once more: what it was called with, and how a
// new process of it is told what it is for.

#ifndef MP_PROCESS_PROGRAM_H_
#define MP_PROCESS_PROGRAM_H_

#include <signal.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"

namespace mp::process_internal {

// What a process of this program is for, if not for main().
enum class Role { kChild, kForkserver };

// At the start of main(): keeps the arguments.
void RememberArguments(int argc, char** argv);

// FailedPrecondition, which names mp::Init, before RememberArguments().
absl::Status CanSpawnProgram();

// Starts this program afresh, as vfork and exec do, whatever has become of its
// file. The new process has the arguments and the environment of this one; the
// standard streams, but the null device for input; `descriptors`, under other
// numbers; and no other descriptors. Signals are as `mask` says, and those that
// have a handler here are as by default.
//
// REQUIRES: CanSpawnProgram(). Errors: posix_spawn, or what it did.
absl::StatusOr<pid_t> SpawnProgram(Role role,
                                   const std::vector<int>& descriptors,
                                   const sigset_t& mask);

// In the new process, once, at the start of main(): what it is for. Nothing in
// a process that was started in another way.
struct Assignment {
  Role role = Role::kChild;
  std::vector<UniqueFd> descriptors;  // close-on-exec
};
std::optional<Assignment> TakeAssignment();

}  // namespace mp::process_internal

#endif  // MP_PROCESS_PROGRAM_H_
