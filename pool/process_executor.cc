#include "mp/pool/process_executor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <set>
#include <span>
#include <system_error>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/errno_status.h"
#include "mp/ipc/codec.h"
#include "mp/pool/worker.h"
#include "mp/pool/worker_died.h"
#include "mp/shm/slab.h"

namespace mp::pool_internal {

using ipc_internal::Ring;
using ipc_internal::RingResult;

struct ProcessExecutor::TaskHeader {
  TaskFunction function;  // workers are forks: same address there
  uint32_t index;
  uint32_t unused;
};

struct ProcessExecutor::ResultHeader {
  // kNoStart: a worker's initializer has failed; no task's result.
  enum Kind : uint32_t { kPart, kFinish, kFail, kNoStart };
  uint32_t index;
  Kind kind;
};

namespace {

constexpr char kOverwritten[] = "a pool's memory was overwritten";

template <class T>
T ReadHeader(std::span<const std::byte>& bytes) {
  MP_CHECK(bytes.size() >= sizeof(T)) << kOverwritten;
  T header;
  memcpy(&header, bytes.data(), sizeof(T));
  bytes = bytes.subspan(sizeof(T));
  return header;
}

constexpr int64_t kGatherNanos = 100'000;

// Workers that die idle: the first are replaced at once, the next ones later
// and later.
constexpr int kQuickRestarts = 10;
constexpr int64_t kFirstDelayNanos = 1'000'000;
constexpr int64_t kMaxDelayNanos = 100'000'000;
// Deaths in a row, within the initializer, that fail the pool.
constexpr int kMaxStartDeaths = 50;
constexpr int kRetryMillis = 100;

// Such as somebody else sends.
bool IsSignalFromOutside(int exitcode) {
  switch (-exitcode) {
    case SIGKILL:
    case SIGTERM:
    case SIGINT:
    case SIGHUP:
    case SIGQUIT:
      return true;
    default:
      return false;
  }
}

constexpr uint64_t PackClaim(uint32_t index, uint32_t number) {
  return (uint64_t{index} + 1) << 32 | number;
}

// Of a task that has been cancelled and not yet been skipped.
class DroppingSink final : public TaskSink {
 public:
  void Part(std::span<const std::byte>) override {}
  void Finish(std::span<const std::byte>) override {}
  void Fail(absl::Status) override {}
};

// A program that ends with pools open: their workers are daemons and get
// killed, which must not look like deaths to be made good. Terminates the pools
// first.
class OpenPools {
 public:
  static OpenPools& Get() {
    static auto* const pools = new OpenPools;
    return *pools;
  }

  void Add(Executor* executor) {
    const std::lock_guard lock(mutex_);
    // Registered after a worker was started, so that this runs before what
    // mp/process does at exit.
    if (!registered_) {
      std::atexit([] { Get().End(); });
      registered_ = true;
    }
    open_.insert(executor);
  }

  void Remove(Executor* executor) {
    const std::lock_guard lock(mutex_);
    open_.erase(executor);
  }

 private:
  void End() {
    const std::lock_guard lock(mutex_);
    for (Executor* executor : open_) {
      executor->Terminate();
      executor->Join(Deadline::Infinite()).IgnoreError();
    }
  }

  std::mutex mutex_;
  std::set<Executor*> open_;
  bool registered_ = false;
};

}  // namespace

// ---- in a worker ----

class ProcessExecutor::WorkerOutput final : public TaskOutput {
 public:
  WorkerOutput(Ring& results, uint32_t index, Token owner)
      : results_(results), index_(index), owner_(owner) {}

  void Part(size_t size, Encoder encode) override {
    Put(ResultHeader::kPart, size, encode);
  }

  void Finish(size_t size, Encoder encode) override {
    Put(ResultHeader::kFinish, size, encode);
  }

  void Fail(const absl::Status& error) override {
    if (ended_) return;
    const size_t size = EncodedSize(error);
    Put(ResultHeader::kFail, size,
        [&](std::span<std::byte> out) { return Encode(error, out); });
  }

  size_t max_size() const override {
    return results_.max_record_size() - sizeof(ResultHeader);
  }

