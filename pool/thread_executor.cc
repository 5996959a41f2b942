#include "mp/pool/thread_executor.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <iterator>
#include <list>
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
#include "mp/pool/pinning.h"
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

// Whose worker the calling thread is.
thread_local const ThreadExecutor* working_for = nullptr;

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
    failed_ = true;
    const std::lock_guard lock(executor_.delivery_mutex_);
    const auto sink = std::exchange(task_.sink, nullptr);
    if (sink != nullptr) sink->Fail(DeepCopy(error));
  }

  size_t max_size() const override { return executor_.max_result_size_; }
  absl::Status TooLarge(size_t size) const override {
    return ResultTooLargeError(size, max_size());
  }
  bool ended() const { return ended_; }
  bool failed() const { return failed_; }

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
  bool failed_ = false;
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
  if (!options.timeline.empty()) {
    auto timeline = Timeline::Create(options.timeline);
    if (!timeline.ok()) {
      executor->callbacks_.End();  // there is no thread to say so
      return timeline.status();
    }
    executor->timeline_ = *std::move(timeline);
  }
  if (absl::Status status = executor->Start(); !status.ok()) return status;
  return executor;
}

ThreadExecutor::ThreadExecutor(const ExecutorOptions& options,
                               size_t max_input_size, size_t max_result_size)
    : owner_(getpid()),
      options_(options),
      max_input_size_(max_input_size),
      max_result_size_(max_result_size) {}

ThreadExecutor::~ThreadExecutor() {
  if (IsForkedCopy()) {
    new std::list<Worker>(std::move(workers_));
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
  } catch (const std::system_error& error) {
    callbacks_.End();
    return ErrnoStatus(error.code().value(), "pthread_create");
  }
  return Resize(options_.processes);
}

