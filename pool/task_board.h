// What a pool's process and its workers share: a ring of tasks, a ring of
// results, a claim for each worker, and notices. And the rules that hold
// between the two sides. Internal to the executor of processes.
//
//   the pool's process ──► tasks ──► workers ──► results ──► the pool's process
//
// Exactly one end for every task. Before a worker removes a task from the ring
// it writes the task into its claim. When a worker has died, the pool reads, in
// this order: how many tasks have been removed; all claims; all results that
// are there. The dead worker's claim is a task it took with it if and only if
// that task has been removed, no other worker claims it, and its result is not
// among those. (If the worker died before removing it, another one has taken it
// since: then that one's claim, written before the removal, or its result,
// written before the next claim, is seen.)
//
// Cancelling. The canceller marks the task and then looks at the claims, and at
// how many tasks have been removed; a worker claims and removes a task and then
// looks at the marks. So if the canceller sees neither claim nor removal, the
// worker will see the mark, and skip the task. Otherwise the canceller takes
// the mark back, and it is the task's outcome that tells.
//
// Killing the worker of a task that runs. The pool writes the task into the
// claim as one to be killed for, and then looks whether it is claimed still. If
// so, it kills the worker; if not, it takes that back. A worker that takes a
// task has given up its claim to the one before, then acquires the lock of the
// ring, and looks whether it is to be killed before it takes anything. So if
// the pool sees the claim, the worker will take no other task: it waits, for
// its end or until that was taken back. If the pool sees a claim to a task that
// has not been removed yet, it marks the task as well, for it stays in the ring
// if the worker dies before.
//
// The backlog. Tasks that find the ring full wait in the pool's own process, to
// be put when results are delivered, or when the ring has run empty. The
// submitter says in shared memory that some wait, and then tries the ring once
// more; a worker removes a task, and then looks whether some wait. So if the
// submitter still finds the ring full, then whoever removes the last task in it
// sees that some wait, and wakes the pool's process. No worker idles meanwhile.

#ifndef MP_POOL_TASK_BOARD_H_
#define MP_POOL_TASK_BOARD_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "mp/base/check.h"
#include "mp/ipc/ring.h"
#include "mp/pool/executor.h"
#include "mp/pool/worker_meter.h"
#include "mp/shm/liveness.h"

