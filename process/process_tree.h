// Whole trees of processes.

#ifndef MP_PROCESS_PROCESS_TREE_H_
#define MP_PROCESS_PROCESS_TREE_H_

#include <sys/types.h>

#include "absl/status/status.h"

namespace mp::process_internal {

// SIGKILLs the process behind `pidfd`, which is `pid`, and its descendants.
// They are stopped first, until a look at all processes of the machine finds no
// other. Errors name the system call; then some may live on, stopped no more.
absl::Status KillTree(pid_t pid, int pidfd);

}  // namespace mp::process_internal

#endif  // MP_PROCESS_PROCESS_TREE_H_
