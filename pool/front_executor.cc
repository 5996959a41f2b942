#include "mp/pool/front_executor.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "mp/pool/executor_options.h"
#include "mp/pool/worker.h"

namespace mp::pool_internal {
namespace {

// The same error, with more text.
absl::Status Append(const absl::Status& error, const std::string& text) {
  absl::Status longer(error.code(), absl::StrCat(error.message(), text));
  error.ForEachPayload(
      [&longer](absl::string_view type, const absl::Cord& payload) {
        longer.SetPayload(type, payload);
      });
  return longer;
}

}  // namespace

// ---- a task ----

// Shared by the executor, as the sink of its present attempt, by the callback
// that submits the next one, and by the front's table. It is in one of three
// states: under way, waiting for its next attempt, or ended.
class FrontExecutor::RetriedTask final
    : public TaskSink,
      public std::enable_shared_from_this<RetriedTask> {
 public:
  RetriedTask(std::shared_ptr<FrontExecutor> front, TaskId id,
              const TaskCode& code, std::vector<std::byte> input,
              std::shared_ptr<TaskSink> sink)
      : front_(std::move(front)),
        id_(id),
        code_(code),
        input_(std::move(input)),
        sink_(std::move(sink)) {}

  // The first attempt. If it fails the sink is not called.
  absl::Status Submit() {
    const std::lock_guard lock(mutex_);
    return SubmitAttempt();
  }

  bool Cancel(CancelMode mode) {
    for (;;) {
      int attempt = 0;
      std::optional<TaskId> attempt_id;
      {
        const std::lock_guard lock(mutex_);
        if (state_ == State::kEnded) return false;
        if (state_ == State::kWaiting) state_ = State::kEnded;
        if (mode != CancelMode::kUnbegun) may_retry_ = false;
        attempt = attempt_;
        attempt_id = attempt_id_;
      }
      if (!attempt_id.has_value()) {
        // No attempt is under way, so nobody else calls the sink.
        End([&] { sink_->Fail(TaskCancelledError()); });
        return true;
      }
      // Calls this as a sink: not under the lock.
      if (front_->workers_->Cancel(*attempt_id, mode)) return true;
      const std::lock_guard lock(mutex_);
      if (state_ != State::kWaiting && attempt_ == attempt) return false;
      // It died just now: once more, with what comes after.
    }
  }

  // ---- as the sink of an attempt

  void Part(std::span<const std::byte> bytes) override {
    parts_.emplace_back(bytes.begin(), bytes.end());
  }

  void Finish(std::span<const std::byte> bytes) override {
    LeaveAttempt(/*may_retry=*/false);
    End([&] {
      PassParts();
      sink_->Finish(bytes);
    });
  }

  void Fail(absl::Status error) override { Fail(std::move(error), false); }
  void WorkerDied(absl::Status error) override { Fail(std::move(error), true); }

 private:
  enum class State { kUnderWay, kWaiting, kEnded };

  void Fail(absl::Status error, bool died) {
    if (LeaveAttempt(/*may_retry=*/died) == State::kWaiting) {
      parts_.clear();
      front_->workers_->Post(
          [self = this->shared_from_this()] { self->Retry(); });
      return;
    }
    if (died) {
      error =
          Append(error, absl::StrCat(", the last of ", attempt_, " attempts"));
    }
    End([&] {
      PassParts();
      if (died) {
        sink_->WorkerDied(std::move(error));
      } else {
        sink_->Fail(std::move(error));
      }
    });
  }

  // REQUIRES: mutex_ held, so that nobody sees the attempt without its id. (An
  // executor calls no sinks in Submit, nor does it wait for who calls them.)
  absl::Status SubmitAttempt() {
    const absl::StatusOr<TaskId> id = front_->workers_->Submit(
        code_, input_.size(),
        [this](std::span<std::byte> out) {
          std::copy(input_.begin(), input_.end(), out.begin());
          return absl::OkStatus();
        },
        this->shared_from_this(), front_->limits_);
    if (!id.ok()) return id.status();
    attempt_id_ = *id;
    state_ = State::kUnderWay;
    return absl::OkStatus();
  }

  // The next attempt.
  void Retry() {
    absl::Status status;
    {
      const std::lock_guard lock(mutex_);
      if (state_ == State::kEnded) return;  // cancelled
      ++attempt_;
      try {
        status = SubmitAttempt();
      } catch (...) {
        status = ExceptionError();  // such as for want of memory
      }
      if (status.ok()) return;
      state_ = State::kEnded;
    }
    // Nobody closes the executor before its time, so it was terminated, unless
    // it says something else.
    if (status == PoolClosedError()) status = PoolTerminatedError();
    End([&] { sink_->Fail(std::move(status)); });
  }

  // Whether it waits for another one now.
  State LeaveAttempt(bool may_retry) {
    const std::lock_guard lock(mutex_);
    attempt_id_.reset();
    may_retry = may_retry && may_retry_ && attempt_ <= front_->options_.retries;
    state_ = may_retry ? State::kWaiting : State::kEnded;
    return state_;
  }

  void PassParts() {
    for (const std::vector<std::byte>& part : parts_) sink_->Part(part);
    parts_.clear();
  }

  // `call` calls the sink for the last time.
  template <class Call>
  void End(Call call) {
    call();
    sink_.reset();
    const std::shared_ptr<FrontExecutor> front = front_;
    front->Forget(id_);  // perhaps the last one who knew this
    front->retried_->End(front->workers_);
  }

  const std::shared_ptr<FrontExecutor> front_;
  const TaskId id_;
  const TaskCode code_;
  const std::vector<std::byte> input_;
  std::shared_ptr<TaskSink> sink_;
  std::vector<std::vector<std::byte>> parts_;  // of the present attempt

  InPlaceLock mutex_;
  State state_ = State::kWaiting;
  int attempt_ = 1;                   // changed by the submitter of attempts
  std::optional<TaskId> attempt_id_;  // if it is under way
  bool may_retry_ = true;             // nobody has asked it to stop
};

// ---- all such tasks of a pool ----

bool FrontExecutor::Retried::Begin(const std::shared_ptr<Executor>& workers) {
  const uint64_t before = state_.fetch_add(kTask, std::memory_order_relaxed);
  if ((before & kClosed) == 0) return true;
  End(workers);
  return false;
}

void FrontExecutor::Retried::End(const std::shared_ptr<Executor>& workers) {
  // Release: who sees that all have ended sees what they came to.
  const uint64_t before = state_.fetch_sub(kTask, std::memory_order_acq_rel);
  if (before != kClosed + kTask) return;
  // Not from here, which may be a sink.
  workers->Post([workers] { workers->Close(); });
  all_ended_.Notify();
}

bool FrontExecutor::Retried::Close() {
  return state_.fetch_or(kClosed, std::memory_order_relaxed) < kTask;
}

bool FrontExecutor::Retried::WaitForAll(Executor& workers, Deadline deadline) {
  return all_ended_.Wait(
      workers,
      [this] { return state_.load(std::memory_order_acquire) < kTask; },
      deadline);
}

// ---- the executor ----

FrontExecutor::FrontExecutor(std::shared_ptr<Executor> workers,
                             std::shared_ptr<Retried> retried,
                             TaskOptions options)
    : owner_(Liveness::Self()),
      workers_(std::move(workers)),
      retried_(std::move(retried)),
      options_(std::move(options)),
      limits_({.soft = options_.soft_timeout, .hard = options_.timeout}) {}

absl::StatusOr<TaskId> FrontExecutor::SubmitRetried(
    const TaskCode& code, size_t size, TaskOutput::Encoder encode,
    std::shared_ptr<TaskSink> sink) {
  if (options_.retries < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a task with ", options_.retries, " retries"));
  }
  if (size > max_input_size()) {
    return InputTooLargeError(size, max_input_size());
  }
  if (IsForkedCopy()) return ForkedPoolError();
  std::vector<std::byte> input(size);
  if (absl::Status encoded = encode(input); !encoded.ok()) return encoded;
  if (!retried_->Begin(workers_)) return PoolClosedError();
  std::shared_ptr<RetriedTask> task;
  TaskId id = 0;
  {
    const std::lock_guard lock(mutex_);
    id = ++last_id_;
    task = std::make_shared<RetriedTask>(shared_from_this(), id, code,
                                         std::move(input), std::move(sink));
    tasks_.emplace(id, task);
  }
  if (absl::Status status = task->Submit(); !status.ok()) {
    Forget(id);
    retried_->End(workers_);
    return status;
  }
  return id;
}

void FrontExecutor::Forget(TaskId id) {
  std::shared_ptr<RetriedTask> task;  // destroyed behind the lock
  const std::lock_guard lock(mutex_);
  const auto found = tasks_.find(id);
  if (found == tasks_.end()) return;
  task = std::move(found->second);
  tasks_.erase(found);
}

bool FrontExecutor::Cancel(TaskId id, CancelMode mode) {
  if (options_.retries == 0) return workers_->Cancel(id, mode);
  if (IsForkedCopy()) return false;
  std::shared_ptr<RetriedTask> task;
  {
    const std::lock_guard lock(mutex_);
    const auto found = tasks_.find(id);
    if (found == tasks_.end()) return false;
    task = found->second;
  }
  return task->Cancel(mode);
}

void FrontExecutor::Close() {
  if (IsForkedCopy()) return;
  if (retried_->Close()) workers_->Close();
}

absl::Status FrontExecutor::Resize(int workers) {
  if (!IsForkedCopy() && retried_->closed() && workers_->IsOpen()) {
    return PoolClosedError();
  }
  return workers_->Resize(workers);
}

absl::Status FrontExecutor::Join(Deadline deadline) {
  if (!IsForkedCopy() && retried_->closed() && !workers_->OnOwnThread()) {
    if (!retried_->WaitForAll(*workers_, deadline)) {
      return absl::DeadlineExceededError("the pool's workers have not ended");
    }
    workers_->Close();
  }
  return workers_->Join(deadline);
}

}  // namespace mp::pool_internal
