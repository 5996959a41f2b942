#include "mp/pool/process_executor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <span>
#include <system_error>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/code_place.h"
#include "mp/base/errno_status.h"
#include "mp/base/futex.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/ring.h"
#include "mp/pool/worker_died.h"
#include "mp/pool/worker_loop.h"
#include "mp/shm/slab.h"

namespace mp::pool_internal {
namespace {

using ipc_internal::RingResult;

constexpr absl::Duration kNoMemoryPause = absl::Milliseconds(10);

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
    case -kExitCodeUnknown:  // perhaps
      return true;
    default:
      return false;
  }
}

LimitsHeader ToHeader(const TaskLimits& limits) {
  const auto nanos = [](absl::Duration limit) {
    return limit == absl::InfiniteDuration() ? LimitsHeader::kNone
                                             : absl::ToInt64Nanoseconds(limit);
  };
  return {.soft = nanos(limits.soft), .hard = nanos(limits.hard)};
}

// Of a task that has been cancelled and not yet been skipped.
class DroppingSink final : public TaskSink {
 public:
  void Part(std::span<const std::byte>) override {}
  void Finish(std::span<const std::byte>) override {}
  void Fail(absl::Status) override {}
};

}  // namespace

absl::StatusOr<std::unique_ptr<ProcessExecutor>> ProcessExecutor::Create(
    const ExecutorOptions& options) {
  absl::StatusOr<TaskBoard> board = TaskBoard::Create(
      options.task_capacity_bytes, options.result_capacity_bytes);
  if (!board.ok()) return board.status();
  // Not make_unique: the constructor is private.
  std::unique_ptr<ProcessExecutor> executor(
      new ProcessExecutor(options, *std::move(board)));
  if (absl::Status status = executor->Start(options); !status.ok()) {
    executor->UndoStart();
    return status;
  }
  return executor;
}

ProcessExecutor::ProcessExecutor(const ExecutorOptions& options,
                                 TaskBoard board)
    : initializer_(options.initializer),
      maxtasksperchild_(options.maxtasksperchild),
      max_growth_bytes_(options.max_growth_bytes),
      processors_(options.processors),
      idle_timeout_(options.idle_timeout),
      start_method_(options.start_method),
      board_(std::move(board)),
      wanted_(static_cast<size_t>(options.processes)) {}

ProcessExecutor::~ProcessExecutor() {
  if (IsForkedCopy()) {
    // The threads are not here to be joined.
    new std::thread(std::move(collector_));
    new std::thread(std::move(supervisor_));
    return;
  }
  if (at_exit_ != nullptr) {
    finalizer_.Cancel();
    const std::lock_guard lock(at_exit_->mutex);  // if it runs, until it has
    at_exit_->executor = nullptr;
  }
  Terminate();
  Join(Deadline::Infinite()).IgnoreError();
}

absl::Status ProcessExecutor::Start(const ExecutorOptions& options) {
  if (!options.timeline.empty()) {
    absl::StatusOr<std::unique_ptr<Timeline>> timeline =
        Timeline::Create(options.timeline);
    if (!timeline.ok()) return timeline.status();
    timeline_ = *std::move(timeline);
  }
  wake_supervisor_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_supervisor_) return ErrnoStatus(errno, "eventfd");
  for (size_t i = 0; i < wanted_; ++i) {
    if (absl::Status status = AddWorker(); !status.ok()) return status;
  }
  for (size_t i = 0; i < wanted_; ++i) {
    if (absl::Status status = StartWorker(i); !status.ok()) return status;
  }
  try {
    collector_ = std::thread([this] { Collect(); });
    supervisor_ = std::thread([this] { Supervise(); });
  } catch (const std::system_error& error) {
    return ErrnoStatus(error.code().value(), "pthread_create");
  }
  at_exit_ = std::make_shared<AtExit>();
  at_exit_->executor = this;
  finalizer_ = Finalizer(
      [at_exit = at_exit_] {
        const std::lock_guard lock(at_exit->mutex);
        if (at_exit->executor == nullptr) return;
        at_exit->executor->EndAtExit();
      },
      /*exit_priority=*/0);
  return absl::OkStatus();
}

// After Start() has failed, wherever that was.
void ProcessExecutor::UndoStart() {
  // Has the collector end. Only then has nobody else a hand on the workers.
  board_.results.Close();
  if (collector_.joinable()) collector_.join();
  for (Worker& worker : workers_) {
    if (!worker.running) continue;
    worker.process.Kill().IgnoreError();
    worker.process.Join().IgnoreError();
    worker.running = false;
  }
  callbacks_.End();  // perhaps no thread has said so
}