namespace mp::pool_internal {

// ---- messages ----

// In front of a task's input.
struct TaskHeader {
  uint64_t function;  // a TaskFunction's address in the pool's process
  uint32_t index;
  uint32_t has_limits;  // if not 0, LimitsHeader comes next
};
// In nanoseconds; the largest number for none.
struct LimitsHeader {
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  int64_t soft = kNone;
  int64_t hard = kNone;
};

// In front of a part of a result, or an error.
struct ResultHeader {
  // kNoStart: a worker's initializer has failed; no task's result.
  enum Kind : uint32_t { kPart, kFinish, kFail, kNoStart };
  uint32_t index;
  Kind kind;
};

// Behind the header of what ends a task, if the pool has a timeline.
// CLOCK_MONOTONIC.
struct TaskTimes {
  int64_t begin_nanos;
  int64_t end_nanos;
  uint64_t place;  // of the worker
};

inline constexpr char kPoolMemoryOverwritten[] =
    "a pool's memory was overwritten";

template <class T>
T ReadHeader(std::span<const std::byte>& bytes) {
  MP_CHECK(bytes.size() >= sizeof(T)) << kPoolMemoryOverwritten;
  T header;
  memcpy(&header, bytes.data(), sizeof(T));
  bytes = bytes.subspan(sizeof(T));
  return header;
}

// ---- beside the rings ----

// A task in the ring: where the pool keeps it, and its number in the ring,
// which tells it from later ones in the same place. Never 0.
constexpr uint64_t PackTask(uint32_t index, uint32_t number) {
  return (uint64_t{index} + 1) << 32 | number;
}
constexpr uint32_t IndexOfTask(uint64_t task) {
  return static_cast<uint32_t>(task >> 32) - 1;
}
constexpr uint32_t NumberOfTask(uint64_t task) {
  return static_cast<uint32_t>(task);
}

// Which number it is, of those that the ring has counted modulo 2^32, if it is
// less than 2^31 away from `near`.
constexpr uint64_t FullNumber(uint64_t near, uint32_t number) {
  const auto difference =
      static_cast<int32_t>(number - static_cast<uint32_t>(near));
  return near + static_cast<uint64_t>(int64_t{difference});
}

// A worker's; passes on to the one that takes its place.
struct alignas(64) Claim {
  // The task that the worker has, or is about to remove from the ring; or 0.
  std::atomic<uint64_t> task{0};
  // How many workers with this claim were ready for tasks, and how many tasks
  // they have done.
  std::atomic<uint64_t> starts{0};
  std::atomic<uint64_t> done{0};
  // Written by the pool's process: the task that is asked to stop, and the task
  // for whose sake the worker is being killed; or 0.
  std::atomic<uint64_t> asked_to_stop{0};
  std::atomic<uint64_t> killed_for{0};
  // If the task has a hard limit, for as long as that is watched: the limit,
  // and when it ends (CLOCK_MONOTONIC); or 0.
  std::atomic<int64_t> hard_limit_nanos{0};
  std::atomic<int64_t> hard_deadline_nanos{0};
  // Written by the pool's process. Not 0: the worker is to leave before it
  // takes another task; if it sleeps, Ring::WakeAll() has it look.
  std::atomic<uint32_t> told_to_leave{0};
  // When the task began, if the pool has a timeline.
  std::atomic<int64_t> begun_nanos{0};
  WorkerMeter meter;
};

// What workers are told beside the tasks. Written by the pool's process, by one
// thread at a time.
class Notices {
 public:
  // Whether the backlog is not empty.
  bool backlog() const { return backlog_.load(std::memory_order_relaxed) != 0; }
  void set_backlog(bool some_wait) {
    backlog_.store(some_wait ? 1 : 0, std::memory_order_relaxed);
  }

  // Marks a task in the ring as cancelled. False if the place that its number
  // gives it is taken by another.
  bool Mark(uint64_t task) {
    std::atomic<uint64_t>& mark = marks_[NumberOfTask(task) % kMarks];
    if (mark.load(std::memory_order_relaxed) != 0) return false;
    mark.store(task, std::memory_order_relaxed);
    cancels_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  void Unmark(uint64_t task) {
    marks_[NumberOfTask(task) % kMarks].store(0, std::memory_order_relaxed);
    cancels_.fetch_sub(1, std::memory_order_relaxed);
  }
  bool IsMarked(uint64_t task) const {
    return cancels_.load(std::memory_order_relaxed) != 0 &&
           marks_[NumberOfTask(task) % kMarks].load(
               std::memory_order_relaxed) == task;
  }

 private:
  static constexpr size_t kMarks = 4096;

  std::atomic<uint32_t> backlog_{0};
  std::atomic<uint64_t> cancels_{0};
  std::array<std::atomic<uint64_t>, kMarks> marks_;
};

// Handles; copies mean the same board.
struct TaskBoard {
  static absl::StatusOr<TaskBoard> Create(size_t task_capacity_bytes,
                                          size_t result_capacity_bytes);

  // Whether tasks wait though the ring is empty. A worker asks behind its
  // fence. If it has removed the last task of all, HasRecord() sees that. And
  // the notice was given before that task was put, and the put's release has
  // told of it; or the submitter has given it and not seen the removal, and the
  // fences tell. If this takes what is gone for a task, another worker has
  // removed that, and asks, too.
  bool BacklogIsDue() const { return notices->backlog() && !tasks.HasRecord(); }
  size_t max_input_size() const {
    return tasks.max_record_size() - sizeof(TaskHeader) - sizeof(LimitsHeader);
  }
  size_t max_result_size() const {
    return results.max_record_size() - sizeof(ResultHeader);
  }

  ipc_internal::Ring tasks;
  ipc_internal::Ring results;
  std::shared_ptr<Notices> notices;
  Token owner;  // the pool's process
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_TASK_BOARD_H_