  absl::Status TooLarge(size_t size) const override {
    return ResultTooLargeError(size, max_size());
  }

  bool ended() const { return ended_; }

 private:
  void Put(ResultHeader::Kind kind, size_t size, Encoder encode) {
    MP_CHECK(!ended_) << "a task that ends twice";
    const ResultHeader header = {.index = index_, .kind = kind};
    absl::Status encoded;
    const RingResult result = results_.Put(
        sizeof(header) + size,
        [&](std::byte* to, uint32_t) {
          memcpy(to, &header, sizeof(header));
          encoded = encode(std::span(to + sizeof(header), size));
          return encoded.ok();
        },
        Deadline::Infinite(), Ring::WatchOne{owner_});
    switch (result) {
      case RingResult::kDone:
        ended_ = kind != ResultHeader::kPart;
        return;
      case RingResult::kAborted:
        return Fail(encoded);
      case RingResult::kTooLarge:
        return Fail(TooLarge(size));
      default:
        // Nobody is left to report to.
        Exit(EXIT_FAILURE);
    }
  }

  Ring& results_;
  const uint32_t index_;
  const Token owner_;
  bool ended_ = false;
};

int ProcessExecutor::Serve(size_t index) {
  // If the thread that this process was made in is a worker itself. Its object
  // is not destroyed: it is that thread's.
  SetWorkerName({});
  new WorkerObject(std::exchange(CurrentWorkerObject(), {}));
  Claim& claim = *workers_[index].claim;
  if (initializer_) {
    absl::StatusOr<WorkerObject> object = initializer_.Run();
    if (!object.ok()) {
      ReportFailedInitializer(object.status());
      return EXIT_FAILURE;
    }
    CurrentWorkerObject() = *std::move(object);
  }
  const absl::Cleanup destroy_object = [] { CurrentWorkerObject() = {}; };
  claim.starts.fetch_add(1, std::memory_order_relaxed);
  std::vector<std::byte> input;
  for (int tasks = 0; maxtasksperchild_ == 0 || tasks < maxtasksperchild_;
       ++tasks) {
    uint64_t task = 0;
    TaskHeader header = {};
    absl::Status read;
    const RingResult result = tasks_.Get(
        [&](std::span<const std::byte> bytes, uint32_t number) {
          header = ReadHeader<TaskHeader>(bytes);
          try {
            input.assign(bytes.begin(), bytes.end());
          } catch (...) {
            // There is no memory for it. If the task stayed in the ring, that
            // would be the end of one worker after the other.
            read = ExceptionError();
          }
          task = PackClaim(header.index, number);
          // Relaxed: Get's release of the new head, which follows, publishes
          // it.
          claim.task.store(task, std::memory_order_relaxed);
        },
        Deadline::Infinite(), Ring::WatchOne{owner_});
    if (result == RingResult::kClosed) return EXIT_SUCCESS;
    // The owner of the pool is dead, or has destroyed the pool's memory.
    if (result != RingResult::kDone) return EXIT_FAILURE;

    WorkerOutput output(results_, header.index, owner_);
    // Behind the release of the ring's lock: pairs with the fences in
    // MarkCancelled() and Submit().
    FenceBeforeNotifyAfterRmw();
    if (ABSL_PREDICT_FALSE(MayPutBacklog())) results_.WakeConsumer();
    if (ABSL_PREDICT_FALSE(IsMarked(task))) {
      output.Fail(TaskCancelledError());
    } else if (ABSL_PREDICT_FALSE(!read.ok())) {
      output.Fail(read);
    } else {
      try {
        header.function(input, output);
      } catch (...) {
        output.Fail(ExceptionError());
      }
    }
    MP_CHECK(output.ended()) << "a task without an end";
    claim.done.fetch_add(1, std::memory_order_relaxed);
    // Release: whoever sees the claim gone sees the result.
    claim.task.store(0, std::memory_order_release);
  }
  return EXIT_SUCCESS;
}

void ProcessExecutor::ReportFailedInitializer(const absl::Status& error) {
  absl::Status report =
      InitializerError(error.code(), std::string(error.message()));
  const size_t most = results_.max_record_size() / 2;
  if (EncodedSize(report) > most) {
    report = absl::Status(report.code(), report.message().substr(0, most / 2));
  }
  const ResultHeader header = {.index = 0, .kind = ResultHeader::kNoStart};
  const size_t size = EncodedSize(report);
  // If nobody is left to take it, there is nobody to be told.
  results_.Put(
      sizeof(header) + size,
      [&](std::byte* to, uint32_t) {
        memcpy(to, &header, sizeof(header));
        return Encode(report, std::span(to + sizeof(header), size)).ok();
      },
      Deadline::Infinite(), Ring::WatchOne{owner_});
}

// ---- in the pool's process ----

absl::StatusOr<std::unique_ptr<ProcessExecutor>> ProcessExecutor::Create(
    const ExecutorOptions& options) {
  absl::StatusOr<Ring> tasks = Ring::Create(
      {.name = "pool-tasks", .capacity_bytes = options.task_capacity_bytes});
  if (!tasks.ok()) return tasks.status();
  absl::StatusOr<Ring> results =
      Ring::Create({.name = "pool-results",
                    .capacity_bytes = options.result_capacity_bytes});
  if (!results.ok()) return results.status();
  // Not make_unique: the constructor is private.
  std::unique_ptr<ProcessExecutor> executor(
      new ProcessExecutor(options, *std::move(tasks), *std::move(results)));
  if (absl::Status status = executor->Start(); !status.ok()) {
    executor->UndoStart();
    return status;
  }
  return executor;
}

ProcessExecutor::ProcessExecutor(const ExecutorOptions& options, Ring tasks,
                                 Ring results)
    : owner_(Liveness::Self()),
      initializer_(options.initializer),
      maxtasksperchild_(options.maxtasksperchild),
      tasks_(std::move(tasks)),
      results_(std::move(results)),
      workers_(static_cast<size_t>(options.processes)) {}

ProcessExecutor::~ProcessExecutor() {
  if (IsForkedCopy()) {
    // The threads are not here to be joined.
    new std::thread(std::move(collector_));
    new std::thread(std::move(supervisor_));
    return;
  }
  OpenPools::Get().Remove(this);
  Terminate();
  Join(Deadline::Infinite()).IgnoreError();
}

absl::Status ProcessExecutor::Start() {
  wake_supervisor_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_supervisor_) return ErrnoStatus(errno, "eventfd");
  absl::StatusOr<std::shared_ptr<Notices>> notices = MakeShared<Notices>();
  if (!notices.ok()) return notices.status();
  notices_ = *std::move(notices);
  for (Worker& worker : workers_) {
    absl::StatusOr<std::shared_ptr<Claim>> claim = MakeShared<Claim>();
    if (!claim.ok()) return claim.status();
    worker.claim = *std::move(claim);
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (absl::Status status = StartWorker(i); !status.ok()) return status;
  }
  try {
    collector_ = std::thread([this] { Collect(); });
    supervisor_ = std::thread([this] { Supervise(); });
  } catch (const std::system_error& error) {
    return ErrnoStatus(error.code().value(), "pthread_create");
  }
  OpenPools::Get().Add(this);
  return absl::OkStatus();
}

