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
// message says which worker and how, and if it crashed also where: the stack of
// functions, as far as the program has their names. The task may have run in
// part, or whole; submitting it again is safe if running it twice is.
//
// For that, workers handle the signals of crashes (SIGSEGV, SIGABRT...) for
// which the program has no handler when they are started. They still die of
// them as before, with a core dump if that is wanted.
bool IsWorkerDied(const absl::Status& status);

namespace pool_internal {

// `exitcode` as Process::exitcode(): "was killed by SIGSEGV".
std::string DescribeEnd(int exitcode);
// Of a task whose worker was killed when it had run for that long.
absl::Status HardLimitError(std::string_view name, pid_t pid,
                            absl::Duration limit);
// What a worker left behind (mp/pool/last_words.h), to be added to a message;
// empty if that is.
std::string DescribeLastWords(std::string_view words);
absl::Status WorkerDiedError(std::string_view name, pid_t pid, int exitcode,
                             std::string_view last_words = {});

}  // namespace pool_internal
}  // namespace mp

#endif  // MP_POOL_WORKER_DIED_H_
