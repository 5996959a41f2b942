// JoinableQueue: a Queue that knows when all its items have been dealt with.
//
//   mp::JoinableQueue<Job> jobs;
//   mp::Process worker([jobs]() mutable {
//     for (;;) {
//       absl::StatusOr<Job> job = jobs.Get();
//       if (!job.ok()) return;
//       Do(*job);
//       MP_CHECK_OK(jobs.TaskDone());
//     }
//   });
//   ...
//   MP_CHECK_OK(jobs.Put(job));
//   MP_CHECK_OK(jobs.Join());  // until all jobs are done
//
// All that mp/ipc/queue.h says of a Queue is true of this one. Besides, an item
// is unfinished from its Put until the process that got it calls TaskDone, once
// for each item. The process: any thread of it, but not a child.
//
// If a process dies between Get and TaskDone, or ends without it, the items are
// lost with it. They no longer count as unfinished, and Join says so instead of
// waiting for ever.
//
// Errors, besides those of Queue:
//   FailedPrecondition  TaskDone: called more often than this process has
//                       gotten items
//   Aborted             Join: nothing is unfinished, but items were lost; the
//                       message says how many. Each loss is reported once to
//                       each process, by the handles that it had then
//   ResourceExhausted   Get: 1024 other processes have unfinished items
//
// Memory ordering: what a process did before TaskDone is visible after Join.
//
// Differs from Python's: there, TaskDone may be called by any process, and Join
// waits for ever for the items of the dead.

#ifndef MP_IPC_JOINABLE_QUEUE_H_
#define MP_IPC_JOINABLE_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/ipc/queue.h"
#include "mp/ipc/task_accounts.h"
#include "mp/shm/handle.h"
#include "mp/shm/wait_source.h"

namespace mp {

template <class T>
class JoinableQueue {
 public:
  // As those of Queue.
  explicit JoinableQueue(size_t maxsize = 0)
      : JoinableQueue(QueueOptions{maxsize, 0}) {}
  explicit JoinableQueue(const QueueOptions& options)
      : JoinableQueue(ValueOrDie(Create(options))) {}
  static absl::StatusOr<JoinableQueue> Create(
      const QueueOptions& options = {}) {
    absl::StatusOr<Queue<T>> queue = Queue<T>::Create(options);
    if (!queue.ok()) return queue.status();
    absl::StatusOr<ipc_internal::TaskAccounts> accounts =
        ipc_internal::TaskAccounts::Create();
    if (!accounts.ok()) return accounts.status();
    return JoinableQueue(*std::move(queue), *std::move(accounts));
  }

  absl::Status Put(const T& item,
                   absl::Duration timeout = absl::InfiniteDuration()) {
    return queue_.Put(item, timeout);
  }
  absl::Status PutNowait(const T& item) { return queue_.PutNowait(item); }
  absl::StatusOr<T> Get(absl::Duration timeout = absl::InfiniteDuration()) {
    return queue_.GetUntil(Deadline::After(timeout), /*nowait=*/false,
                           accounts_);
  }
  absl::StatusOr<T> GetNowait() {
    return queue_.GetUntil(Deadline::Now(), /*nowait=*/true, accounts_);
  }

  // See Queue.
  absl::StatusOr<size_t> PutMany(
      std::span<const T> items,
      absl::Duration timeout = absl::InfiniteDuration()) {
    return queue_.PutMany(items, timeout);
  }
  absl::StatusOr<std::vector<T>> GetMany(
      size_t max, absl::Duration timeout = absl::InfiniteDuration()) {
    return queue_.GetManyUntil(max, Deadline::After(timeout), accounts_);
  }

  // This process is done with an item that it got.
  absl::Status TaskDone() { return accounts_.Done(queue_.ring_); }

  // Waits until every item has been gotten and is done, or lost. Zero or less
  // looks once, with the error DeadlineExceeded.
  absl::Status Join(absl::Duration timeout = absl::InfiniteDuration()) {
    return accounts_.Join(queue_.ring_, Deadline::After(timeout));
  }

  // See Queue.
  size_t qsize() const { return queue_.qsize(); }
  bool Empty() const { return queue_.Empty(); }
  bool Full() const { return queue_.Full(); }
  void Close() { queue_.Close(); }
  bool closed() const { return queue_.closed(); }
  void JoinThread() {}
  void CancelJoinThread() {}

  friend bool operator==(const JoinableQueue& a, const JoinableQueue& b) {
    return a.queue_ == b.queue_;
  }

 private:
  friend struct HandleAccess;
  friend struct WaitAccess;
  JoinableQueue(Queue<T> queue, ipc_internal::TaskAccounts accounts)
      : queue_(std::move(queue)), accounts_(std::move(accounts)) {}
  auto parts() const { return std::tuple(queue_, accounts_); }
  WaitSource wait_source() const { return WaitAccess::Source(queue_); }

  Queue<T> queue_;
  ipc_internal::TaskAccounts accounts_;
};

}  // namespace mp

#endif  // MP_IPC_JOINABLE_QUEUE_H_
