#include "mp/pool/thread_executor.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/errno_status.h"
#include "mp/pool/initializer.h"
#include "mp/pool/task_control.h"
#include "mp/pool/worker.h"
#include "mp/shm/liveness.h"

namespace mp::pool_internal {
namespace {

// The largest message of a process pool with that much memory, whose head takes
// `head` bytes: see ipc_internal::Ring.
absl::StatusOr<size_t> MaxMessage(size_t capacity, size_t head) {
  constexpr size_t kMaxCapacity = size_t{1} << 34;
  if (capacity == 0 || capacity > kMaxCapacity) {
    return absl::InvalidArgumentError(absl::StrCat(
        "capacity of ", capacity, " bytes: must be from 1 to ", kMaxCapacity));
  }
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return std::bit_ceil(std::max(capacity, page)) - sizeof(uint64_t) - head;
}

std::string NextName() {
  static std::atomic<int> count{0};
  return absl::StrCat("PoolWorker-", ++count);
}

}  // namespace

class ThreadExecutor::Output final : public TaskOutput {
 public:
  Output(ThreadExecutor& executor, Task& task)
      : executor_(executor), task_(task) {}

  void Part(size_t size, Encoder encode) override { Put(size, encode, false); }
  void Finish(size_t size, Encoder encode) override { Put(size, encode, true); }

  void Fail(const absl::Status& error) override {
    if (ended_) return;
    ended_ = true;
    const std::lock_guard lock(executor_.delivery_mutex_);
    const auto sink = std::exchange(task_.sink, nullptr);
    if (sink != nullptr) sink->Fail(DeepCopy(error));
  }

  size_t max_size() const override { return executor_.max_result_size_; }
  absl::Status TooLarge(size_t size) const override {
    return ResultTooLargeError(size, max_size());
  }
  bool ended() const { return ended_; }

 private:
  void Put(size_t size, Encoder encode, bool last) {
    MP_CHECK(!ended_) << "a task that ends twice";
    if (size > max_size()) return Fail(TooLarge(size));
    std::vector<std::byte> bytes(size);
    if (absl::Status encoded = encode(bytes); !encoded.ok()) {
      return Fail(encoded);
    }
    const std::lock_guard lock(executor_.delivery_mutex_);
    if (!last) {
      if (task_.sink != nullptr) task_.sink->Part(bytes);
      return;
    }
    ended_ = true;
    const auto sink = std::exchange(task_.sink, nullptr);
    if (sink != nullptr) sink->Finish(bytes);
  }

  ThreadExecutor& executor_;
  Task& task_;
  bool ended_ = false;
};

absl::StatusOr<std::unique_ptr<ThreadExecutor>> ThreadExecutor::Create(
    const ExecutorOptions& options) {
  const auto max_input = MaxMessage(options.task_capacity_bytes, 32);
  if (!max_input.ok()) return max_input.status();
  const auto max_result = MaxMessage(options.result_capacity_bytes, 8);
  if (!max_result.ok()) return max_result.status();
  // For the locks and gates.
  if (absl::Status status = Liveness::Join(); !status.ok()) return status;
  // Not make_unique: the constructor is private.
  std::unique_ptr<ThreadExecutor> executor(
      new ThreadExecutor(options, *max_input, *max_result));
  if (absl::Status status = executor->Start(); !status.ok()) return status;
  return executor;
}

ThreadExecutor::ThreadExecutor(const ExecutorOptions& options,
                               size_t max_input_size, size_t max_result_size)
    : owner_(getpid()),
      options_(options),
      max_input_size_(max_input_size),
      max_result_size_(max_result_size),
      running_(static_cast<size_t>(options.processes)) {}

ThreadExecutor::~ThreadExecutor() {
  if (IsForkedCopy()) {
    new std::vector<std::thread>(std::move(threads_));
    new std::thread(std::move(callback_thread_));
    return;
  }
  Terminate();
  Join(Deadline::Infinite()).IgnoreError();
}

bool ThreadExecutor::IsForkedCopy() const { return getpid() != owner_; }

// On failure the destructor ends what has been started.
absl::Status ThreadExecutor::Start() {
  try {
    callback_thread_ = std::thread([this] { CallBack(); });
    for (size_t i = 0; i < running_.size(); ++i) {
      workers_left_.fetch_add(1);
      absl::Cleanup not_started = [this] { workers_left_.fetch_sub(1); };
      threads_.emplace_back([this, i] { Work(i); });
      std::move(not_started).Cancel();
    }
  } catch (const std::system_error& error) {
    if (!callback_thread_.joinable()) callbacks_.End();
    return ErrnoStatus(error.code().value(), "pthread_create");
  }
  return absl::OkStatus();
}

absl::StatusOr<TaskId> ThreadExecutor::Submit(TaskFunction function,
                                              size_t size,
                                              TaskOutput::Encoder encode,
                                              std::shared_ptr<TaskSink> sink,
                                              const TaskLimits& limits) {
  if (size > max_input_size_) return InputTooLargeError(size, max_input_size_);
  if (absl::Status status = CheckLimits(limits); !status.ok()) return status;
  if (IsForkedCopy()) return ForkedPoolError();
  TaskId id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return DeepCopy(failure_);
    if (state_ != State::kRunning) return PoolClosedError();
    auto task = std::make_shared<Task>();
    task->function = function;
    task->input.resize(size);
    // Under the lock, as in the other executor: tasks start in this order.
    if (absl::Status encoded = encode(task->input); !encoded.ok()) {
      return encoded;
    }
    task->sink = std::move(sink);
    task->limits = limits;
    task->id = id = ++last_id_;
    queue_.push_back(std::move(task));
    queued_.store(queue_.size(), std::memory_order_release);
  }
  FenceBeforeNotify();
  task_gate_.Notify();
  return id;
}