absl::Status ThreadExecutor::Resize(int workers) {
  if (workers < 1) return NoWorkersError(workers);
  if (IsForkedCopy()) return ForkedPoolError();
  const std::lock_guard join_lock(join_mutex_);
  int missing = 0;
  std::list<Worker> gone;
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return DeepCopy(failure_);
    if (state_ != State::kRunning) return PoolClosedError();
    const int staying = wanted_ + surplus_.load(std::memory_order_relaxed);
    missing = std::max(0, workers - staying);
    wanted_ = workers - missing;
    surplus_.store(staying - wanted_, std::memory_order_release);
    for (auto worker = workers_.begin(); worker != workers_.end();) {
      const auto next = std::next(worker);
      if (worker->has_left) gone.splice(gone.end(), workers_, worker);
      worker = next;
    }
  }
  FenceBeforeNotify();
  task_gate_.NotifyAll();
  for (Worker& worker : gone) worker.thread.join();
  for (; missing > 0; --missing) {
    if (absl::Status status = AddWorker(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// REQUIRES: join_mutex_ held.
absl::Status ThreadExecutor::AddWorker() {
  Worker* worker = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto is_taken = [this](size_t place) {
      return std::any_of(
          workers_.begin(), workers_.end(),
          [place](const Worker& each) { return each.place == place; });
    };
    size_t place = 0;
    while (is_taken(place)) ++place;
    worker = &workers_.emplace_back();
    worker->place = place;
    ++wanted_;
  }
  workers_left_.fetch_add(1);
  try {
    worker->thread = std::thread([this, worker] { Work(*worker); });
  } catch (const std::system_error& error) {
    workers_left_.fetch_sub(1);
    const std::lock_guard lock(mutex_);
    workers_.pop_back();
    --wanted_;
    return ErrnoStatus(error.code().value(), "pthread_create");
  }
  return absl::OkStatus();
}

int ThreadExecutor::workers() const {
  const std::lock_guard lock(mutex_);
  return wanted_;
}

PoolStats ThreadExecutor::Stats() const {
  PoolStats stats;
  if (IsForkedCopy()) return stats;
  const std::lock_guard lock(mutex_);
  stats.waiting = static_cast<int64_t>(queue_.size());
  for (const Worker& worker : workers_) {
    if (worker.has_left) continue;
    if (worker.running != nullptr) ++stats.running;
    const absl::Duration alive = worker.meter.Alive();
    stats.workers.push_back({.name = worker.name,
                             .pid = 0,
                             .alive = alive,
                             .idle = worker.meter.Idle(alive),
                             .tasks = worker.tasks,
                             .restarts = worker.restarts});
  }
  return stats;
}

absl::StatusOr<TaskId> ThreadExecutor::Submit(const TaskCode& code, size_t size,
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
    task->code = code;
    if (timeline_ != nullptr) task->submitted_nanos = MonotonicNanos();
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
  for (const Worker& worker : workers_) {
    if (worker.running == nullptr || worker.running->id != id) continue;
    worker.running->asked_to_stop.store(1, std::memory_order_relaxed);
  }
}

bool ThreadExecutor::IsOpen() const {
  if (IsForkedCopy()) return false;
  const std::lock_guard lock(mutex_);
  return state_ == State::kRunning;
}

// ---- a worker's thread ----

void ThreadExecutor::Work(Worker& worker) {
  working_for = this;
  if (!options_.processors.empty()) {
    // Checked when the pool was made; it may be gone since.
    PinThisThread(
        options_.processors[worker.place % options_.processors.size()])
        .IgnoreError();
  }
  while (WorkAsOne(worker)) {
    const std::lock_guard lock(mutex_);
    ++worker.restarts;
  }
  {
    const std::lock_guard lock(mutex_);
    worker.has_left = true;
  }
  workers_left_.fetch_sub(1, std::memory_order_release);
  FenceBeforeNotify();
  callback_gate_.NotifyAll();
}

bool ThreadExecutor::WorkAsOne(Worker& worker) {
  const std::string name = NextName();
  SetWorkerName(name);
  worker.meter.Clear();
  {
    const std::lock_guard lock(mutex_);
    worker.name = name;
    worker.tasks = 0;
  }
  if (timeline_ != nullptr) {
    timeline_->StartWorker(worker.place, name, gettid());
  }
  const absl::Cleanup leaves = [&] {
    if (timeline_ != nullptr) timeline_->EndWorker(worker.place, "left");
  };
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
  worker.meter.Ready();
  for (int tasks = 0;
       options_.maxtasksperchild == 0 || tasks < options_.maxtasksperchild;
       ++tasks) {
    const std::shared_ptr<Task> task = NextTask(worker);
    if (task == nullptr) return false;
    RunTask(worker, *task);
    const std::lock_guard lock(mutex_);
    worker.running = nullptr;
    ++worker.tasks;
  }
  // The next one is needed if there is, or may be, something to do.
  return !ending_.load(std::memory_order_acquire) ||
         queued_.load(std::memory_order_acquire) > 0;
}

std::shared_ptr<ThreadExecutor::Task> ThreadExecutor::NextTask(Worker& worker) {
  const auto ready = [this] {
    return queued_.load(std::memory_order_acquire) > 0 ||
           ending_.load(std::memory_order_acquire) ||
           surplus_.load(std::memory_order_acquire) > 0;
  };
  // Called before each sleep.
  const auto watch = [&worker](WatchList&) {
    if (worker.meter.waits_since_nanos() == 0) worker.meter.BeginWait();
    return true;
  };
  for (;;) {
    task_gate_.Wait(task_spin_, ready, Deadline::Infinite(), watch);
    if (worker.meter.waits_since_nanos() != 0) worker.meter.EndWait();
    std::shared_ptr<Task> task;
    bool leaves = false;
    bool more = false;
    {
      const std::lock_guard lock(mutex_);
      leaves = surplus_.load(std::memory_order_relaxed) > 0;
      if (leaves) surplus_.fetch_sub(1, std::memory_order_relaxed);
      while (!queue_.empty() && queue_.front()->cancelled) queue_.pop_front();
      queued_.store(queue_.size(), std::memory_order_release);
      if (!leaves && !queue_.empty()) {
        task = std::move(queue_.front());
        queue_.pop_front();
        queued_.store(queue_.size(), std::memory_order_release);
        worker.running = task;
      }
      more = !queue_.empty();
    }
    if (more) task_gate_.Notify();  // the chain: see mp/shm/gate.h
    if (leaves) return nullptr;
    if (task != nullptr) return task;
    if (ending_.load(std::memory_order_acquire) &&
        queued_.load(std::memory_order_acquire) == 0) {
      return nullptr;
    }
  }
}

void ThreadExecutor::RunTask(const Worker& worker, Task& task) {
  const int64_t begin = timeline_ != nullptr ? MonotonicNanos() : 0;
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
    task.code.run(task.input, output);
  } catch (...) {
    output.Fail(ExceptionError());
  }
  MP_CHECK(output.ended()) << "a task without an end";
  if (timeline_ == nullptr) return;
  timeline_->AddTask(worker.place,
                     {.code = task.code,
                      .submitted = task.submitted_nanos,
                      .begin = begin,
                      .end = MonotonicNanos(),
                      .outcome = output.failed() ? "failed" : "done"});
  timeline_->CountWaiting(queued_.load(std::memory_order_relaxed));
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
      for (const Worker& worker : workers_) {
        if (worker.running == nullptr) continue;
        worker.running->asked_to_stop.store(1, std::memory_order_relaxed);
        tasks.push_back(worker.running);
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
  if (working_for == this) {
    return absl::FailedPreconditionError(
        "a task of a pool waits for the pool's end, which waits for it");
  }
  if (absl::Status ended = callbacks_.WaitForEnd(deadline); !ended.ok()) {
    return ended;
  }
  // They have nothing more to do.
  const std::lock_guard lock(join_mutex_);
  for (Worker& worker : workers_) {
    if (worker.thread.joinable()) worker.thread.join();
  }
  if (callback_thread_.joinable()) callback_thread_.join();
  return absl::OkStatus();
}

// ---- callbacks ----

bool ThreadExecutor::Wait(absl::FunctionRef<bool()> ready,
                          BasicGate<KernelPlatform>& gate, Deadline deadline) {
  return ready() || (!IsForkedCopy() && gate.Sleep(ready, deadline));
}

void ThreadExecutor::Post(std::function<void()> callback) {
  if (IsForkedCopy()) return;
  callbacks_.Post(std::move(callback), [this] {
    FenceBeforeNotify();
    callback_gate_.NotifyAll();
  });
}

bool ThreadExecutor::OnOwnThread() const {
  return working_for == this || callbacks_.RunsHere();
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
  if (timeline_ != nullptr) timeline_->Finish();
  callbacks_.End();
}

}  // namespace mp::pool_internal
