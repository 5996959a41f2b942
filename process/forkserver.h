// The forkserver: a process of this program that was started afresh, has done
// nothing but begin main(), and makes copies of itself on request.
//
// Its copies are children of the process that asks, not its own: it clones with
// CLONE_PARENT. So their exit codes are the true ones, getppid() and SIGCHLD
// are as after a fork, and what becomes of the server does not matter to them.
//
// Each process has a server of its own, which is started when it is first
// needed, ends with its process (mp/process/lifeline.h), and is replaced when
// it has died, or when what its copies would inherit is out of date: users
// and groups, environment. Standard output, standard error and the directory of
// the moment go with each request. It blocks all signals.
//
// No start is lost or done twice if the server is killed in the middle. The
// kernel stores the pid of a new child in memory shared with the server before
// the clone ends: if it is there, there is a child; if not, there is none and
// never will be.

#ifndef MP_PROCESS_FORKSERVER_H_
#define MP_PROCESS_FORKSERVER_H_

#include <sys/types.h>

#include <vector>

#include "absl/status/statusor.h"
#include "mp/base/unique_fd.h"

namespace mp::process_internal {

// A child of this process, which goes on in ServeForks(). Errors: what the
// server's system calls said; Unavailable if it died again and again. Any
// thread may call it; one at a time is served. REQUIRES: CanSpawnProgram().
absl::StatusOr<pid_t> StartByForkserver(const std::vector<int>& descriptors);

// In a process that was started as a forkserver, with the descriptors that it
// got: returns in each of its copies, with those that came with the request.
std::vector<UniqueFd> ServeForks(std::vector<UniqueFd> descriptors);

}  // namespace mp::process_internal

#endif  // MP_PROCESS_FORKSERVER_H_