// After Start() has failed, wherever that was.
void ProcessExecutor::UndoStart() {
  // Has the collector end. Only then has nobody else a hand on the workers.
  results_.Close();
  if (collector_.joinable()) collector_.join();
  for (Worker& worker : workers_) {
    if (!worker.running) continue;
    worker.process.Kill().IgnoreError();
    worker.process.Join().IgnoreError();
    worker.running = false;
  }
  finished_ = true;  // perhaps no thread has said so
}

absl::Status ProcessExecutor::StartWorker(size_t index) {
  static std::atomic<int> count{0};
  {
    Worker& worker = workers_[index];
    worker.starts = worker.claim->starts.load(std::memory_order_relaxed);
    worker.done = worker.claim->done.load(std::memory_order_relaxed);
  }
  Process process(
      {.name = absl::StrCat("PoolWorker-", ++count),
       .daemon = true,
       .start_method = StartMethod::kFork},  // for all that Serve() needs
      [this, index] { return Serve(index); });
  if (absl::Status status = process.Start(); !status.ok()) return status;
  const std::lock_guard lock(mutex_);
  Worker& worker = workers_[index];
  worker.process = std::move(process);
  worker.running = true;
  // Terminate may have come before this worker was there to be killed.
  if (state_ == State::kTerminated) worker.process.Kill().IgnoreError();
  return absl::OkStatus();
}

