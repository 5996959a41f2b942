// The executor of a pool whose workers are threads of its own process.
//
// It behaves like the one with processes, to the text of its errors, but for
// what threads cannot do: nobody survives a task that crashes, a task that runs
// cannot be stopped, and tasks share the program's variables. Tasks travel as
// bytes here as well, so arguments and results are copies, and have the same
// limits.

#ifndef MP_POOL_THREAD_EXECUTOR_H_
#define MP_POOL_THREAD_EXECUTOR_H_

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/deadline.h"
#include "mp/pool/callback_queue.h"
#include "mp/pool/executor.h"
#include "mp/pool/executor_options.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/platform.h"
#include "mp/sync/in_place_lock.h"

namespace mp::pool_internal {

class ThreadExecutor final : public Executor {
 public:
  static absl::StatusOr<std::unique_ptr<ThreadExecutor>> Create(
      const ExecutorOptions& options);

  // Terminates and joins: waits for the tasks that run. In a forked copy it
  // does nothing: the threads are not there.
  ~ThreadExecutor() override;

  absl::StatusOr<TaskId> Submit(TaskFunction function, size_t size,
                                TaskOutput::Encoder encode,
                                std::shared_ptr<TaskSink> sink,
                                const TaskLimits& limits) override;
  bool Cancel(TaskId id, CancelMode mode) override;
  size_t max_input_size() const override { return max_input_size_; }
  bool IsOpen() const override;
  int workers() const override { return options_.processes; }
  std::vector<pid_t> pids() const override { return {}; }
  bool Wait(absl::FunctionRef<bool()> ready,
            absl::FunctionRef<bool()> doze) override;
  void Post(std::function<void()> callback) override;
  void Close() override;
  // A task that runs fails at once, and is asked to stop; what it comes to is
  // dropped.
  void Terminate() override;
  absl::Status Join(Deadline deadline) override;

 private:
  enum class State { kRunning, kClosing, kTerminated };

  struct Task {
    TaskFunction function;
    std::vector<std::byte> input;
    std::shared_ptr<TaskSink> sink;  // null: has failed; see delivery_mutex_
    TaskId id;
    TaskLimits limits;
    bool cancelled = false;                  // see mutex_
    std::atomic<uint64_t> asked_to_stop{0};  // then 1
  };
  class Output;

  ThreadExecutor(const ExecutorOptions& options, size_t max_input_size,
                 size_t max_result_size);

  absl::Status Start();
  void Work(size_t index);
  // Does as many tasks as a worker does. False if there will be no more.
  bool WorkAsOne(size_t index);
  std::shared_ptr<Task> NextTask(size_t index);
  void RunTask(Task& task);
  void AskToStop(TaskId id);
  void FailAll(absl::Status failure);
  void CallBack();
  bool IsForkedCopy() const;

  const pid_t owner_;
  const ExecutorOptions options_;
  const size_t max_input_size_;
  const size_t max_result_size_;

  // Held while a sink is called. Taken before mutex_.
  InPlaceLock delivery_mutex_;

  mutable InPlaceLock mutex_;
  State state_ = State::kRunning;
  absl::Status failure_;  // why there are no more tasks, if not OK
  TaskId last_id_ = 0;
  std::deque<std::shared_ptr<Task>> queue_;     // in the order of their ids
  std::vector<std::shared_ptr<Task>> running_;  // of each worker

  // What the gates' conditions read.
  std::atomic<size_t> queued_{0};
  std::atomic<bool> ending_{false};  // no task comes any more
  std::atomic<int> workers_left_{0};
  BasicGate<KernelPlatform> task_gate_;
  AdaptiveSpin<KernelPlatform, kSpinForPartner> task_spin_;
  BasicGate<KernelPlatform> callback_gate_;
  CallbackQueue callbacks_;

  std::mutex join_mutex_;
  std::vector<std::thread> threads_;
  std::thread callback_thread_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_THREAD_EXECUTOR_H_
