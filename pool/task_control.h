// A task that runs can be asked to stop, and can be stopped without being
// asked.
//
//   absl::StatusOr<Summary> Analyse(std::vector<Page> pages) {
//     Summary summary;
//     for (const Page& page : pages) {
//       if (mp::TaskStopRequested()) return absl::CancelledError("stopped");
//       summary.Add(page);
//     }
//     return summary;
//   }
//
//   mp::AsyncResult<Summary> summary = pool.ApplyAsync(Analyse, pages);
//   summary.Cancel(mp::CancelMode::kAskToStop);  // Analyse() decides
//   summary.Cancel(mp::CancelMode::kKill);       // its worker is killed
//
// A task is asked by AsyncResult::Cancel(), or when it has run for longer than
// its soft limit. What it does then is up to it: its outcome is what it
// returns.
//
// (Python has neither. A task there runs to its end, or all of the pool's
// workers are killed.)

#ifndef MP_POOL_TASK_CONTROL_H_
#define MP_POOL_TASK_CONTROL_H_

#include <atomic>
#include <cstdint>
#include <limits>

namespace mp {

// What AsyncResult::Cancel() does with a task that has begun. One that has not
// begun never will, in each mode.
enum class CancelMode {
  // Nothing: it goes on.
  kUnbegun,
  // TaskStopRequested() is true in it from now on.
  kAskToStop,
  // Its worker is killed, whatever it does, and another takes its place. The
  // outcome is Cancelled at once. No other task is harmed: if the task ends at
  // this very moment, its worker is let go on, or is killed before it has taken
  // the next one. Tasks in threads cannot be killed, and are asked to stop.
  kKill,
};

// Whether the task that calls this should come to an end, because it was asked
// to or has run for longer than its soft limit. In a worker process, each
// thread of the task may ask; in a pool of threads, the one that runs it. False
// outside of tasks. Costs a few loads, and a look at the clock if the task has
// a soft limit.
bool TaskStopRequested();

namespace pool_internal {

// How the task that runs learns of it. Its worker sets the fields, and other
// threads of the task read them.
struct TaskStop {
  // The task is asked to stop when `*asked` is `task`.
  const std::atomic<uint64_t>* asked = nullptr;
  std::atomic<uint64_t> task{0};  // 0: none
  // CLOCK_MONOTONIC.
  std::atomic<int64_t> soft_deadline_nanos{std::numeric_limits<int64_t>::max()};
};

// That of the calling thread's tasks, or with null no more its own.
void SetThreadTaskStop(const TaskStop* stop);
// That of all threads of the process that have none of their own.
void SetProcessTaskStop(const TaskStop* stop);

}  // namespace pool_internal
}  // namespace mp

#endif  // MP_POOL_TASK_CONTROL_H_
