#include "mp/pool/worker_loop.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/ipc/codec.h"
#include "mp/pool/executor.h"
#include "mp/pool/executor_options.h"
#include "mp/pool/worker.h"
#include "mp/process/process.h"
#include "mp/shm/platform.h"

namespace mp::pool_internal {
namespace {

using ipc_internal::Ring;
using ipc_internal::RingResult;

class WorkerOutput final : public TaskOutput {
 public:
  WorkerOutput(TaskBoard& board, uint32_t index)
      : board_(board), index_(index) {}

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

  size_t max_size() const override { return board_.max_result_size(); }

  absl::Status TooLarge(size_t size) const override {
    return ResultTooLargeError(size, max_size());
  }

  bool ended() const { return ended_; }

 private:
  void Put(ResultHeader::Kind kind, size_t size, Encoder encode) {
    MP_CHECK(!ended_) << "a task that ends twice";
    const ResultHeader header = {.index = index_, .kind = kind};
    absl::Status encoded;
    const RingResult result = board_.results.Put(
        sizeof(header) + size,
        [&](std::byte* to, uint32_t) {
          memcpy(to, &header, sizeof(header));
          encoded = encode(std::span(to + sizeof(header), size));
          return encoded.ok();
        },
        Deadline::Infinite(), Ring::WatchOne{board_.owner});
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

  TaskBoard& board_;
  const uint32_t index_;
  bool ended_ = false;
};

}  // namespace

// A task that has been removed from the ring.
struct WorkerLoop::Taken {
  uint64_t task = 0;
  TaskHeader header = {};
  absl::Status read;  // its input, if OK
};

int WorkerLoop::Run() {
  // Ctrl-C is for the whole group of processes, but what becomes of the tasks
  // is for the pool's process to say, with which the workers end in any case.
  signal(SIGINT, SIG_IGN);
  // If the thread that this process was made in is a worker itself. Its object
  // is not destroyed: it is that thread's.
  SetWorkerName({});
  new WorkerObject(std::exchange(CurrentWorkerObject(), {}));
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
  claim.starts.fetch_add(1, std::memory_order_relaxed);
  for (int tasks = 0;
       plan_.maxtasksperchild == 0 || tasks < plan_.maxtasksperchild; ++tasks) {
    Taken taken;
    const RingResult result = Take(taken);
    if (result == RingResult::kClosed) return EXIT_SUCCESS;
    // The owner of the pool is dead, or has destroyed the pool's memory.
    if (result != RingResult::kDone) return EXIT_FAILURE;
    Do(taken);
    claim.done.fetch_add(1, std::memory_order_relaxed);
    // Release: whoever sees the claim gone sees the result.
    claim.task.store(0, std::memory_order_release);
  }
  return EXIT_SUCCESS;
}

RingResult WorkerLoop::Take(Taken& taken) {
  return plan_.board.tasks.Get(
      [&](std::span<const std::byte> bytes, uint32_t number) {
        taken.header = ReadHeader<TaskHeader>(bytes);
        try {
          input_.assign(bytes.begin(), bytes.end());
        } catch (...) {
          // There is no memory for it. If the task stayed in the ring, that
          // would be the end of one worker after the other.
          taken.read = ExceptionError();
        }
        taken.task = PackTask(taken.header.index, number);
        // Relaxed: Get's release of the new head, which follows, publishes it.
        plan_.claim->task.store(taken.task, std::memory_order_relaxed);
      },
      Deadline::Infinite(), Ring::WatchOne{plan_.board.owner});
}

void WorkerLoop::Do(const Taken& taken) {
  TaskBoard& board = plan_.board;
  WorkerOutput output(board, taken.header.index);
  // Behind the release of the ring's lock: pairs with the fences of who cancels
  // and who submits.
  FenceBeforeNotifyAfterRmw();
  if (ABSL_PREDICT_FALSE(board.BacklogIsDue())) board.results.WakeConsumer();
  if (ABSL_PREDICT_FALSE(board.notices->IsMarked(taken.task))) {
    output.Fail(TaskCancelledError());
  } else if (ABSL_PREDICT_FALSE(!taken.read.ok())) {
    output.Fail(taken.read);
  } else {
    try {
      taken.header.function(input_, output);
    } catch (...) {
      output.Fail(ExceptionError());
    }
  }
  MP_CHECK(output.ended()) << "a task without an end";
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
