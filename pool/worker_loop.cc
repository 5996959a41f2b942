#include "mp/pool/worker_loop.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <span>
#include <string>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/ipc/codec.h"
#include "mp/pool/executor.h"
#include "mp/pool/executor_options.h"
#include "mp/pool/memory_growth.h"
#include "mp/pool/pinning.h"
#include "mp/pool/worker.h"
#include "mp/process/process.h"
#include "mp/shm/gate.h"
#include "mp/shm/liveness.h"

namespace mp::pool_internal {
namespace {

using ipc_internal::Ring;
using ipc_internal::RingResult;

constexpr size_t kSmallResult = 4096;

// As well as that can be: the processor may be gone since the pool was made.
void StayOn(int processor) {
  if (processor == WorkerPlan::kAnyProcessor) return;
  if (absl::Status status = PinThisThread(processor); !status.ok()) {
    std::cerr << "mp::Pool: a worker is not pinned: " << status.ToString()
              << "\n";
  }
}

class WorkerOutput final : public TaskOutput {
 public:
  WorkerOutput(WorkerPlan& plan, ForeignCode& code, uint32_t index)
      : plan_(plan), code_(code), index_(index) {
    if (ABSL_PREDICT_FALSE(plan.has_timeline)) {
      begun_nanos_ = MonotonicNanos();
      plan.claim->begun_nanos.store(begun_nanos_, std::memory_order_relaxed);
    }
  }

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

  absl::StatusOr<CodeAddress> FindCode(uint64_t address) override {
    return code_.Find(address);
  }

  size_t max_size() const override {
    return plan_.board.max_result_size() -
           (plan_.has_timeline ? sizeof(TaskTimes) : 0);
  }

  absl::Status TooLarge(size_t size) const override {
    return ResultTooLargeError(size, max_size());
  }

  bool ended() const { return ended_; }

