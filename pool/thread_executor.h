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
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
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
#include "mp/pool/pool_stats.h"
#include "mp/pool/timeline.h"
#include "mp/pool/worker_meter.h"
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

  absl::StatusOr<TaskId> Submit(const TaskCode& code, size_t size,
                                TaskOutput::Encoder encode,
                                std::shared_ptr<TaskSink> sink,
                                const TaskLimits& limits) override;
  bool Cancel(TaskId id, CancelMode mode) override;
  size_t max_input_size() const override { return max_input_size_; }
  bool IsOpen() const override;
  int workers() const override;
  absl::Status Resize(int workers) override;
  PoolStats Stats() const override;
  std::vector<pid_t> pids() const override { return {}; }
  bool Wait(absl::FunctionRef<bool()> ready, BasicGate<KernelPlatform>& gate,
            Deadline deadline) override;
  void Post(std::function<void()> callback) override;
  bool OnOwnThread() const override;
  void Close() override;
  // A task that runs fails at once, and is asked to stop; what it comes to is
  // dropped.
  void Terminate() override;
  absl::Status Join(Deadline deadline) override;

 private:
  enum class State { kRunning, kClosing, kTerminated };

  struct Task {
    TaskCode code;
    int64_t submitted_nanos = 0;  // if there is a timeline
    std::vector<std::byte> input;
    std::shared_ptr<TaskSink> sink;  // null: has failed; see delivery_mutex_
    TaskId id;
    TaskLimits limits;
    bool cancelled = false;                  // see mutex_
    std::atomic<uint64_t> asked_to_stop{0};  // then 1
  };
  class Output;

  struct Worker {
    size_t place = 0;  // no two have the same
    std::string name;
    std::shared_ptr<Task> running;
    int64_t tasks = 0;
    int64_t restarts = 0;
    bool has_left = false;  // there is nothing left but to join it
    WorkerMeter meter;
    std::thread thread;
  };

  ThreadExecutor(const ExecutorOptions& options, size_t max_input_size,
                 size_t max_result_size);

  absl::Status Start();
  absl::Status AddWorker();
  void Work(Worker& worker);
  // Does as many tasks as a worker does. False if there will be no more.
  bool WorkAsOne(Worker& worker);
  std::shared_ptr<Task> NextTask(Worker& worker);
  void RunTask(const Worker& worker, Task& task);
  void AskToStop(TaskId id);
  void FailAll(absl::Status failure);
  void CallBack();
  bool IsForkedCopy() const;

  const pid_t owner_;
  const ExecutorOptions options_;
  const size_t max_input_size_;
  const size_t max_result_size_;
  std::unique_ptr<Timeline> timeline_;  // or null

  // Held while a sink is called. Taken before mutex_.
  InPlaceLock delivery_mutex_;

  mutable InPlaceLock mutex_;
  State state_ = State::kRunning;
  absl::Status failure_;  // why there are no more tasks, if not OK
  TaskId last_id_ = 0;
  std::deque<std::shared_ptr<Task>> queue_;  // in the order of their ids
  // `wanted_` of them stay, `surplus_` are to leave, the others have decided
  // to.
  std::list<Worker> workers_;
  int wanted_ = 0;

  // What the gates' conditions read.
  std::atomic<size_t> queued_{0};
  std::atomic<bool> ending_{false};  // no task comes any more
  std::atomic<int> workers_left_{0};
  std::atomic<int> surplus_{0};
  BasicGate<KernelPlatform> task_gate_;
  AdaptiveSpin<KernelPlatform, kSpinForPartner> task_spin_;
  BasicGate<KernelPlatform> callback_gate_;
  CallbackQueue callbacks_;

  std::mutex join_mutex_;  // of who adds or joins workers; taken first
  std::thread callback_thread_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_THREAD_EXECUTOR_H_
