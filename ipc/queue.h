// Queue: first in, first out, between any number of processes.
//
//   mp::Queue<std::string> queue;          // before the fork
//   mp::Process worker([queue]() mutable {
//     queue.Put("hello").IgnoreError();
//   });
//   worker.Start();
//   absl::StatusOr<std::string> item = queue.Get();
//
// A Queue is a handle: cheap to copy, every copy means the same queue, in this
// process and in the children that inherit it or get it as an argument. The
// items live in anonymous shared memory that grows with them and goes when the
// last process drops its last handle. T is anything the codec takes
// (mp/ipc/codec.h).
//
// Handles and descriptors among the items: the getter has the same object, even
// if the putter is gone by then. The kernel keeps them on the way, but not
// without limit: a queue with some 270 items that hold handles counts as full,
// and so does one whose user has as many of them on the way as a process may
// have descriptors (ulimit -n). One item may hold up to 253.
//
// Order: items come out in the order in which their puts were done; the items
// of one producer in its order. Each item is gotten once.
//
// Blocking: Put waits while a queue with a limit is full, Get while it is
// empty; each takes a timeout. Waiters spin for a few microseconds while that
// helps, now and then for some tens of them (mp/shm/adaptive_spin.h), then
// sleep.
//
// Fairness: who has waited for room for 10 ms is next. Until it has put its
// item, Put of others waits even if there is room for theirs, so nobody
// starves, nor does a large item among small ones. Not so PutNowait, nor in
// processes that also Get from this queue; and if nobody gets anything for a
// second, others go on. Before those 10 ms, who runs comes first, which is
// quicker.
//
// If a process dies, at whatever instruction: a Put or Get it was in has
// happened as a whole or not at all, all other items are intact, and nobody
// waits for it. An item that it had gotten is gone with it.
//
// Memory ordering: what process X did before it put an item is visible to
// process Y after Y got that item.
//
// Errors, by code:
//   DeadlineExceeded     the timeout passed
//   ResourceExhausted    PutNowait: full. Another put that is under way is
//                        waited for, but not one that is stopped (SIGSTOP) in
//                        the middle. Put, Get: the system has no memory for the
//                        queue to grow, or this process no room for another
//                        descriptor; nothing happened. The message names the
//                        system call
//   Unavailable          GetNowait: empty; likewise
//   FailedPrecondition   Put: the queue is closed
//   OutOfRange           Get: the queue is closed and no item is left
//   InvalidArgument      Put: the item cannot be encoded, or is larger than the
//                        queue's memory; the message says what to raise
//   DataLoss             Get: the bytes are no T. Put, Get: the queue
//                        contradicts itself. Somebody wrote into its memory
//
// Threads: all calls are safe from any thread. Fork: a child uses what it
// inherits. Not for signal handlers.
//
// Differs from Python's: when Put returns, the item is in shared memory, so
// there is no feeder thread to join, and joining a child before draining its
// queue cannot hang; an item that cannot be encoded is the putter's error;
// sizes are exact; Close() closes the queue for all processes and wakes who
// waits.

#ifndef MP_IPC_QUEUE_H_
#define MP_IPC_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/ipc/carrier.h"
#include "mp/ipc/codec.h"
#include "mp/ipc/ring.h"
#include "mp/shm/handle.h"
#include "mp/shm/liveness.h"
#include "mp/shm/wait_source.h"

namespace mp {

struct QueueOptions {
  // Most items in the queue at a time; 0 for no limit.
  size_t maxsize = 0;
  // Most memory for items in bytes, rounded up to a power of two of at least a
  // page and reserved at once. An item takes its encoded size plus 8, rounded
  // up to a multiple of 8. 0 for no limit: memory is added when there is no
  // room, up to some gigabytes, and given back, but for 64 MiB, when the queue
  // is empty.
  size_t capacity_bytes = 0;
};

namespace ipc_internal {

// The part of Queue that does not depend on T: limits and errors.
absl::StatusOr<Ring> CreateQueueRing(const QueueOptions& options);
absl::Status PutError(RingResult result, size_t size, const Ring& ring,
                      bool nowait);
absl::Status GetError(RingResult result, bool nowait);

}  // namespace ipc_internal

template <class T>
class Queue {
  static_assert(Encodable<T>,
                "mp: this type cannot be sent to another process; "
                "mp/ipc/codec.h says what can and how to add a type");