absl::StatusOr<TaskId> ProcessExecutor::Submit(TaskFunction function,
                                               size_t size,
                                               TaskOutput::Encoder encode,
                                               std::shared_ptr<TaskSink> sink) {
  if (size > max_input_size()) {
    return InputTooLargeError(size, max_input_size());
  }
  if (IsForkedCopy()) return ForkedPoolError();
  const std::lock_guard lock(mutex_);
  if (!failure_.ok()) return DeepCopy(failure_);
  if (state_ != State::kRunning) return PoolClosedError();
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(pending_.size()));
    pending_.emplace_back();
  }
  const uint32_t index = free_.back();
  // One that an encoder has failed in keeps the number that it did not use.
  pending_[index].number.reset();
  bool first_to_wait = false;
  absl::Status encoded;
  if (!backlog_.empty() || !PutTask(index, function, size, encode, &encoded)) {
    Waiting waiting = {index, function, std::vector<std::byte>(size)};
    encoded = encode(waiting.input);
    if (encoded.ok()) {
      first_to_wait = backlog_.empty();
      backlog_.push_back(std::move(waiting));
    }
  }
  if (!encoded.ok()) return encoded;
  free_.pop_back();
  Pending& pending = pending_[index];
  pending.sink = std::move(sink);
  const TaskId id = TaskId{pending.generation} << 32 | index;
  if (first_to_wait) {
    // Store, fence, look at the ring's head, which workers store before they
    // have a fence and look at this (Dekker's pattern). So who removes a task,
    // and is not seen here to have done so, sees that some wait.
    notices_->backlog.store(1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    PutBacklog();
  }
  return id;
}

// False if the ring is full. `*error` is what `encode` returned.
bool ProcessExecutor::PutTask(uint32_t index, TaskFunction function,
                              size_t size, TaskOutput::Encoder encode,
                              absl::Status* error) {
  const TaskHeader header = {function, index, 0};
  // Only this process puts tasks, and under mutex_: nobody else is waited for.
  const RingResult result = tasks_.Put(
      sizeof(header) + size,
      [&](std::byte* to, uint32_t number) {
        memcpy(to, &header, sizeof(header));
        pending_[index].number = number;
        *error = encode(std::span(to + sizeof(header), size));
        return error->ok();
      },
      Deadline::Now());
  MP_CHECK(result == RingResult::kDone || result == RingResult::kAborted ||
           result == RingResult::kTimedOut)
      << kOverwritten;
  return result != RingResult::kTimedOut;
}

// REQUIRES: mutex_ held.
void ProcessExecutor::PutBacklog() {
  while (!backlog_.empty()) {
    const Waiting& next = backlog_.front();
    if (pending_[next.index].cancelled) {
      FreeEntry(next.index);
      backlog_.pop_front();
      continue;
    }
    absl::Status copied;
    const auto copy = [&next](std::span<std::byte> out) {
      std::copy(next.input.begin(), next.input.end(), out.begin());
      return absl::OkStatus();
    };
    if (!PutTask(next.index, next.function, next.input.size(), copy, &copied)) {
      return;
    }
    backlog_.pop_front();
  }
  notices_->backlog.store(0, std::memory_order_relaxed);
  if (state_ == State::kClosing && !tasks_.closed()) tasks_.Close();
}

// Whether tasks wait though the ring is empty. A worker asks behind its fence.
// If it has removed the last task of all, HasRecord() sees that. And `backlog`
// was set before that task was put, and the put's release has told of it; or
// Submit() has set it and not seen the removal, and the fences tell. If this
// takes what is gone for a task, another worker has removed that, and asks,
// too.
bool ProcessExecutor::MayPutBacklog() const {
  return notices_->backlog.load(std::memory_order_relaxed) != 0 &&
         !tasks_.HasRecord();
}

