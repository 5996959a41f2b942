// The error of a task whose worker process died while it ran the task.

#ifndef MP_POOL_WORKER_DIED_H_
#define MP_POOL_WORKER_DIED_H_

#include <sys/types.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace mp {

// Whether a task failed because its worker died, by a signal or by exiting. The
// message says which worker and how. The task may have run in part, or whole;
// submitting it again is safe if running it twice is.
bool IsWorkerDied(const absl::Status& status);

namespace pool_internal {

// `exitcode` as Process::exitcode(): "was killed by SIGSEGV".
std::string DescribeEnd(int exitcode);
// Of a task whose worker was killed when it had run for that long.
absl::Status HardLimitError(std::string_view name, pid_t pid,
                            absl::Duration limit);
absl::Status WorkerDiedError(std::string_view name, pid_t pid, int exitcode);

}  // namespace pool_internal
}  // namespace mp

#endif  // MP_POOL_WORKER_DIED_H_