 public:
  // As Create(), but aborts with the message if there is no memory for it.
  explicit Queue(size_t maxsize = 0) : Queue(QueueOptions{maxsize, 0}) {}
  explicit Queue(const QueueOptions& options)
      : Queue(ValueOrDie(Create(options))) {}

  // Errors: InvalidArgument for absurd options; what the system said if there
  // is no memory or descriptor.
  static absl::StatusOr<Queue> Create(const QueueOptions& options = {}) {
    absl::StatusOr<ipc_internal::Ring> ring =
        ipc_internal::CreateQueueRing(options);
    if (!ring.ok()) return ring.status();
    absl::StatusOr<Carrier> carrier = Carrier::Create();
    if (!carrier.ok()) return carrier.status();
    return Queue(*std::move(ring), *std::move(carrier));
  }

  // Appends `item`. Zero or less tries once without waiting, with the error
  // DeadlineExceeded.
  absl::Status Put(const T& item,
                   absl::Duration timeout = absl::InfiniteDuration()) {
    return PutUntil(item, Deadline::After(timeout), /*nowait=*/false);
  }
  absl::Status PutNowait(const T& item) {
    return PutUntil(item, Deadline::Now(), /*nowait=*/true);
  }

  // Appends the items, in order, as far as there is room for them before the
  // timeout, and returns how many that were; an error only if it was none. What
  // others put may come in between. Costs less than a Put for each. If this
  // process dies, each of them has been put or not.
  absl::StatusOr<size_t> PutMany(
      std::span<const T> items,
      absl::Duration timeout = absl::InfiniteDuration());

  // Removes and returns the oldest item.
  absl::StatusOr<T> Get(absl::Duration timeout = absl::InfiniteDuration()) {
    Uncounted uncounted;
    return GetUntil(Deadline::After(timeout), /*nowait=*/false, uncounted);
  }
  absl::StatusOr<T> GetNowait() {
    Uncounted uncounted;
    return GetUntil(Deadline::Now(), /*nowait=*/true, uncounted);
  }

  // Removes and returns the oldest items: one, for which it waits like Get, and
  // those that are there then, up to `max` together. An item that is an error
  // ends the row before it; the next call reports it.
  absl::StatusOr<std::vector<T>> GetMany(
      size_t max, absl::Duration timeout = absl::InfiniteDuration()) {
    Uncounted uncounted;
    return GetManyUntil(max, Deadline::After(timeout), uncounted);
  }

  // Items in the queue at some moment during the call.
  size_t qsize() const { return ring_.size(); }
  bool Empty() const { return ring_.size() == 0; }
  // Whether `maxsize` items are in the queue, at some moment during the call. A
  // queue that is limited by its memory alone is never Full(), though the next
  // item may not fit.
  bool Full() const {
    return ring_.max_records() != 0 && ring_.size() >= ring_.max_records();
  }

  // No more puts, by any process: they fail, also those that wait. Gets go on
  // until the queue is empty, then fail. Closing twice is fine.
  void Close() { ring_.Close(); }
  bool closed() const { return ring_.closed(); }

  // Python programs call these to wait, or not to wait, until a thread has
  // written what was put. There is no such thread here: they do nothing.
  void JoinThread() {}
  void CancelJoinThread() {}

  // Whether both are handles of the same queue.
  friend bool operator==(const Queue& a, const Queue& b) {
    return a.ring_ == b.ring_;
  }

 private:
  using Carrier = ipc_internal::Carrier<T>;

  friend struct HandleAccess;
  friend struct WaitAccess;
  template <class U>
  friend class JoinableQueue;
  explicit Queue(ipc_internal::Ring ring, Carrier carrier = {})
      : ring_(std::move(ring)), carrier_(std::move(carrier)) {}
  auto parts() const {
    return std::tuple_cat(std::tuple(ring_), carrier_.parts());
  }
  WaitSource wait_source() const { return ring_.wait_source(); }

  absl::Status PutUntil(const T& item, Deadline deadline, bool nowait) {
    const size_t size = Carrier::Size(item);
    absl::Status error;
    const ipc_internal::RingResult result = ring_.Put(
        size,
        [&](std::byte* to, uint32_t) {
          return carrier_.Write(ring_, item, std::span(to, size), error);
        },
        deadline);
    if (ABSL_PREDICT_TRUE(result == ipc_internal::RingResult::kDone)) {
      return absl::OkStatus();
    }
    if (!error.ok()) return error;
    return ipc_internal::PutError(result, size, ring_, nowait);
  }

