// The seam between the front of a pool (calls, results, iterators, callbacks)
// and what runs its tasks. The front knows its workers only through an
// Executor, so that others than the shared-memory one can stand behind the same
// calls.
//
// A task is a function of bytes to bytes: the front encodes and decodes.

#ifndef MP_POOL_EXECUTOR_H_
#define MP_POOL_EXECUTOR_H_

#include <sys/types.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/code_place.h"
#include "mp/base/deadline.h"
#include "mp/pool/pool_stats.h"
#include "mp/pool/task_control.h"
#include "mp/shm/gate.h"
#include "mp/shm/platform.h"

namespace mp::pool_internal {

// Where a task, running in a worker, puts its results.
class TaskOutput {
 public:
  using Encoder = absl::FunctionRef<absl::Status(std::span<std::byte>)>;

  // A part of the result: any number of them, in order, before Finish.
  virtual void Part(size_t size, Encoder encode) = 0;
  // The last part. A task ends with exactly one Finish or Fail.
  virtual void Finish(size_t size, Encoder encode) = 0;
  virtual void Fail(const absl::Status& error) = 0;

  // The function that has this address in the pool's process, which is another
  // program's if workers are not forked from it. The error is the task's.
  virtual absl::StatusOr<CodeAddress> FindCode(uint64_t address) {
    return reinterpret_cast<CodeAddress>(address);
  }

  // More bytes than this in one part fail the task, with this error.
  virtual size_t max_size() const = 0;
  virtual absl::Status TooLarge(size_t size) const = 0;

 protected:
  ~TaskOutput() = default;
};

// Runs in a worker. What it throws fails the task.
using TaskFunction = void (*)(std::span<const std::byte> input,
                              TaskOutput& output);

// What a task runs. The rest is for people who read a timeline: the address of
// the function that it calls, or 0; and the type of what it calls, as
// std::type_info::name().
struct TaskCode {
  TaskCode() = default;
  // Not explicit: who has nothing to say to people passes a function, or a
  // lambda without captures.
  template <std::convertible_to<TaskFunction> F>
  TaskCode(F run_it) : run(run_it) {}  // NOLINT
  TaskCode(TaskFunction run_it, uint64_t called, const char* type_called)
      : run(run_it), function(called), type(type_called) {}

  TaskFunction run = nullptr;
  uint64_t function = 0;
  const char* type = nullptr;
};

// Where the front receives what a task came to. Called by one thread at a time;
// must not call the executor (but Post), nor throw.
class TaskSink {
 public:
  virtual ~TaskSink() = default;
  virtual void Part(std::span<const std::byte> bytes) = 0;
  // Each task ends with exactly one of these.
  virtual void Finish(std::span<const std::byte> bytes) = 0;
  virtual void Fail(absl::Status error) = 0;
  // Instead of Fail, which it is unless overridden: its worker died.
  virtual void WorkerDied(absl::Status error) { Fail(std::move(error)); }
};

// A task that was submitted, for its executor. No two have the same.
using TaskId = uint64_t;

// How long a task may run, from its beginning in the worker until its result
// is there for the pool. More than zero.
struct TaskLimits {
  // After that TaskStopRequested() is true (mp/pool/task_control.h).
  absl::Duration soft = absl::InfiniteDuration();
  // After that its worker is killed, whatever it does, and the task fails with
  // DeadlineExceeded. A thread is not killed; there it is a soft limit, too.
  absl::Duration hard = absl::InfiniteDuration();
};

// Safe to call from several threads.
class Executor {
 public:
  virtual ~Executor() = default;

  // Queues a task, whose input of `size` bytes `encode` writes; does not wait.
  // Unless it fails, `sink` gets every part of the result and one end, even if
  // the worker dies. Errors: FailedPrecondition after Close or Terminate,
  // InvalidArgument if the input is larger than max_input_size() or a limit is
  // not more than zero, and what `encode` returned.
  virtual absl::StatusOr<TaskId> Submit(const TaskCode& code, size_t size,
                                        TaskOutput::Encoder encode,
                                        std::shared_ptr<TaskSink> sink,
                                        const TaskLimits& limits = {}) = 0;
  // If true, the task has not begun and never will, and its sink has been
  // called with Cancelled. False: it has begun, or ended; or it is about to
  // begin, so that nobody can say, and may still end with Cancelled unbegun.
  // What becomes of one that has begun, `mode` says: true also if its worker is
  // killed, and its sink has been called with Cancelled. Not for sinks.
  virtual bool Cancel(TaskId id, CancelMode mode = CancelMode::kUnbegun) = 0;
  virtual size_t max_input_size() const = 0;
  // False if Submit() fails, and will do so, whatever the task.
  virtual bool IsOpen() const = 0;
  // How many there are to be, at the moment.
  virtual int workers() const = 0;
  // From now on. Does not wait. Errors: InvalidArgument for fewer than one,
  // FailedPrecondition after Close or Terminate.
  virtual absl::Status Resize(int workers) = 0;
  virtual PoolStats Stats() const = 0;
  // Of the workers that are processes of this machine and alive at the moment.
  virtual std::vector<pid_t> pids() const = 0;

  // For a thread that waits until `ready()`, which its sink makes true, and
  // then notifies all at `gate`. May deliver results itself, also those that
  // others wait for. Returns what `ready()` said last: false after the
  // deadline, and at once in a forked copy, as nothing is delivered there.
  //
  // Results are delivered without it, too, but if no thread waits that may take
  // a millisecond longer, so that many can be delivered at once; as may this,
  // while so many tasks wait that no worker does.
  virtual bool Wait(absl::FunctionRef<bool()> ready,
                    BasicGate<KernelPlatform>& gate, Deadline deadline) = 0;

  // Runs `callback` soon, on the executor's own thread, one at a time. Not in a
  // forked copy.
  virtual void Post(std::function<void()> callback) = 0;

  // Whether the calling thread is one that Join() waits for, so that Join()
  // fails with FailedPrecondition.
  virtual bool OnOwnThread() const { return false; }

  // No more tasks; the workers end when they have done those that are queued.
  virtual void Close() = 0;
  // Kills the workers. Tasks that have not ended fail with Cancelled.
  virtual void Terminate() = 0;
  // After Close or Terminate: waits until all workers have ended and all sinks
  // and callbacks have been called.
  virtual absl::Status Join(Deadline deadline) = 0;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_EXECUTOR_H_