 private:
  void Put(ResultHeader::Kind kind, size_t size, Encoder encode) {
    MP_CHECK(!ended_) << "a task that ends twice";
    const ResultHeader header = {.index = index_, .kind = kind};
    const bool has_times = plan_.has_timeline && kind != ResultHeader::kPart;
    const TaskTimes times = {.begin_nanos = begun_nanos_,
                             .end_nanos = has_times ? MonotonicNanos() : 0,
                             .place = plan_.place};
    const size_t head = sizeof(header) + (has_times ? sizeof(times) : 0);
    absl::Status encoded;
    const auto put = [&] {
      return plan_.board.results.Put(
          head + size,
          [&](std::byte* to, uint32_t) {
            memcpy(to, &header, sizeof(header));
            if (has_times) memcpy(to + sizeof(header), &times, sizeof(times));
            encoded = encode(std::span(to + head, size));
            // Who waits for this may have a task for this worker at once. To
            // destroy a large result takes its time.
            if (encoded.ok() && kind != ResultHeader::kPart &&
                size <= kSmallResult) {
              plan_.board.tasks.ExpectRecord();
            }
            return encoded.ok();
          },
          Deadline::Infinite(), Ring::WatchOne{plan_.board.owner});
    };
    RingResult result = put();
    // The machine has no memory for it at the moment.
    while (ABSL_PREDICT_FALSE(result == RingResult::kNoMemory) &&
           !Liveness::IsDead(plan_.board.owner)) {
      absl::SleepFor(absl::Milliseconds(10));
      result = put();
    }
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

  WorkerPlan& plan_;
  ForeignCode& code_;
  const uint32_t index_;
  int64_t begun_nanos_ = 0;
  bool ended_ = false;
};

}  // namespace

// A task that has been removed from the ring.
struct WorkerLoop::Taken {
  uint64_t task = 0;
  TaskHeader header = {};
  LimitsHeader limits;
  absl::Status read;  // its input, if OK
};

int RunWorker(WorkerPlan plan) { return WorkerLoop(std::move(plan)).Run(); }

int WorkerLoop::Run() {
  // Ctrl-C is for the whole group of processes, but what becomes of the tasks
  // is for the pool's process to say, with which the workers end in any case.
  // A handler, not SIG_IGN: programs that a task runs would inherit that.
  struct sigaction nothing = {};
  nothing.sa_handler = [](int) {};
  nothing.sa_flags = SA_RESTART;
  sigaction(SIGINT, &nothing, nullptr);
  // If the thread that this process was made in is a worker itself. Its object
  // is not destroyed: it is that thread's.
  SetWorkerName({});
  SetThreadTaskStop(nullptr);
  if (CurrentWorkerObject().type != nullptr) {
    new WorkerObject(std::exchange(CurrentWorkerObject(), {}));
  }
  SpeakBeforeDying(plan_.last_words);
  StayOn(plan_.processor);
  Claim& claim = *plan_.claim;
  if (plan_.initializer) {
    absl::StatusOr<WorkerObject> object = plan_.initializer.Run();
    if (!object.ok()) {
      ReportFailedInitializer(object.status());
      return EXIT_FAILURE;
    }
    CurrentWorkerObject() = *std::move(object);
  }
  const absl::Cleanup destroy_object = [] { CurrentWorkerObject() = {}; };
  SetProcessTaskStop(&stop_);
  const absl::Cleanup no_more_tasks = [] { SetProcessTaskStop(nullptr); };
  const MemoryGrowth growth(plan_.max_growth_bytes);
  const auto is_told_to_leave = [&claim] {
    return claim.told_to_leave.load(std::memory_order_relaxed) != 0;
  };
  claim.meter.Ready();
  claim.starts.fetch_add(1, std::memory_order_relaxed);
  for (int tasks = 0;
       plan_.maxtasksperchild == 0 || tasks < plan_.maxtasksperchild; ++tasks) {
    if (ABSL_PREDICT_FALSE(is_told_to_leave())) break;
    Taken taken;
    const RingResult result = Take(taken);
    if (result == RingResult::kClosed) break;
    if (result == RingResult::kTimedOut && is_told_to_leave()) break;
    // The owner of the pool is dead, or has destroyed the pool's memory.
    if (result != RingResult::kDone) return EXIT_FAILURE;
    Do(taken);
    claim.done.fetch_add(1, std::memory_order_relaxed);
    // Release: whoever sees the claim gone sees the result.
    claim.task.store(0, std::memory_order_release);
    if (ABSL_PREDICT_FALSE(growth.IsTooMuch())) break;
  }
  plan_.board.tasks.EndExpecting();
  return EXIT_SUCCESS;
}

RingResult WorkerLoop::Take(Taken& taken) {
  Claim& claim = *plan_.claim;
  const auto use = [&](std::span<const std::byte> bytes, uint32_t number) {
    // Behind the acquisition of the ring's lock, which followed the end of the
    // claim: pairs with the fence of who kills.
    FenceBeforeNotifyAfterRmw();
    if (ABSL_PREDICT_FALSE(claim.killed_for.load(std::memory_order_relaxed) !=
                           0)) {
      return false;
    }
    taken.header = ReadHeader<TaskHeader>(bytes);
    if (ABSL_PREDICT_FALSE(taken.header.has_limits != 0)) {
      taken.limits = ReadHeader<LimitsHeader>(bytes);
    }
    try {
      input_.assign(bytes.begin(), bytes.end());
    } catch (...) {
      // There is no memory for it. If the task stayed in the ring, that would
      // be the end of one worker after the other.
      taken.read = ExceptionError();
    }
    taken.task = PackTask(taken.header.index, number);
    // Relaxed: Get's release of the new head, which follows, publishes it.
    claim.task.store(taken.task, std::memory_order_relaxed);
    return true;
  };
  // Called before each sleep.
  const auto watch = [&](WatchList& list) {
    if (claim.meter.waits_since_nanos() == 0) claim.meter.BeginWait();
    list.ExpectHelp();  // from the pool's process: see SettleDeath()
    return claim.told_to_leave.load(std::memory_order_relaxed) == 0 &&
           Ring::WatchOne{plan_.board.owner}(list);
  };
  for (;;) {
    const RingResult result =
        plan_.board.tasks.Get(use, Deadline::Infinite(), watch);
    plan_.board.tasks.EndExpecting();
    if (ABSL_PREDICT_FALSE(claim.meter.waits_since_nanos() != 0)) {
      claim.meter.EndWait();
    }
    if (ABSL_PREDICT_TRUE(result != RingResult::kAborted)) return result;
    AwaitVerdict();
  }
}

// The pool's process is about to kill this one, or to see that it is too late
// for that.
void WorkerLoop::AwaitVerdict() {
  while (plan_.claim->killed_for.load(std::memory_order_acquire) != 0) {
    if (Liveness::IsDead(plan_.board.owner)) Exit(EXIT_FAILURE);
    absl::SleepFor(absl::Microseconds(50));
  }
}

void WorkerLoop::Do(const Taken& taken) {
  TaskBoard& board = plan_.board;
  WorkerOutput output(plan_, code_, taken.header.index);
  // Behind the release of the ring's lock: pairs with the fences of who cancels
  // and who submits.
  FenceBeforeNotifyAfterRmw();
  if (ABSL_PREDICT_FALSE(board.BacklogIsDue())) board.results.WakeConsumer();
  const absl::Status error = Call(taken, output);
  if (ABSL_PREDICT_FALSE(!error.ok())) output.Fail(error);
  MP_CHECK(output.ended()) << "a task without an end";
}

// Returns what the task fails with if it has not come to an end itself.
absl::Status WorkerLoop::Call(const Taken& taken, TaskOutput& output) {
  if (ABSL_PREDICT_FALSE(plan_.board.notices->IsMarked(taken.task))) {
    return TaskCancelledError();
  }
  if (ABSL_PREDICT_FALSE(!taken.read.ok())) return taken.read;
  const absl::StatusOr<CodeAddress> function =
      code_.Find(taken.header.function);
  if (ABSL_PREDICT_FALSE(!function.ok())) return function.status();

  const bool has_limits = taken.header.has_limits != 0;
  absl::Status error;
  if (ABSL_PREDICT_FALSE(has_limits)) error = BeginLimits(taken.limits);
  if (ABSL_PREDICT_TRUE(error.ok())) {
    stop_.task.store(taken.task, std::memory_order_relaxed);
    try {
      const auto run = reinterpret_cast<TaskFunction>(function.value());
      run(input_, output);
    } catch (...) {
      error = ExceptionError();
    }
    stop_.task.store(0, std::memory_order_relaxed);
  }
  if (ABSL_PREDICT_FALSE(has_limits)) EndLimits();
  return error;
}

absl::Status WorkerLoop::BeginLimits(const LimitsHeader& limits) {
  const int64_t now = MonotonicNanos();
  const auto after = [now](int64_t nanos) {
    return nanos < LimitsHeader::kNone - now ? now + nanos
                                             : LimitsHeader::kNone;
  };
  stop_.soft_deadline_nanos.store(after(limits.soft),
                                  std::memory_order_relaxed);
  const int64_t hard_deadline = after(limits.hard);
  if (hard_deadline == LimitsHeader::kNone) return absl::OkStatus();
  Claim& claim = *plan_.claim;
  claim.hard_limit_nanos.store(limits.hard, std::memory_order_relaxed);
  // Release: for who sees it when this process is dead.
  claim.hard_deadline_nanos.store(hard_deadline, std::memory_order_release);
  return kill_timer_.Arm(hard_deadline);
}

void WorkerLoop::EndLimits() {
  kill_timer_.Disarm();
  plan_.claim->hard_deadline_nanos.store(0, std::memory_order_relaxed);
  stop_.soft_deadline_nanos.store(LimitsHeader::kNone,
                                  std::memory_order_relaxed);
}

void WorkerLoop::ReportFailedInitializer(const absl::Status& error) {
  Ring& results = plan_.board.results;
  absl::Status report =
      InitializerError(error.code(), std::string(error.message()));
  const size_t most = results.max_record_size() / 2;
  if (EncodedSize(report) > most) {
    report = absl::Status(report.code(), report.message().substr(0, most / 2));
  }
  const ResultHeader header = {.index = 0, .kind = ResultHeader::kNoStart};
  const size_t size = EncodedSize(report);
  // If nobody is left to take it, there is nobody to be told.
  results.Put(
      sizeof(header) + size,
      [&](std::byte* to, uint32_t) {
        memcpy(to, &header, sizeof(header));
        return Encode(report, std::span(to + sizeof(header), size)).ok();
      },
      Deadline::Infinite(), Ring::WatchOne{plan_.board.owner});
}

}  // namespace mp::pool_internal

namespace mp {
namespace {

using ipc_internal::Ring;
using pool_internal::Claim;
using pool_internal::LastWords;
using pool_internal::Notices;
using pool_internal::WorkerPlan;

// Calls `f` with everything that travels, in the order of Read().
template <class F>
auto WithParts(const WorkerPlan& plan, F f) {
  return f(plan.board.tasks, plan.board.results, plan.board.notices,
           plan.board.owner, plan.claim, plan.last_words, plan.initializer,
           plan.maxtasksperchild, plan.max_growth_bytes, plan.processor,
           plan.place, plan.has_timeline, plan.code);
}

}  // namespace

size_t Codec<WorkerPlan>::Size(const WorkerPlan& plan) {
  return WithParts(plan, [](const auto&... parts) {
    return (size_t{0} + ... + EncodedSize(parts));
  });
}

void Codec<WorkerPlan>::Write(const WorkerPlan& plan, Writer& writer) {
  WithParts(plan,
            [&writer](const auto&... parts) { (writer.Write(parts), ...); });
}

WorkerPlan Codec<WorkerPlan>::Read(Reader& reader) {
  // Braces: from the first to the last.
  return WorkerPlan{
      .board = {.tasks = reader.Read<Ring>(),
                .results = reader.Read<Ring>(),
                .notices = reader.Read<std::shared_ptr<Notices>>(),
                .owner = reader.Read<Token>()},
      .claim = reader.Read<std::shared_ptr<Claim>>(),
      .last_words = reader.Read<std::shared_ptr<LastWords>>(),
      .initializer = reader.Read<Initializer>(),
      .maxtasksperchild = reader.Read<int>(),
      .max_growth_bytes = reader.Read<size_t>(),
      .processor = reader.Read<int>(),
      .place = reader.Read<uint64_t>(),
      .has_timeline = reader.Read<bool>(),
      .code = reader.Read<std::vector<CodeRange>>()};
}

}  // namespace mp