// A place, without a worker in it.
absl::Status ProcessExecutor::AddWorker() {
  absl::StatusOr<std::shared_ptr<Claim>> claim = MakeShared<Claim>();
  if (!claim.ok()) return claim.status();
  absl::StatusOr<std::shared_ptr<LastWords>> words = MakeShared<LastWords>();
  if (!words.ok()) return words.status();
  const std::lock_guard lock(mutex_);
  Worker& worker = workers_.emplace_back();
  worker.claim = *std::move(claim);
  worker.last_words = *std::move(words);
  return absl::OkStatus();
}

absl::Status ProcessExecutor::StartWorker(size_t index) {
  static std::atomic<int> count{0};
  WorkerPlan plan = {.board = board_,
                     .claim = workers_[index].claim,
                     .last_words = workers_[index].last_words,
                     .initializer = initializer_,
                     .maxtasksperchild = maxtasksperchild_,
                     .max_growth_bytes = max_growth_bytes_,
                     .processor = processors_.empty()
                                      ? WorkerPlan::kAnyProcessor
                                      : processors_[index % processors_.size()],
                     .place = index,
                     .has_timeline = timeline_ != nullptr,
                     .code = start_method_ == StartMethod::kFork
                                 ? std::vector<CodeRange>()
                                 : LoadedCode()};
  plan.last_words->Clear();
  plan.claim->meter.Clear();
  plan.claim->told_to_leave.store(0, std::memory_order_relaxed);
  workers_[index].starts = plan.claim->starts.load(std::memory_order_relaxed);
  workers_[index].done = plan.claim->done.load(std::memory_order_relaxed);
  Process process({.name = absl::StrCat("PoolWorker-", ++count),
                   .daemon = true,
                   .start_method = start_method_},
                  RunWorker, std::move(plan));
  if (absl::Status status = process.Start(); !status.ok()) {
    // There is none any more, but it may have begun, and have taken a task.
    if (workers_[index].claim->task.load(std::memory_order_acquire) != 0) {
      SettleClaim(index, process.name(), 0, -SIGKILL, MonotonicNanos());
    }
    return status;
  }
  if (timeline_ != nullptr) {
    timeline_->StartWorker(index, process.name(), process.pid().value_or(0));
  }
  const std::lock_guard lock(mutex_);
  Worker& worker = workers_[index];
  worker.process = std::move(process);
  worker.running = true;
  ++worker.launches;
  if (std::exchange(worker.sent_away, false)) --sent_away_;
  // Somebody may have wanted to kill it before it was there to be killed.
  if (state_ == State::kTerminated ||
      worker.claim->killed_for.load(std::memory_order_relaxed) != 0) {
    worker.process.Kill().IgnoreError();
  }
  return absl::OkStatus();
}

absl::StatusOr<TaskId> ProcessExecutor::Submit(const TaskCode& code,
                                               size_t size,
                                               TaskOutput::Encoder encode,
                                               std::shared_ptr<TaskSink> sink,
                                               const TaskLimits& limits) {
  if (size > max_input_size()) {
    return InputTooLargeError(size, max_input_size());
  }
  if (absl::Status status = CheckLimits(limits); !status.ok()) return status;
  if (IsForkedCopy()) return ForkedPoolError();
  const std::lock_guard lock(mutex_);
  if (!failure_.ok()) return DeepCopy(failure_);
  if (state_ != State::kRunning) return PoolClosedError();
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(pending_.size()));
    pending_.emplace_back();
    if (timeline_ != nullptr) traces_.emplace_back();
  }
  const uint32_t index = free_.back();
  // One that an encoder has failed in keeps the number that it did not use.
  pending_[index].number.reset();
  bool first_to_wait = false;
  absl::Status encoded;
  Waiting waiting = {
      .index = index, .run = code.run, .limits = ToHeader(limits), .input = {}};
  if (!backlog_.empty() || !PutTask(waiting, size, encode, &encoded)) {
    // Not a vector, which would write zeros first.
    waiting.input = std::make_unique_for_overwrite<std::byte[]>(size);
    waiting.size = size;
    encoded = encode(std::span(waiting.input.get(), size));
    if (encoded.ok()) {
      first_to_wait = backlog_.empty();
      backlog_.push_back(std::move(waiting));
    }
  }
  if (!encoded.ok()) return encoded;
  free_.pop_back();
  Pending& pending = pending_[index];
  pending.sink = std::move(sink);
  if (ABSL_PREDICT_FALSE(timeline_ != nullptr)) {
    traces_[index] = {.code = code, .submitted = MonotonicNanos()};
  }
  const TaskId id = TaskId{pending.generation} << 32 | index;
  if (first_to_wait) {
    // Store, fence, look at the ring's head, which workers store before they
    // have a fence and look at this (Dekker's pattern). So who removes a task,
    // and is not seen here to have done so, sees that some wait.
    board_.notices->set_backlog(true);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    collector_gate_.Notify();
    PutBacklog();
  }
  if (ABSL_PREDICT_FALSE(sent_away_ != 0) && !std::exchange(recalls_, true)) {
    Interrupt();
  }
  return id;
}