bool ProcessExecutor::IsOpen() const {
  if (IsForkedCopy()) return false;
  const std::lock_guard lock(mutex_);
  return state_ == State::kRunning && failure_.ok();
}

size_t ProcessExecutor::max_input_size() const {
  return tasks_.max_record_size() - sizeof(TaskHeader);
}

// Returns the size of what was delivered. REQUIRES: delivery_mutex_ held.
size_t ProcessExecutor::DeliverResults() {
  size_t size = 0;
  const auto deliver = [&](std::span<const std::byte> bytes, uint32_t) {
    size += ipc_internal::RecordSize(bytes.size());
    const auto header = ReadHeader<ResultHeader>(bytes);
    if (header.kind == ResultHeader::kNoStart) {
      absl::Status error;
      const absl::Status decoded = DecodeInto(bytes, error);
      FailPool(decoded.ok() ? std::move(error) : decoded);
      return;
    }
    if (header.kind == ResultHeader::kPart) {
      std::shared_ptr<TaskSink> sink;
      {
        const std::lock_guard lock(mutex_);
        if (header.index < pending_.size()) sink = pending_[header.index].sink;
      }
      if (sink != nullptr) sink->Part(bytes);
      return;
    }
    const std::shared_ptr<TaskSink> sink = TakeSink(header.index);
    if (sink == nullptr) return;  // failed meanwhile, by Terminate
    if (header.kind == ResultHeader::kFinish) {
      sink->Finish(bytes);
    } else {
      absl::Status error;
      const absl::Status decoded = DecodeInto(bytes, error);
      sink->Fail(decoded.ok() ? std::move(error) : decoded);
    }
  };
  // Those that are there now: workers may go on putting for ever.
  RingResult result = RingResult::kDone;
  for (uint32_t left = results_.size(); left > 0 && result == RingResult::kDone;
       --left) {
    result = results_.Get(deliver, Deadline::Now());
  }
  MP_CHECK(result == RingResult::kDone || result == RingResult::kTimedOut ||
           result == RingResult::kClosed)
      << kOverwritten;
  const std::lock_guard lock(mutex_);
  PutBacklog();
  return size;
}

std::shared_ptr<TaskSink> ProcessExecutor::TakeSink(uint32_t index) {
  const std::lock_guard lock(mutex_);
  if (index >= pending_.size() || pending_[index].sink == nullptr) {
    return nullptr;
  }
  const std::shared_ptr<TaskSink> sink = pending_[index].sink;
  FreeEntry(index);
  return sink;
}

// REQUIRES: mutex_ held.
void ProcessExecutor::FreeEntry(uint32_t index) {
  Pending& pending = pending_[index];
  if (pending.cancelled && pending.number.has_value()) {
    Unmark(PackClaim(index, *pending.number));
  }
  const uint32_t generation = pending.generation + 1;
  pending = Pending();
  pending.generation = generation;
  free_.push_back(index);
}

bool ProcessExecutor::Cancel(TaskId id) {
  if (IsForkedCopy()) return false;
  static const auto* const dropping =
      new std::shared_ptr<TaskSink>(std::make_shared<DroppingSink>());
  const auto index = static_cast<uint32_t>(id);
  const std::lock_guard delivery(delivery_mutex_);
  std::shared_ptr<TaskSink> sink;
  {
    const std::lock_guard lock(mutex_);
    if (index >= pending_.size()) return false;
    Pending& pending = pending_[index];
    if (pending.sink == nullptr || pending.cancelled ||
        pending.generation != id >> 32) {
      return false;
    }
    if (pending.number.has_value() &&
        !MarkCancelled(PackClaim(index, *pending.number))) {
      return false;
    }
    // The entry stays until the task has been skipped.
    pending.cancelled = true;
    sink = std::exchange(pending.sink, *dropping);
  }
  sink->Fail(TaskCancelledError());
  return true;
}

