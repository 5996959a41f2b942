// Pool: worker processes, or threads, that run functions for you.
//
//   int Square(int x) { return x * x; }
//
//   mp::Pool pool({.processes = 4});
//   absl::StatusOr<int> nine = pool.Apply(Square, 3);
//   mp::AsyncResult<int> later = pool.ApplyAsync(Square, 4);
//   absl::StatusOr<std::vector<int>> all = pool.Map(Square, numbers);
//   all = pool.With({.retries = 2, .progress = "Squares"}).Map(Square,
//   numbers);
//
// The calls are in mp/pool/pool_calls.h, what With() can ask for is in
// mp/pool/task_options.h.
//
// A task is a function or a lambda without captures, with arguments and a
// result that the codec takes (mp/ipc/codec.h); it cannot reach the caller's
// variables. It may throw: the caller gets a status with type, message and
// process. What a type of its own throws while it is encoded or decoded in a
// worker, or decoded by the pool, is the task's error as well; while an
// argument is encoded, it is thrown to the caller. Arguments are encoded, and
// results are encoded and decoded, under locks of the pool: codecs of your own
// types must be quick, as others wait meanwhile, and neither call the pool, nor
// wait for its tasks, nor call exit().
//
// Handles of shared objects (mp::Lock, mp::Queue, mp::Event...) and descriptors
// do not travel with a task, neither as arguments nor as results: that is an
// InvalidArgument error. They go as arguments of the initializer, which hands
// them to all tasks (mp/pool/initializer.h), or in global variables that are
// set before the pool is made.
//
// Workers are started when the pool is made, and again when one has died; by
// default they are forked, and see the program's memory as it was then. They
// are daemonic: they get SIGKILL when the pool is terminated, and when its
// process has ended in whatever way. They may not start processes. SIGINT does
// nothing to them: Ctrl-C is for the program, which ends, and they with it, or
// does something better about its tasks. All of them take tasks from one queue
// in shared memory, so no task waits behind a slow one while a worker is idle.
//
// The pool may start a worker at any time, from a thread of its own, and that
// flushes the standard streams (mp/process/process.h): a program that has
// called std::ios::sync_with_stdio(false) must not use std::cout beside a pool.
//
// Start methods. PoolOptions::start_method has workers started afresh (spawn,
// forkserver), for programs that have threads when they make a pool, or much
// memory. They have nothing of this process's memory but the arguments of the
// initializer. Functions are found by where they are in the program or in its
// shared libraries; one in a library that was loaded after the worker had been
// started is the task's error, FailedPrecondition. If workers end before they
// are ready, as when main() ends before mp::Init(), the pool fails as with an
// initializer that does so (mp/pool/initializer.h).
//
// If a worker dies while it runs a task, that task fails with an error for
// which IsWorkerDied() is true, and another worker takes its place. Nothing
// else is affected: each task has exactly one outcome, whenever and however
// often workers are killed. Workers that die although they have nothing to do
// are replaced at once ten times in a row, then after a delay that grows to a
// tenth of a second.
//
// Results are delivered by a thread of the pool, or by whichever thread waits
// for one. All calls are safe from any thread of the process that made the
// pool; in others they fail. Fork: do not use a pool that a child has
// inherited.
//
// Differs from Python's: a dead worker fails its own task only and is reported;
// what cannot be sent does not compile; the destructor terminates and waits.

#ifndef MP_POOL_POOL_H_
#define MP_POOL_POOL_H_

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/pool/async_result.h"
#include "mp/pool/executor.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool_calls.h"
#include "mp/pool/pool_stats.h"
#include "mp/pool/result_stream.h"
#include "mp/pool/task_options.h"
#include "mp/pool/worker_died.h"
#include "mp/process/start_method.h"