// False if the ring is full. `*error` is what `encode` returned, or that there
// is no memory.
bool ProcessExecutor::PutTask(const Waiting& task, size_t size,
                              TaskOutput::Encoder encode, absl::Status* error) {
  const bool has_limits = task.limits.soft != LimitsHeader::kNone ||
                          task.limits.hard != LimitsHeader::kNone;
  const TaskHeader header = {.function = reinterpret_cast<uintptr_t>(task.run),
                             .index = task.index,
                             .has_limits = has_limits ? 1u : 0u};
  const size_t head =
      sizeof(TaskHeader) + (has_limits ? sizeof(LimitsHeader) : 0);
  // Only this process puts tasks, and under mutex_: nobody else is waited for.
  const RingResult result = board_.tasks.Put(
      head + size,
      [&](std::byte* to, uint32_t number) {
        memcpy(to, &header, sizeof(header));
        if (has_limits) {
          memcpy(to + sizeof(header), &task.limits, sizeof(task.limits));
        }
        pending_[task.index].number = FullNumber(put_, number);
        *error = encode(std::span(to + head, size));
        return error->ok();
      },
      Deadline::Now());
  if (result == RingResult::kNoMemory) {
    *error = ipc_internal::Ring::LastMemoryError();
  }
  MP_CHECK(result == RingResult::kDone || result == RingResult::kAborted ||
           result == RingResult::kTimedOut || result == RingResult::kNoMemory)
      << kPoolMemoryOverwritten;
  if (result == RingResult::kDone) put_ = *pending_[task.index].number + 1;
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
      std::copy_n(next.input.get(), next.size, out.begin());
      return absl::OkStatus();
    };
    if (!PutTask(next, next.size, copy, &copied)) return;
    no_memory_ = !copied.ok();
    if (no_memory_) return;
    backlog_.pop_front();
  }
  board_.notices->set_backlog(false);
  if (state_ == State::kClosing && !board_.tasks.closed()) board_.tasks.Close();
}

bool ProcessExecutor::IsOpen() const {
  if (IsForkedCopy()) return false;
  const std::lock_guard lock(mutex_);
  return state_ == State::kRunning && failure_.ok();
}

size_t ProcessExecutor::max_input_size() const {
  return board_.max_input_size();
}