// Whether the task will be skipped for certain. REQUIRES: mutex_ held.
bool ProcessExecutor::MarkCancelled(uint64_t task) {
  const auto number = static_cast<uint32_t>(task);
  std::atomic<uint64_t>& mark = notices_->marks[number % Notices::kMarks];
  if (mark.load(std::memory_order_relaxed) != 0) return false;
  mark.store(task, std::memory_order_relaxed);
  notices_->cancels.fetch_add(1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  // The order matters: a claim is gone only after the task has been removed.
  bool begun = false;
  for (const Worker& worker : workers_) {
    begun |= worker.claim->task.load(std::memory_order_acquire) == task;
  }
  begun |= static_cast<int32_t>(tasks_.gotten() - number) > 0;
  if (begun) Unmark(task);
  return !begun;
}

bool ProcessExecutor::IsMarked(uint64_t task) const {
  const auto number = static_cast<uint32_t>(task);
  return notices_->cancels.load(std::memory_order_relaxed) != 0 &&
         notices_->marks[number % Notices::kMarks].load(
             std::memory_order_relaxed) == task;
}

void ProcessExecutor::Unmark(uint64_t task) {
  const auto number = static_cast<uint32_t>(task);
  notices_->marks[number % Notices::kMarks].store(0, std::memory_order_relaxed);
  notices_->cancels.fetch_sub(1, std::memory_order_relaxed);
}

bool ProcessExecutor::Wait(absl::FunctionRef<bool()> ready,
                           absl::FunctionRef<bool()> doze) {
  // The results are for the pool's own process, which would miss them.
  if (IsForkedCopy()) return ready();
  waiting_.fetch_add(1, std::memory_order_relaxed);
  const absl::Cleanup done = [this] {
    waiting_.fetch_sub(1, std::memory_order_relaxed);
  };
  const auto deliver = [&] {
    if (results_.HasRecord()) {
      const std::unique_lock lock(delivery_mutex_, std::try_to_lock);
      if (lock.owns_lock()) DeliverResults();
    }
    return ready();
  };
  if (deliver() || results_.SpinUntil(delivery_spin_, deliver)) return true;
  FenceBeforeNotify();
  waiting_gate_.Notify();
  return doze();
}

// The collector's thread. Being woken for every result would cost the workers
// and itself many times what delivering one does. So when nobody waits for a
// result, it lets them gather for a while before it waits for the next.
void ProcessExecutor::Collect() {
  do {
    size_t delivered = 0;
    results_.WaitForRecord(
        [this] {
          return have_callbacks_.load(std::memory_order_acquire) ||
                 MayPutBacklog();
        },
        Deadline::Infinite());
    {
      const std::lock_guard lock(delivery_mutex_);
      delivered = DeliverResults();
    }
    RunCallbacks();
    if (MayGather(delivered)) {
      waiting_gate_.Sleep(
          [this] { return waiting_.load(std::memory_order_relaxed) > 0; },
          Deadline::Infinite().Sooner(kGatherNanos));
    }
    // The supervisor closes the ring when all sinks have been called.
  } while (!results_.closed() || results_.HasRecord());
  RunCallbacks();
  finished_.store(true, std::memory_order_release);
  FenceBeforeNotify();
  finished_gate_.NotifyAll();
  // Who posts one from now on, runs it; this is for who did just before.
  RunCallbacks();
}

// Whether the workers neither run out of tasks nor of room for results, at the
// rate of what was `delivered` last, while nobody looks after them for a while.
bool ProcessExecutor::MayGather(size_t delivered) const {
  const std::lock_guard lock(mutex_);
  return backlog_.empty() && delivered < results_.max_record_size() / 4;
}

void ProcessExecutor::Post(std::function<void()> callback) {
  if (IsForkedCopy()) return;
  {
    const std::lock_guard lock(mutex_);
    callbacks_.push_back(std::move(callback));
    have_callbacks_.store(true, std::memory_order_release);
  }
  results_.WakeConsumer();
  // After the end there is no thread to run it.
  if (finished_.load(std::memory_order_acquire)) RunCallbacks();
}

void ProcessExecutor::RunCallbacks() {
  for (;;) {
    std::function<void()> callback;
    {
      const std::lock_guard lock(mutex_);
      if (callbacks_.empty()) {
        have_callbacks_.store(false, std::memory_order_relaxed);
        return;
      }
      callback = std::move(callbacks_.front());
      callbacks_.pop_front();
    }
    try {
      callback();
    } catch (...) {
      // As in Python, nobody is there to catch it; the pool goes on.
      ReportCallbackException();
    }
  }
}

void ProcessExecutor::Supervise() {
  for (;;) {
    const int retry_millis = StartMissingWorkers();
    std::vector<pollfd> polled = {
        {.fd = wake_supervisor_.get(), .events = POLLIN, .revents = 0}};
    std::vector<size_t> watched;  // the workers behind polled[1], ...
    {
      const std::lock_guard lock(mutex_);
      for (size_t i = 0; i < workers_.size(); ++i) {
        if (!workers_[i].running) continue;
        polled.push_back({.fd = workers_[i].process.sentinel(),
                          .events = POLLIN,
                          .revents = 0});
        watched.push_back(i);
      }
      if (watched.empty() && !NeedsWorkers()) break;
    }
    if (poll(polled.data(), polled.size(), retry_millis) < 0) {
      MP_PCHECK(errno == EINTR) << "poll";
      continue;
    }
    uint64_t ignored;
    [[maybe_unused]] const ssize_t drained =
        read(wake_supervisor_.get(), &ignored, sizeof(ignored));
    for (size_t i = 0; i < watched.size(); ++i) {
      if (polled[i + 1].revents != 0) SettleDeath(watched[i]);
    }
  }
  const std::lock_guard lock(delivery_mutex_);
  DeliverResults();
  FailAll(PoolTerminatedError());
  results_.Close();
}

// The time until it is to be called again; -1 if no worker is missing.
int ProcessExecutor::StartMissingWorkers() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    {
      const std::lock_guard lock(mutex_);
      if (workers_[i].running || !NeedsWorkers()) continue;
    }
    const Deadline next_start = Deadline::AtNanos(next_start_nanos_);
    if (!next_start.Expired()) return next_start.ToPollMillis();
    if (absl::Status status = StartWorker(i); !status.ok()) {
      std::cerr << "mp::Pool: cannot replace a worker, will try again: "
                << status.ToString() << "\n";
      return kRetryMillis;
    }
  }
  return -1;
}