bool ThreadExecutor::Cancel(TaskId id, CancelMode mode) {
  if (IsForkedCopy()) return false;
  const std::lock_guard delivery(delivery_mutex_);
  std::shared_ptr<TaskSink> sink;
  {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::lower_bound(queue_.begin(), queue_.end(), id,
                         [](const std::shared_ptr<Task>& task, TaskId sought) {
                           return task->id < sought;
                         });
    if (found == queue_.end() || (*found)->id != id || (*found)->cancelled) {
      if (mode != CancelMode::kUnbegun) AskToStop(id);
      return false;
    }
    (*found)->cancelled = true;  // who comes to it, drops it
    sink = std::exchange((*found)->sink, nullptr);
  }
  sink->Fail(TaskCancelledError());
  return true;
}

// If it runs. REQUIRES: mutex_ held.
void ThreadExecutor::AskToStop(TaskId id) {
  for (const std::shared_ptr<Task>& task : running_) {
    if (task == nullptr || task->id != id) continue;
    task->asked_to_stop.store(1, std::memory_order_relaxed);
  }
}

bool ThreadExecutor::IsOpen() const {
  if (IsForkedCopy()) return false;
  const std::lock_guard lock(mutex_);
  return state_ == State::kRunning;
}

// ---- a worker's thread ----

void ThreadExecutor::Work(size_t index) {
  while (WorkAsOne(index)) {
  }
  workers_left_.fetch_sub(1, std::memory_order_release);
  FenceBeforeNotify();
  callback_gate_.NotifyAll();
}

bool ThreadExecutor::WorkAsOne(size_t index) {
  SetWorkerName(NextName());
  const absl::Cleanup destroy_object = [] { CurrentWorkerObject() = {}; };
  if (options_.initializer) {
    absl::StatusOr<WorkerObject> object = options_.initializer.Run();
    if (!object.ok()) {
      FailAll(InitializerError(object.status().code(),
                               std::string(object.status().message())));
      return false;
    }
    CurrentWorkerObject() = *std::move(object);
  }
  for (int tasks = 0;
       options_.maxtasksperchild == 0 || tasks < options_.maxtasksperchild;
       ++tasks) {
    const std::shared_ptr<Task> task = NextTask(index);
    if (task == nullptr) return false;
    RunTask(*task);
    const std::lock_guard lock(mutex_);
    running_[index] = nullptr;
  }
  // The next one is needed if there is, or may be, something to do.
  return !ending_.load(std::memory_order_acquire) ||
         queued_.load(std::memory_order_acquire) > 0;
}

std::shared_ptr<ThreadExecutor::Task> ThreadExecutor::NextTask(size_t index) {
  const auto ready = [this] {
    return queued_.load(std::memory_order_acquire) > 0 ||
           ending_.load(std::memory_order_acquire);
  };
  for (;;) {
    task_gate_.Wait(task_spin_, ready, Deadline::Infinite());
    std::shared_ptr<Task> task;
    bool more = false;
    {
      const std::lock_guard lock(mutex_);
      while (!queue_.empty() && queue_.front()->cancelled) queue_.pop_front();
      queued_.store(queue_.size(), std::memory_order_release);
      if (!queue_.empty()) {
        task = std::move(queue_.front());
        queue_.pop_front();
        queued_.store(queue_.size(), std::memory_order_release);
        running_[index] = task;
      }
      more = !queue_.empty();
    }
    if (more) task_gate_.Notify();  // the chain: see mp/shm/gate.h
    if (task != nullptr) return task;
    if (ending_.load(std::memory_order_acquire) &&
        queued_.load(std::memory_order_acquire) == 0) {
      return nullptr;
    }
  }
}