// Returns the size of what was delivered. REQUIRES: delivery_mutex_ held.
size_t ProcessExecutor::DeliverResults() {
  size_t size = 0;
  uint32_t results = 0;
  const auto deliver = [&](std::span<const std::byte> bytes, uint32_t) {
    size += ipc_internal::RecordSize(bytes.size());
    ++results;
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
    Trace trace;
    const std::shared_ptr<TaskSink> sink = TakeSink(header.index, &trace);
    if (ABSL_PREDICT_FALSE(timeline_ != nullptr)) {
      const auto times = ReadHeader<TaskTimes>(bytes);
      timeline_->AddTask(
          times.place,
          {.code = trace.code,
           .submitted = trace.submitted,
           .begin = times.begin_nanos,
           .end = times.end_nanos,
           .outcome =
               header.kind == ResultHeader::kFinish ? "done" : "failed"});
    }
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
  for (uint32_t left = board_.results.size();
       left > 0 && result == RingResult::kDone; --left) {
    result = board_.results.Get(deliver, Deadline::Now());
  }
  MP_CHECK(result == RingResult::kDone || result == RingResult::kTimedOut ||
           result == RingResult::kClosed)
      << kPoolMemoryOverwritten;
  pace_.LearnSize(size, results);
  const std::lock_guard lock(mutex_);
  // Often enough: of fewer than 2^31 tasks there is room for the results.
  removed_ = FullNumber(removed_, board_.tasks.gotten());
  PutBacklog();
  if (ABSL_PREDICT_FALSE(timeline_ != nullptr)) {
    timeline_->CountWaiting(board_.tasks.size() + backlog_.size());
  }
  return size;
}

// `*trace` is set if there is a timeline.
std::shared_ptr<TaskSink> ProcessExecutor::TakeSink(uint32_t index,
                                                    Trace* trace) {
  const std::lock_guard lock(mutex_);
  if (trace != nullptr && index < traces_.size()) *trace = traces_[index];
  if (index >= pending_.size() || pending_[index].sink == nullptr) {
    return nullptr;
  }
  std::shared_ptr<TaskSink> sink = std::move(pending_[index].sink);
  FreeEntry(index);
  return sink;
}

// REQUIRES: mutex_ held.
void ProcessExecutor::FreeEntry(uint32_t index) {
  Pending& pending = pending_[index];
  if (pending.number.has_value()) {
    const uint64_t task = TaskOf(index);
    if (pending.marked) board_.notices->Unmark(task);
    if (pending.asked_to_stop) {
      for (Worker& worker : workers_) {
        uint64_t asked = task;
        worker.claim->asked_to_stop.compare_exchange_strong(
            asked, 0, std::memory_order_relaxed);
      }
    }
  }
  const uint32_t generation = pending.generation + 1;
  pending = Pending();
  pending.generation = generation;
  free_.push_back(index);
}

bool ProcessExecutor::Cancel(TaskId id, CancelMode mode) {
  if (IsForkedCopy()) return false;
  static const auto* const dropping =
      new std::shared_ptr<TaskSink>(std::make_shared<DroppingSink>());
  const auto index = static_cast<uint32_t>(id);
  const std::lock_guard delivery(delivery_mutex_);
  std::shared_ptr<TaskSink> sink;
  bool taken_back = true;
  {
    const std::lock_guard lock(mutex_);
    if (index >= pending_.size()) return false;
    Pending& pending = pending_[index];
    if (pending.sink == nullptr || pending.cancelled ||
        pending.generation != id >> 32) {
      return false;
    }
    if (pending.number.has_value()) {
      taken_back = TakeBack(index);
      if (!taken_back) {
        if (mode == CancelMode::kAskToStop) AskToStop(index);
        if (mode != CancelMode::kKill || !KillWorkerOf(index)) {
          return false;
        }
      }
    }
    // The entry stays until the task has been skipped, or its worker is dead.
    pending.cancelled = true;
    sink = std::exchange(pending.sink, *dropping);
  }
  sink->Fail(taken_back ? TaskCancelledError() : TaskKilledError());
  return true;
}

// What the task is in shared memory. REQUIRES: mutex_ held; it is in the ring.
uint64_t ProcessExecutor::TaskOf(uint32_t index) const {
  return PackTask(index, static_cast<uint32_t>(*pending_[index].number));
}

// Whether the task was removed from the ring when `gotten` had been. REQUIRES:
// mutex_ held; it has been in the ring.
bool ProcessExecutor::IsRemoved(const Pending& pending, uint32_t gotten) const {
  return FullNumber(removed_, gotten) > *pending.number;
}

// Whether a worker has, or had, the task. REQUIRES: as TaskOf().
bool ProcessExecutor::HasBegun(uint32_t index) const {
  const uint64_t task = TaskOf(index);
  // The order matters: a claim is gone only after the task has been removed.
  return std::any_of(workers_.begin(), workers_.end(),
                     [task](const Worker& worker) {
                       return worker.claim->task.load(
                                  std::memory_order_acquire) == task;
                     }) ||
         IsRemoved(pending_[index], board_.tasks.gotten());
}

// True if the task will be skipped for certain. REQUIRES: as TaskOf().
bool ProcessExecutor::TakeBack(uint32_t index) {
  Pending& pending = pending_[index];
  if (!board_.notices->Mark(TaskOf(index))) return false;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  pending.marked = !HasBegun(index);
  if (!pending.marked) board_.notices->Unmark(TaskOf(index));
  return pending.marked;
}

// REQUIRES: as TaskOf().
void ProcessExecutor::AskToStop(uint32_t index) {
  const uint64_t task = TaskOf(index);
  for (Worker& worker : workers_) {
    if (worker.claim->task.load(std::memory_order_relaxed) != task) continue;
    worker.claim->asked_to_stop.store(task, std::memory_order_relaxed);
    pending_[index].asked_to_stop = true;
  }
}

// False if the task has ended meanwhile, or nobody can say. REQUIRES: as
// TaskOf().
bool ProcessExecutor::KillWorkerOf(uint32_t index) {
  Pending& pending = pending_[index];
  const uint64_t task = TaskOf(index);
  for (Worker& worker : workers_) {
    Claim& claim = *worker.claim;
    if (claim.task.load(std::memory_order_relaxed) != task) continue;
    // It may have died before it removed the task, which is another's now.
    if (worker.running && !worker.process.IsAlive()) continue;
    claim.killed_for.store(task, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (claim.task.load(std::memory_order_acquire) == task) {
      pending.marked = board_.notices->Mark(task);
      // A worker that is only just being started is killed by StartWorker().
      if ((pending.marked || IsRemoved(pending, board_.tasks.gotten())) &&
          (!worker.running || worker.process.Kill().ok())) {
        return true;
      }
      if (pending.marked) board_.notices->Unmark(task);
      pending.marked = false;
    }
    claim.killed_for.store(0, std::memory_order_release);
  }
  return false;
}

// While the workers have plenty to do, naps. Otherwise spins, delivering what
// comes, and then sleeps: one thread as the leader, where results arrive, the
// others at their own gates. (Leader and followers, after D. C. Schmidt et al.,
// "Pattern-Oriented Software Architecture", volume 2. But here followers do not
// take over: the collector does, until the next leader comes.) To hear of a
// result from the collector takes a thread three times as long as from the
// worker; so the collector keeps away from where the leader sleeps, if that has
// not waited for milliseconds already.
bool ProcessExecutor::Wait(absl::FunctionRef<bool()> ready,
                           BasicGate<KernelPlatform>& gate, Deadline deadline) {
  // The results are for the pool's own process, which would miss them.
  if (IsForkedCopy()) return ready();
  waited_.store(true, std::memory_order_relaxed);
  const auto deliver = [&] {
    if (board_.results.HasRecord()) {
      const std::unique_lock lock(delivery_mutex_, std::try_to_lock);
      if (lock.owns_lock()) DeliverResults();
    }
    return ready();
  };
  if (deliver()) return true;
  for (int64_t nap; (nap = NapNanos()) > 0;) {
    if (NapAt(gate, ready, deadline.Sooner(nap)) || deliver()) return true;
    if (deadline.Expired()) return false;
    waited_.store(true, std::memory_order_relaxed);
  }
  if (board_.results.SpinUntil(delivery_spin_, deliver)) return true;
  if (HaveFutexWaitv() && !led_.exchange(true, std::memory_order_seq_cst) &&
      Lead(ready, gate, deadline)) {
    return true;
  }
  // In the one order of seq_cst: who finds a leader here has been counted
  // before that one leaves and looks at the count.
  dozing_.fetch_add(1, std::memory_order_seq_cst);
  const absl::Cleanup done = [this] {
    dozing_.fetch_sub(1, std::memory_order_relaxed);
  };
  FenceBeforeNotifyAfterRmw();
  if (!led_.load(std::memory_order_seq_cst)) collector_gate_.Notify();
  return gate.Sleep(ready, deadline);
}

// How long results may gather because the workers have enough to do meanwhile;
// 0 if they have not, or it is not known.
int64_t ProcessExecutor::NapNanos() const {
  if (!pace_.known()) return 0;
  // Half of it: large results do not fill a ring to the end.
  return pace_.Nap(board_.tasks.size(), board_.results.max_record_size() / 2);
}

// Sleeps, and learns how quickly the workers go through the tasks meanwhile.
bool ProcessExecutor::NapAt(BasicGate<KernelPlatform>& gate,
                            absl::FunctionRef<bool()> ready,
                            Deadline deadline) {
  const bool some_waited = board_.tasks.HasRecord();
  const uint32_t taken = board_.tasks.gotten();
  const int64_t begin = MonotonicNanos();
  const bool result = gate.Sleep(ready, deadline);
  if (!board_.tasks.HasRecord()) {
    pace_.Forget();
  } else if (some_waited) {
    pace_.Learn(MonotonicNanos() - begin, board_.tasks.gotten() - taken);
  }
  return result;
}

// As Wait(), but gives up also when no more results will come, and leaves it to
// the collector to wait for memory.
bool ProcessExecutor::Lead(absl::FunctionRef<bool()> ready,
                           BasicGate<KernelPlatform>& gate, Deadline deadline) {
  const absl::Cleanup leave = [this] {
    led_.exchange(false, std::memory_order_seq_cst);
    FenceBeforeNotifyAfterRmw();
    if (dozing_.load(std::memory_order_seq_cst) > 0) collector_gate_.Notify();
  };
  const auto is_needed = [&] { return ready() || board_.BacklogIsDue(); };
  while (!board_.results.closed() && !LacksMemory() &&
         board_.results.WaitForRecord(is_needed, gate, deadline)) {
    const std::lock_guard lock(delivery_mutex_);
    DeliverResults();
    if (ready()) return true;
    if (deadline.Expired()) break;  // though more may come, and more
  }
  return false;
}

// The collector's thread. Being woken for every result would cost the workers
// and itself many times what delivering one does. So it leaves them to threads
// that wait, and when there are none, it lets them gather for a while before it
// waits for the next.
void ProcessExecutor::Collect() {
  int64_t pause = TaskPace::kShortest;
  do {
    const bool others =
        waited_.exchange(false, std::memory_order_relaxed) && !NeedsCollector();
    if (!others) {
      board_.results.WaitForRecord(
          [this] { return callbacks_.HasAny() || board_.BacklogIsDue(); },
          Deadline::Infinite());
    }
    size_t delivered = 0;
    {
      const std::lock_guard delivery(delivery_mutex_);
      delivered = DeliverResults();
    }
    callbacks_.RunAll();
    if (LacksMemory()) {
      absl::SleepFor(kNoMemoryPause);
    } else if (const int64_t nap = NapNanos();
               nap > 0 || MayGather(delivered)) {
      pause = others ? std::min(2 * pause, TaskPace::kLongest)
                     : std::max(nap, TaskPace::kShortest);
      NapAt(
          collector_gate_,
          [&] { return nap > 0 ? HasUrgentWork() : NeedsCollector(); },
          Deadline::Infinite().Sooner(pause));
    }
    // The supervisor closes the ring when all sinks have been called.
  } while (!board_.results.closed() || board_.results.HasRecord());
  callbacks_.End();
}

// Whether there is something that only the collector does: at once, or when the
// workers have not plenty to do.
bool ProcessExecutor::HasUrgentWork() const {
  return callbacks_.HasAny() || board_.results.closed();
}
bool ProcessExecutor::NeedsCollector() const {
  return HasUrgentWork() || board_.notices->backlog() ||
         (dozing_.load(std::memory_order_relaxed) > 0 &&
          !led_.load(std::memory_order_relaxed));
}

// Whether the workers neither run out of tasks nor of room for results, at the
// rate of what was `delivered` last, while nobody looks after them for a while.
bool ProcessExecutor::MayGather(size_t delivered) const {
  const std::lock_guard lock(mutex_);
  return backlog_.empty() && delivered < board_.results.max_record_size() / 4;
}

// Whether tasks wait for the machine to have memory for them.
bool ProcessExecutor::LacksMemory() const {
  const std::lock_guard lock(mutex_);
  return no_memory_ && !backlog_.empty();
}

void ProcessExecutor::Post(std::function<void()> callback) {
  if (IsForkedCopy()) return;
  callbacks_.Post(std::move(callback), [this] {
    board_.results.WakeConsumer();
    collector_gate_.Notify();
  });
}

void ProcessExecutor::Supervise() {
  for (;;) {
    const Deadline next_leave = SendAway();
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
    const int leave_millis = next_leave.ToPollMillis();
    const int millis = retry_millis < 0 || leave_millis < 0
                           ? std::max(retry_millis, leave_millis)
                           : std::min(retry_millis, leave_millis);
    if (poll(polled.data(), polled.size(), millis) < 0) {
      MP_PCHECK(errno == EINTR) << "poll";
      continue;
    }
    const int64_t now = MonotonicNanos();
    uint64_t ignored;
    [[maybe_unused]] const ssize_t drained =
        read(wake_supervisor_.get(), &ignored, sizeof(ignored));
    for (size_t i = 0; i < watched.size(); ++i) {
      if (polled[i + 1].revents != 0) SettleDeath(watched[i], now);
    }
  }
  const std::lock_guard delivery(delivery_mutex_);
  DeliverResults();
  FailAll(PoolTerminatedError());
  if (timeline_ != nullptr) timeline_->Finish();
  board_.results.Close();
  collector_gate_.Notify();
}

// Tells workers to leave that are not needed. Returns when it is to be called
// again if nothing happens before.
Deadline ProcessExecutor::SendAway() {
  const bool for_idleness = idle_timeout_ != absl::InfiniteDuration();
  const absl::Duration now = absl::Nanoseconds(MonotonicNanos());
  absl::Duration next = idle_timeout_;
  bool told = false;
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < workers_.size(); ++i) {
      Worker& worker = workers_[i];
      Claim& claim = *worker.claim;
      if (!worker.running ||
          claim.told_to_leave.load(std::memory_order_relaxed) != 0) {
        continue;
      }
      if (i < wanted_) {
        if (!for_idleness) continue;
        const int64_t since = claim.meter.waits_since_nanos();
        if (since == 0) continue;
        const absl::Duration left =
            absl::Nanoseconds(since) + idle_timeout_ - now;
        if (left > absl::ZeroDuration()) {
          next = std::min(next, left);
          continue;
        }
        worker.sent_away = true;
        ++sent_away_;
      }
      claim.told_to_leave.store(1, std::memory_order_relaxed);
      told = true;
    }
  }
  if (told) board_.tasks.WakeAll();
  return Deadline::After(next);
}