  // What JoinableQueue does with each item.
  struct Uncounted {
    absl::Status BeginTake(uint32_t) { return absl::OkStatus(); }
    void EndTake() {}
  };

  template <class Accounts>
  absl::StatusOr<T> GetUntil(Deadline deadline, bool nowait,
                             Accounts& accounts) {
    using ipc_internal::RingResult;
    absl::StatusOr<T> item;
    uint64_t serial = 0;
    const RingResult result = ring_.Get(
        [&](std::span<const std::byte> record, uint32_t number) {
          return Take(record, number, accounts, item, serial);
        },
        deadline, ipc_internal::Ring::WatchOne{kNoToken},
        [&] { Taken(accounts, serial); });
    if (ABSL_PREDICT_FALSE(result != RingResult::kDone &&
                           result != RingResult::kAborted)) {
      return ipc_internal::GetError(result, nowait);
    }
    return item;
  }

  template <class Accounts>
  absl::StatusOr<std::vector<T>> GetManyUntil(size_t max, Deadline deadline,
                                              Accounts& accounts);

  // What Ring::Get is to do with a record: decodes it into `item`, and says
  // whether it goes. Bytes that are no T go unless `keep_errors`.
  template <class Accounts>
  bool Take(std::span<const std::byte> record, uint32_t number,
            Accounts& accounts, absl::StatusOr<T>& item, uint64_t& serial,
            bool keep_errors = false) {
    if (!carrier_.Read(record, item, serial)) return false;
    if (keep_errors && !item.ok()) return false;
    if (absl::Status taken = accounts.BeginTake(number);
        ABSL_PREDICT_FALSE(!taken.ok())) {
      item = std::move(taken);
      return false;
    }
    return true;
  }
  template <class Accounts>
  void Taken(Accounts& accounts, uint64_t serial) {
    accounts.EndTake();
    carrier_.Removed(serial);
  }

  ipc_internal::Ring ring_;
  [[no_unique_address]] Carrier carrier_;
};

// ---- implementation ----

template <class T>
absl::StatusOr<size_t> Queue<T>::PutMany(std::span<const T> items,
                                         absl::Duration timeout) {
  if (items.empty()) return 0;
  size_t size = 0;
  size_t done = 0;
  absl::Status error;
  // What a codec throws is the caller's if nothing was put; otherwise the next
  // call's, or the caller would not know how many were.
  const ipc_internal::RingResult result = ring_.PutMany(
      items.size(),
      [&](size_t i) {
        try {
          return size = Carrier::Size(items[i]);
        } catch (...) {
          if (i == 0) throw;
          return std::numeric_limits<size_t>::max();  // fits nowhere
        }
      },
      [&](size_t i, std::byte* to, uint32_t) {
        try {
          return carrier_.Write(ring_, items[i], std::span(to, size), error);
        } catch (...) {
          if (i == 0) throw;
          return ipc_internal::FillResult::kAborted;
        }
      },
      done, Deadline::After(timeout));
  if (done > 0) return done;
  if (!error.ok()) return error;
  return ipc_internal::PutError(result, size, ring_, /*nowait=*/false);
}

template <class T>
template <class Accounts>
absl::StatusOr<std::vector<T>> Queue<T>::GetManyUntil(size_t max,
                                                      Deadline deadline,
                                                      Accounts& accounts) {
  using ipc_internal::RingResult;
  std::vector<T> items;
  if (max == 0) return items;
  absl::StatusOr<T> item;
  absl::Status bad;  // the first one, which is gone
  uint64_t serial = 0;
  size_t done = 0;
  const RingResult result = ring_.GetMany(
      max,
      [&](std::span<const std::byte> record, uint32_t number) {
        if (!bad.ok()) return false;
        try {
          if (!Take(record, number, accounts, item, serial,
                    /*keep_errors=*/!items.empty())) {
            return false;
          }
          if (item.ok()) {
            items.push_back(*std::move(item));
          } else {
            bad = item.status();
          }
          return true;
        } catch (...) {  // as in PutMany; the record stays
          if (items.empty()) throw;
          return false;
        }
      },
      done, deadline, ipc_internal::Ring::WatchOne{kNoToken},
      [&] { Taken(accounts, serial); });
  if (!items.empty()) return items;
  if (result == RingResult::kDone) return bad;
  if (result == RingResult::kAborted) return item.status();
  return ipc_internal::GetError(result, /*nowait=*/false);
}

}  // namespace mp

#endif  // MP_IPC_QUEUE_H_