// Whether workers that have died are to be replaced. REQUIRES: mutex_ held.
bool ProcessExecutor::NeedsWorkers() const {
  switch (state_) {
    case State::kRunning:
      return true;
    case State::kClosing:
      return !backlog_.empty() || tasks_.HasRecord();
    case State::kTerminated:
      return false;
  }
  return false;
}

void ProcessExecutor::SettleDeath(size_t index) {
  Worker& worker = workers_[index];
  const std::string name = worker.process.name();
  const pid_t pid = worker.process.pid().value_or(0);
  worker.process.Join().IgnoreError();
  const int exitcode = worker.process.exitcode().value_or(kExitCodeUnknown);

  // The order of the reads matters: see the header.
  const std::lock_guard delivery(delivery_mutex_);
  const uint32_t removed = tasks_.gotten();
  std::vector<uint64_t> claims;
  for (const Worker& each : workers_) {
    claims.push_back(each.claim->task.load(std::memory_order_acquire));
  }
  DeliverResults();

  if (claims[index] == 0) CountIdleDeath(worker, name, pid, exitcode);

  std::shared_ptr<TaskSink> sink;
  const uint64_t claim = claims[index];
  const auto number = static_cast<uint32_t>(claim);
  const auto task = static_cast<uint32_t>(claim >> 32) - 1;
  if (claim != 0 && static_cast<int32_t>(removed - number) > 0 &&
      std::count(claims.begin(), claims.end(), claim) == 1) {
    const std::lock_guard lock(mutex_);
    // The dead of Terminate() are no surprise: FailAll() follows.
    if (state_ != State::kTerminated && task < pending_.size() &&
        pending_[task].sink != nullptr && pending_[task].number == number) {
      sink = pending_[task].sink;
    }
  }
  {
    const std::lock_guard lock(mutex_);
    worker.claim->task.store(0, std::memory_order_relaxed);
    worker.running = false;
    worker.process = Process();
  }
  if (sink != nullptr) {
    TakeSink(task);
    sink->Fail(WorkerDiedError(name, pid, exitcode));
  }
}