// The time until it is to be called again; -1 if no worker is missing.
int ProcessExecutor::StartMissingWorkers() {
  size_t wanted = 0;
  {
    const std::lock_guard lock(mutex_);
    recalls_ = false;
    wanted = wanted_;
  }
  for (size_t i = 0; i < wanted; ++i) {
    if (i < workers_.size()) {
      const std::lock_guard lock(mutex_);
      if (!IsMissing(i)) continue;
    }
    const Deadline next_start = Deadline::AtNanos(next_start_nanos_);
    if (!next_start.Expired()) return next_start.ToPollMillis();
    if (absl::Status status = StartMissing(i); !status.ok()) {
      std::cerr << "mp::Pool: cannot start a worker, will try again: "
                << status.ToString() << "\n";
      return kRetryMillis;
    }
  }
  return -1;
}

absl::Status ProcessExecutor::StartMissing(size_t index) {
  if (index == workers_.size()) {
    if (absl::Status status = AddWorker(); !status.ok()) return status;
  }
  return StartWorker(index);
}

// REQUIRES: mutex_ held.
bool ProcessExecutor::IsMissing(size_t index) const {
  const Worker& worker = workers_[index];
  if (worker.running || !NeedsWorkers()) return false;
  if (!worker.sent_away) return true;
  const auto is_free = [](const Worker& each) {
    return each.running &&
           each.claim->task.load(std::memory_order_relaxed) == 0 &&
           each.claim->told_to_leave.load(std::memory_order_relaxed) == 0;
  };
  const auto free = std::count_if(workers_.begin(), workers_.end(), is_free);
  return board_.tasks.size() + backlog_.size() > static_cast<size_t>(free);
}

