// TaskOptions: what the calls of a pool ask for beside the work itself.
//
//   pool.With({.retries = 2}).Map(Resize, pictures);
//   pool.With({.timeout = absl::Seconds(10)}).Apply(Solve, puzzle);
//
//   mp::PoolCalls hashing = pool.With({.retries = 1, .progress = "Hashing"});
//   for (auto& hash : hashing.Imap(HashFile, files)) ...
//
// They are for each task by itself. A chunk of a map is one task.

#ifndef MP_POOL_TASK_OPTIONS_H_
#define MP_POOL_TASK_OPTIONS_H_

#include <string>

#include "absl/time/time.h"

namespace mp {

struct TaskOptions {
  // How often a task is run again if its worker dies (IsWorkerDied()), so that
  // it is run once more than this at most. The caller sees the last attempt
  // only: its result, or its error, whose message then has the number of
  // attempts. What the dead have put out does not come twice, but whatever else
  // they did may be done again, in part or whole: retry what may be repeated.
  //
  // What the function returns or throws is its result, and is not retried; nor
  // is a task whose worker was killed because of a time limit, nor one that was
  // cancelled, asked to stop, or terminated. (Cancel() takes a task back before
  // any of its attempts.) Close() and Join() wait for retries as for other
  // tasks. Until the task has ended, its encoded arguments stay in the caller's
  // memory, and parts of a large result gather there.
  //
  // Threads do not die: in a pool of them this does nothing. A negative number
  // fails the tasks with InvalidArgument.
  int retries = 0;

  // How long a task may run, from its beginning in the worker until its result
  // is there for the pool; each attempt anew. Then its worker is killed,
  // whatever it does, another takes its place, and the task fails with
  // DeadlineExceeded. Threads cannot be killed: in a pool of them the task is
  // asked to stop, as below.
  absl::Duration timeout = absl::InfiniteDuration();
  // After that time TaskStopRequested() is true in the task, which decides what
  // it does then (mp/pool/task_control.h).
  //
  // Limits that are not more than zero fail the tasks with InvalidArgument.
  absl::Duration soft_timeout = absl::InfiniteDuration();

  // Not empty: Map(), Starmap(), Imap() and ImapUnordered() show, on a line of
  // standard error that begins with this text, how many items have been done,
  // of how many if that is known, how fast, and how long the rest will take:
  //
  //   Hashing:  45% [#########...........] 450/1000, 83/s, 0:07 left
  //
  // Only if standard error is a terminal, otherwise nothing is written. The
  // line is drawn again up to ten times a second, as wide as the terminal is
  // at the moment. When all is done, or an exception ends it, or a stream is at
  // its end or dropped, the last state stays, with the time that was taken, and
  // the cursor goes to the next line. Of several at a time in a program the
  // first is shown alone. The other calls, for which nobody waits, show
  // nothing.
  std::string progress = {};
};

}  // namespace mp

#endif  // MP_POOL_TASK_OPTIONS_H_
