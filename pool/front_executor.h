// The executor that the calls of a pool know. It stands in front of the one
// that runs the tasks, and does what no executor need do by itself: it gives
// tasks the options of the call, and submits them again if their worker died.
// Internal to the pool.
//
//   calls ──► FrontExecutor ──► the workers' executor
//                   ▲                    │
//                   └── results, deaths ─┘
//
// Retries. Such a task has a sink of its own in front of the caller's. It keeps
// the task's input, and the parts of the result until the attempt has ended:
// those of an attempt that died are dropped, as the next one puts out its own.
// A sink must not call the executor, so the next attempt is submitted by a
// posted callback. In between the task is nowhere but there, which is where
// Cancel() finds it. One that was asked to stop has no further attempt.
//
// Closing. While there are tasks that may have to be submitted again, Close()
// refuses new ones here and leaves the workers' executor open. Whatever ends
// the last of them closes it. Terminate() ends them all with Cancelled, also
// those between two attempts, and then their retries are refused.

#ifndef MP_POOL_FRONT_EXECUTOR_H_
#define MP_POOL_FRONT_EXECUTOR_H_

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/deadline.h"
#include "mp/pool/completion.h"
#include "mp/pool/executor.h"
#include "mp/pool/executor_options.h"
#include "mp/pool/pool_stats.h"
#include "mp/pool/task_control.h"
#include "mp/pool/task_options.h"
#include "mp/shm/gate.h"
#include "mp/shm/liveness.h"
#include "mp/shm/platform.h"
#include "mp/sync/in_place_lock.h"

namespace mp::pool_internal {

class FrontExecutor final : public Executor,
                            public std::enable_shared_from_this<FrontExecutor> {
 public:
  // Of a new pool, without options.
  explicit FrontExecutor(std::shared_ptr<Executor> workers)
      : FrontExecutor(std::move(workers), std::make_shared<Retried>(), {}) {}

  // Of the same pool. All of them close, terminate and join the pool.
  std::shared_ptr<FrontExecutor> With(TaskOptions options) const {
    // Not make_shared: the constructor is private.
    return std::shared_ptr<FrontExecutor>(
        new FrontExecutor(workers_, retried_, std::move(options)));
  }
  const TaskOptions& options() const { return options_; }

  // The limits are those of the options.
  absl::StatusOr<TaskId> Submit(const TaskCode& code, size_t size,
                                TaskOutput::Encoder encode,
                                std::shared_ptr<TaskSink> sink,
                                const TaskLimits& = {}) override {
    // A pool that has failed or was terminated says so.
    if (ABSL_PREDICT_FALSE(retried_->closed()) && workers_->IsOpen()) {
      return PoolClosedError();
    }
    if (ABSL_PREDICT_FALSE(options_.retries != 0)) {
      return SubmitRetried(code, size, encode, std::move(sink));
    }
    return workers_->Submit(code, size, encode, std::move(sink), limits_);
  }
  bool Cancel(TaskId id, CancelMode mode = CancelMode::kUnbegun) override;
  size_t max_input_size() const override { return workers_->max_input_size(); }
  bool IsOpen() const override {
    return !retried_->closed() && workers_->IsOpen();
  }
  int workers() const override { return workers_->workers(); }
  absl::Status Resize(int workers) override;
  PoolStats Stats() const override { return workers_->Stats(); }
  std::vector<pid_t> pids() const override { return workers_->pids(); }
  bool Wait(absl::FunctionRef<bool()> ready, BasicGate<KernelPlatform>& gate,
            Deadline deadline) override {
    return workers_->Wait(ready, gate, deadline);
  }
  void Post(std::function<void()> callback) override {
    workers_->Post(std::move(callback));
  }
  bool OnOwnThread() const override { return workers_->OnOwnThread(); }
  void Close() override;
  void Terminate() override { workers_->Terminate(); }
  absl::Status Join(Deadline deadline) override;

 private:
  // A pool's tasks that may have to be submitted again, and whether it has been
  // closed.
  class Retried {
   public:
    bool closed() const {
      return (state_.load(std::memory_order_relaxed) & kClosed) != 0;
    }
    // Before such a task is submitted. False if the pool is closed.
    bool Begin(const std::shared_ptr<Executor>& workers);
    // When it has ended, from wherever sinks are called.
    void End(const std::shared_ptr<Executor>& workers);
    // True if there are none.
    bool Close();
    // Until there are none, after Close().
    bool WaitForAll(Executor& workers, Deadline deadline);

   private:
    static constexpr uint64_t kClosed = 1;
    static constexpr uint64_t kTask = 2;

    std::atomic<uint64_t> state_{0};  // kClosed + kTask * number of tasks
    Completion all_ended_;
  };

  class RetriedTask;

  FrontExecutor(std::shared_ptr<Executor> workers,
                std::shared_ptr<Retried> retried, TaskOptions options);

  bool IsForkedCopy() const { return Liveness::Self() != owner_; }
  absl::StatusOr<TaskId> SubmitRetried(const TaskCode& code, size_t size,
                                       TaskOutput::Encoder encode,
                                       std::shared_ptr<TaskSink> sink);
  void Forget(TaskId id);

  const Token owner_;
  const std::shared_ptr<Executor> workers_;
  const std::shared_ptr<Retried> retried_;
  const TaskOptions options_;
  const TaskLimits limits_;

  // Of tasks that are retried: all ids that this gives, or none of them. (The
  // others have those of the workers' executor.)
  InPlaceLock mutex_;
  TaskId last_id_ = 0;
  std::unordered_map<TaskId, std::shared_ptr<RetriedTask>> tasks_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_FRONT_EXECUTOR_H_