// Whether workers that have died are to be replaced. REQUIRES: mutex_ held.
bool ProcessExecutor::NeedsWorkers() const {
  switch (state_) {
    case State::kRunning:
      return true;
    case State::kClosing:
      return !backlog_.empty() || board_.tasks.HasRecord();
    case State::kTerminated:
      return false;
  }
  return false;
}

void ProcessExecutor::SettleDeath(size_t index, int64_t noticed_nanos) {
  Worker& worker = workers_[index];
  const std::string name = worker.process.name();
  const pid_t pid = worker.process.pid().value_or(0);
  worker.process.Join().IgnoreError();
  // It may have died with a wake-up that another one needs (ExpectHelp()).
  board_.tasks.WakeAll();
  const int exitcode = worker.process.exitcode().value_or(kExitCodeUnknown);
  SettleClaim(index, name, pid, exitcode, noticed_nanos);
}

// What a dead worker, which was seen to be dead at that time, leaves behind.
void ProcessExecutor::SettleClaim(size_t index, const std::string& name,
                                  pid_t pid, int exitcode,
                                  int64_t noticed_nanos) {
  Worker& worker = workers_[index];
  // The order of the reads matters: see the header.
  const std::lock_guard delivery(delivery_mutex_);
  const uint32_t removed = board_.tasks.gotten();
  std::vector<uint64_t> claims;
  for (const Worker& each : workers_) {
    claims.push_back(each.claim->task.load(std::memory_order_acquire));
  }
  DeliverResults();

  // Of the task that it claims. A kill by somebody else is taken for one by the
  // kernel only if this process noticed it no sooner than the limit.
  const int64_t hard_deadline =
      worker.claim->hard_deadline_nanos.load(std::memory_order_acquire);
  const bool over_limit =
      (exitcode == -SIGKILL || exitcode == kExitCodeUnknown) &&
      hard_deadline != 0 && noticed_nanos >= hard_deadline;
  const absl::Duration hard_limit = absl::Nanoseconds(
      worker.claim->hard_limit_nanos.load(std::memory_order_relaxed));

  if (claims[index] == 0 &&
      worker.claim->told_to_leave.load(std::memory_order_relaxed) == 0) {
    CountIdleDeath(worker, name, pid, exitcode);
  }

  std::shared_ptr<TaskSink> sink;
  const uint64_t claim = claims[index];
  const uint32_t task = IndexOfTask(claim);
  if (claim != 0 && std::count(claims.begin(), claims.end(), claim) == 1) {
    const std::lock_guard lock(mutex_);
    // The dead of Terminate() are no surprise: FailAll() follows.
    if (state_ != State::kTerminated && task < pending_.size() &&
        pending_[task].sink != nullptr && pending_[task].number.has_value() &&
        TaskOf(task) == claim && IsRemoved(pending_[task], removed)) {
      sink = pending_[task].sink;
    }
  }
  {
    const std::lock_guard lock(mutex_);
    worker.claim->task.store(0, std::memory_order_relaxed);
    worker.claim->killed_for.store(0, std::memory_order_relaxed);
    worker.claim->hard_deadline_nanos.store(0, std::memory_order_relaxed);
    worker.running = false;
    worker.process = Process();
  }
  if (timeline_ != nullptr) {
    if (sink != nullptr) TraceDeath(index, task);
    timeline_->EndWorker(index, DescribeEnd(exitcode));
  }
  if (sink != nullptr) {
    TakeSink(task);
    if (over_limit) {
      sink->Fail(HardLimitError(name, pid, hard_limit));
    } else {
      sink->WorkerDied(
          WorkerDiedError(name, pid, exitcode, worker.last_words->Read()));
    }
  }
}