void ThreadExecutor::RunTask(Task& task) {
  Output output(*this, task);
  TaskStop stop;
  stop.asked = &task.asked_to_stop;
  stop.task = 1;
  const absl::Duration limit = std::min(task.limits.soft, task.limits.hard);
  if (limit != absl::InfiniteDuration()) {
    // If that is beyond the range of the clock, it never comes.
    stop.soft_deadline_nanos =
        absl::ToInt64Nanoseconds(absl::Nanoseconds(MonotonicNanos()) + limit);
  }
  SetThreadTaskStop(&stop);
  const absl::Cleanup ended = [] { SetThreadTaskStop(nullptr); };
  try {
    task.function(task.input, output);
  } catch (...) {
    output.Fail(ExceptionError());
  }
  MP_CHECK(output.ended()) << "a task without an end";
}

// ---- the end ----

void ThreadExecutor::Close() {
  if (IsForkedCopy()) return;
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kRunning) return;
    state_ = State::kClosing;
    ending_.store(true, std::memory_order_release);
  }
  FenceBeforeNotify();
  task_gate_.NotifyAll();
  callback_gate_.NotifyAll();
}

void ThreadExecutor::Terminate() {
  if (IsForkedCopy()) return;
  FailAll(absl::OkStatus());
}

// With a failure, later tasks have it as well.
void ThreadExecutor::FailAll(absl::Status failure) {
  const absl::Status error =
      failure.ok() ? PoolTerminatedError() : DeepCopy(failure);
  {
    const std::lock_guard delivery(delivery_mutex_);
    std::vector<std::shared_ptr<Task>> tasks;
    {
      const std::lock_guard lock(mutex_);
      if (state_ == State::kTerminated) return;
      state_ = State::kTerminated;
      failure_ = std::move(failure);
      tasks.assign(queue_.begin(), queue_.end());
      queue_.clear();
      queued_.store(0, std::memory_order_release);
      ending_.store(true, std::memory_order_release);
      for (const std::shared_ptr<Task>& task : running_) {
        if (task == nullptr) continue;
        task->asked_to_stop.store(1, std::memory_order_relaxed);
        tasks.push_back(task);
      }
    }
    for (const std::shared_ptr<Task>& task : tasks) {
      const auto sink = std::exchange(task->sink, nullptr);
      if (sink != nullptr) sink->Fail(DeepCopy(error));
    }
  }
  FenceBeforeNotify();
  task_gate_.NotifyAll();
  callback_gate_.NotifyAll();
}

absl::Status ThreadExecutor::Join(Deadline deadline) {
  if (IsForkedCopy()) {
    return absl::FailedPreconditionError(
        "this pool belongs to another process");
  }
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kRunning) {
      return absl::FailedPreconditionError(
          "Join of a pool that is neither closed nor terminated");
    }
  }
  if (absl::Status ended = callbacks_.WaitForEnd(deadline); !ended.ok()) {
    return ended;
  }
  // They have nothing more to do.
  const std::lock_guard lock(join_mutex_);
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  if (callback_thread_.joinable()) callback_thread_.join();
  return absl::OkStatus();
}

// ---- callbacks ----

bool ThreadExecutor::Wait(absl::FunctionRef<bool()> ready,
                          absl::FunctionRef<bool()> doze) {
  return ready() || (!IsForkedCopy() && doze());
}

void ThreadExecutor::Post(std::function<void()> callback) {
  if (IsForkedCopy()) return;
  callbacks_.Post(std::move(callback), [this] {
    FenceBeforeNotify();
    callback_gate_.NotifyAll();
  });
}

void ThreadExecutor::CallBack() {
  const auto all_left = [this] {
    return ending_.load(std::memory_order_acquire) &&
           workers_left_.load(std::memory_order_acquire) == 0;
  };
  do {
    callback_gate_.Sleep([&] { return callbacks_.HasAny() || all_left(); },
                         Deadline::Infinite());
    callbacks_.RunAll();
  } while (!all_left());
  callbacks_.End();
}

}  // namespace mp::pool_internal