namespace mp {

enum class PoolWorkers {
  kProcesses,
  // Threads of the calling process: for debugging, and for tasks that do not
  // need a process. Calls, results, callbacks and errors are the same, and so
  // are the limits of the memory; arguments and results are copies. But a task
  // that crashes or exits takes the program with it, tasks share the program's
  // variables, and one that runs can only be asked to stop, also by
  // Terminate(): Join() and the destructor wait for it. There are no pids.
  kThreads,
};

struct PoolOptions {
  // Workers; 0 for as many as there are processors to use (CpuCount()).
  int processes = 0;
  // Shared memory for tasks that wait and for results that have not been
  // delivered. It bounds the arguments and the result of one call, not their
  // number: tasks that find no room wait in the caller's memory. It is reserved
  // in pieces, when it is needed first. If the machine has none then, the call
  // fails with ResourceExhausted, and tasks that wait and results are kept
  // until there is.
  size_t task_capacity_bytes = size_t{1} << 20;
  size_t result_capacity_bytes = size_t{1} << 20;
  // What each worker does first, and keeps: see mp/pool/initializer.h.
  Initializer initializer = {};
  // Tasks after which a worker leaves and another takes its place, so that what
  // it has gathered is given back; a chunk of a map is one task. 0: it stays.
  int maxtasksperchild = 0;
  PoolWorkers workers = PoolWorkers::kProcesses;
  // Workers leave as well when they have this much more in memory (resident)
  // after a task than when they were ready for the first. To stop a task that
  // takes too much, call setrlimit(2) in the initializer. 0: they stay; threads
  // always do.
  size_t max_growth_bytes = 0;
  // Workers that have slept so long for want of a task leave. They come back
  // when tasks wait that no worker is free for, which is when those tasks wait
  // for processes to start. Threads stay.
  absl::Duration idle_timeout = absl::InfiniteDuration();
  // Not empty: the first worker runs on the first of these processors only, the
  // second on the second, and so on, and then on the first again. Numbers as of
  // sched_setaffinity(2).
  std::vector<int> processors = {};
  // Not empty: a file that is written anew, with what each worker did and when,
  // for ui.perfetto.dev: see docs/timeline.md. Costs the pool's process a line
  // of text for each task; a chunk of a map is one task.
  std::string timeline = {};
  // How workers that are processes are started: see mp/process/process.h. By
  // default as GetStartMethod() says when the pool is made.
  std::optional<StartMethod> start_method = std::nullopt;
};

// Apply(), Map(), Imap() and so on: see mp/pool/pool_calls.h.
class Pool : public PoolCalls {
 public:
  // As Create(), but aborts with the message if that fails.
  explicit Pool(const PoolOptions& options = {});
  // Errors: InvalidArgument for a negative number of processes or tasks, a
  // processor that this thread may not use, or a time that is not positive;
  // what the system said if a worker cannot be started, or there is no memory
  // or descriptor, with nothing left behind. FailedPrecondition in a daemonic
  // process. An initializer that fails is reported by the tasks.
  static absl::StatusOr<Pool> Create(const PoolOptions& options = {});

  Pool(Pool&&) noexcept = default;
  Pool& operator=(Pool&& other) noexcept;
  // Terminates the pool and waits until the workers have ended; in a callback
  // of this pool, or a task in one of its threads, that is left to a thread
  // made for it. Call Close() and Join() first to have what was submitted done.
  ~Pool();

  // No more tasks. Those submitted are still done, then the workers end.
  void Close();
  // Kills the workers at once, whatever they do. Tasks that have not ended fail
  // with Cancelled.
  void Terminate();
  // After Close() or Terminate(): waits until the workers have ended, and all
  // results are delivered and callbacks have returned. FailedPrecondition
  // before, and in callbacks; DeadlineExceeded if that takes longer than
  // `timeout`.
  absl::Status Join(absl::Duration timeout = absl::InfiniteDuration());

  // How many workers there are to be.
  int processes() const;
  // So many from now on. Returns at once: a thread of the pool starts those
  // that are missing; those too many leave, the idle ones at once and others
  // after their task. No task is lost. Errors: InvalidArgument for fewer than
  // one; FailedPrecondition after Close() or Terminate(), or what the pool has
  // failed with. For threads also what the system said if one cannot be
  // started; processes are tried again, with a message on standard error.
  absl::Status Resize(int processes);
  // What the workers are doing, and how many tasks wait. Reads shared memory,
  // and does not disturb them. Empty in a forked copy.
  PoolStats Stats() const;
  // The process ids of the workers that are alive at the moment.
  std::vector<pid_t> pids() const;

 private:
  explicit Pool(std::shared_ptr<pool_internal::Executor> executor);
};

}  // namespace mp

#endif  // MP_POOL_POOL_H_