// In the timeline: a worker has died that had a task.
void ProcessExecutor::TraceDeath(size_t place, uint32_t index) {
  Trace trace;
  {
    const std::lock_guard lock(mutex_);
    if (index >= traces_.size()) return;
    trace = traces_[index];
  }
  timeline_->AddTask(place, {.code = trace.code,
                             .submitted = trace.submitted,
                             .begin = workers_[place].claim->begun_nanos.load(
                                 std::memory_order_relaxed),
                             .end = MonotonicNanos(),
                             .outcome = "worker died"});
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
  // A fork without an initializer has nothing to fail in.
  if (!initializer_ && start_method_ == StartMethod::kFork) return;
  const bool from_outside = IsSignalFromOutside(exitcode);
  if (from_outside && start_deaths_.length < kMaxStartDeaths) return;
  const std::string what =
      absl::StrCat(ToAbsl(name), " (pid ", pid, ") ", DescribeEnd(exitcode),
                   from_outside ? ", as others before" : "",
                   DescribeLastWords(worker.last_words->Read()));
  FailPool(initializer_
               ? InitializerError(absl::StatusCode::kAborted, what)
               : absl::AbortedError(absl::StrCat(
                     "the pool's workers end before they are ready: ", what)));
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
    board_.notices->set_backlog(false);
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
  if (absl::Status ended = callbacks_.WaitForEnd(deadline); !ended.ok()) {
    return ended;
  }
  // They have nothing more to do.
  const std::lock_guard lock(join_mutex_);
  if (supervisor_.joinable()) supervisor_.join();
  if (collector_.joinable()) collector_.join();
  return absl::OkStatus();
}