// A worker has died, or left, that had no task. REQUIRES: delivery_mutex_ held.
void ProcessExecutor::CountIdleDeath(const Worker& worker,
                                     std::string_view name, pid_t pid,
                                     int exitcode) {
  uint64_t starts = 0;
  uint64_t done = 0;
  for (const Worker& each : workers_) {
    starts += each.claim->starts.load(std::memory_order_relaxed);
    done += each.claim->done.load(std::memory_order_relaxed);
  }
  if (worker.claim->done.load(std::memory_order_relaxed) != worker.done) return;
  idle_deaths_.Count(done);
  if (const int late = idle_deaths_.length - kQuickRestarts; late > 0) {
    const int64_t delay =
        std::min(kMaxDelayNanos, kFirstDelayNanos << std::min(late, 10));
    next_start_nanos_ = MonotonicNanos() + delay;
  }
  if (worker.claim->starts.load(std::memory_order_relaxed) != worker.starts) {
    return;
  }
  start_deaths_.Count(starts);
  if (!initializer_) return;
  const bool from_outside = IsSignalFromOutside(exitcode);
  if (from_outside && start_deaths_.length < kMaxStartDeaths) return;
  FailPool(InitializerError(
      absl::StatusCode::kAborted,
      absl::StrCat(ToAbsl(name), " (pid ", pid, ") ", DescribeEnd(exitcode),
                   from_outside ? ", as others before" : "")));
}

// For good: whatever is submitted later fails, too. REQUIRES: delivery_mutex_
// held.
void ProcessExecutor::FailPool(absl::Status error) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kTerminated) return;
    failure_ = DeepCopy(error);
  }
  Terminate();
  FailAll(error);
}

// REQUIRES: delivery_mutex_ held.
void ProcessExecutor::FailAll(const absl::Status& error) {
  std::vector<std::shared_ptr<TaskSink>> sinks;
  {
    const std::lock_guard lock(mutex_);
    backlog_.clear();
    notices_->backlog.store(0, std::memory_order_relaxed);
    for (Pending& pending : pending_) {
      if (pending.sink != nullptr) sinks.push_back(std::move(pending.sink));
    }
  }
  for (const std::shared_ptr<TaskSink>& sink : sinks)
    sink->Fail(DeepCopy(error));
}

void ProcessExecutor::Close() {
  if (IsForkedCopy()) return;
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kRunning) return;
    state_ = State::kClosing;
    PutBacklog();
  }
  Interrupt();
}

void ProcessExecutor::Terminate() {
  if (IsForkedCopy()) return;
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kTerminated) return;
    state_ = State::kTerminated;
    for (const Worker& worker : workers_) {
      if (worker.running) worker.process.Kill().IgnoreError();
    }
  }
  Interrupt();
}

void ProcessExecutor::Interrupt() {
  const uint64_t one = 1;
  // Fails only if it is set already, or if Start did not come that far.
  [[maybe_unused]] const ssize_t written =
      write(wake_supervisor_.get(), &one, sizeof(one));
}

absl::Status ProcessExecutor::Join(Deadline deadline) {
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
  const auto finished = [this] {
    return finished_.load(std::memory_order_acquire);
  };
  if (!finished_gate_.Wait(finished_spin_, finished, deadline)) {
    return absl::DeadlineExceededError("the pool's workers have not ended");
  }
  // They have nothing more to do.
  const std::lock_guard lock(join_mutex_);
  if (supervisor_.joinable()) supervisor_.join();
  if (collector_.joinable()) collector_.join();
  return absl::OkStatus();
}

std::vector<pid_t> ProcessExecutor::pids() const {
  if (IsForkedCopy()) return {};
  std::vector<pid_t> pids;
  const std::lock_guard lock(mutex_);
  for (const Worker& worker : workers_) {
    if (worker.running) pids.push_back(*worker.process.pid());
  }
  return pids;
}

}  // namespace mp::pool_internal