void ProcessExecutor::EndAtExit() {
  Terminate();
  if (Join(Deadline::Infinite()).ok()) return;
  // exit() was called in a callback: the collector is this thread.
  const std::lock_guard lock(join_mutex_);
  if (supervisor_.joinable()) supervisor_.join();
}

int ProcessExecutor::workers() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(wanted_);
}

absl::Status ProcessExecutor::Resize(int workers) {
  if (workers < 1) return NoWorkersError(workers);
  if (IsForkedCopy()) return ForkedPoolError();
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return DeepCopy(failure_);
    if (state_ != State::kRunning) return PoolClosedError();
    wanted_ = static_cast<size_t>(workers);
    // Whoever was sent away from a place that is gone, left it for good.
    for (size_t i = wanted_; i < workers_.size(); ++i) {
      if (std::exchange(workers_[i].sent_away, false)) --sent_away_;
    }
  }
  Interrupt();
  return absl::OkStatus();
}

PoolStats ProcessExecutor::Stats() const {
  PoolStats stats;
  if (IsForkedCopy()) return stats;
  const std::lock_guard lock(mutex_);
  stats.waiting = static_cast<int64_t>(board_.tasks.size() + backlog_.size());
  for (const Worker& worker : workers_) {
    if (!worker.running) continue;
    const Claim& claim = *worker.claim;
    if (claim.task.load(std::memory_order_relaxed) != 0) ++stats.running;
    const absl::Duration alive = claim.meter.Alive();
    stats.workers.push_back(
        {.name = worker.process.name(),
         .pid = worker.process.pid().value_or(0),
         .alive = alive,
         .idle = claim.meter.Idle(alive),
         .tasks = static_cast<int64_t>(
             claim.done.load(std::memory_order_relaxed) - worker.done),
         .restarts = worker.launches - 1});
  }
  return stats;
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
