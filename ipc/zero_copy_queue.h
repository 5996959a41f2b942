// ZeroCopyQueue: a queue for large items, which are written and read where they
// are.
//
//   mp::ZeroCopyQueue<float> queue;        // before the fork
//   // in one process:
//   absl::StatusOr<mp::Reservation<float>> item = queue.Reserve(1 << 20);
//   if (!item.ok()) return item.status();
//   Fill(item->data());                    // a std::span<float>
//   absl::Status sent = item->Commit();
//   // in another one:
//   absl::StatusOr<mp::Borrowed<float>> item = queue.Borrow();
//   if (item.ok()) Use(item->data());      // a std::span<const float>
//
// An item is an array of T, which is any type that is sent as its own bytes
// (mp::PlainBytes in mp/ipc/codec.h). Reserve() gives a place in shared memory,
// Commit() appends it to the queue, Borrow() takes the oldest item and lets the
// caller read it until the Borrowed goes. Whatever its size, an item costs what
// a small one does. No lock is held in between: any number of processes write
// and read items at the same time. For items of less than some kilobytes
// mp::Queue is as quick.
//
// A ZeroCopyQueue is a handle: cheap to copy, every copy means the same queue,
// in this process and in the children that inherit it or get it as an argument
// or a message. A Reservation and a Borrowed belong to the process that made
// them: in a forked child they are of no use, and harmless.
//
// Items that are being written, in the queue, or being read are on loan: there
// are as many as ZeroCopyQueueOptions say. When all are out, Reserve() waits.
// Each keeps its memory for the next one, so what is reserved contains what
// earlier items left there. Memory that nobody uses, beyond 64 MiB and that of
// two items, is given back.
//
// Order: items come out in the order of their Commits. Each is borrowed once.
//
// Blocking: as with mp::Queue. Reserve() waits for a loan, Commit() if the
// queue has a limit and is full, Borrow() while it is empty.
//
// If a process dies, at whatever instruction: a Commit it was in has happened
// or not, all committed items are intact, and what it had reserved or borrowed
// comes back as soon as it is needed. An item that it had borrowed is gone with
// it.
//
// Memory ordering: what process X wrote before it committed an item is visible
// to process Y after Y borrowed that item, and what Y did before the Borrowed
// went, to who reserves the same memory.
//
// Errors, by code:
//   DeadlineExceeded    the timeout passed
//   FailedPrecondition  Reserve, Commit: the queue is closed. Commit: committed
//                       already, or by a child that has inherited it
//   OutOfRange          Borrow: the queue is closed and no item is left
//   InvalidArgument     Reserve: larger than 4 GiB, or than the limit on the
//                       size of files (ulimit -f) permits
//   ResourceExhausted   no memory; nothing happened. The message names the
//                       system call
//   DataLoss            the queue contradicts itself: somebody wrote into its
//                       memory
//
// Threads: all calls are safe from any thread; a Reservation or a Borrowed is
// used by one at a time. Not for signal handlers.
//
// Python has nothing like it. (The idea of loans is that of middleware such as
// Eclipse iceoryx.)

#ifndef MP_IPC_ZERO_COPY_QUEUE_H_
#define MP_IPC_ZERO_COPY_QUEUE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
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
#include "mp/ipc/codec.h"
#include "mp/ipc/loans.h"
#include "mp/ipc/ring.h"
#include "mp/shm/handle.h"
#include "mp/shm/wait_source.h"

namespace mp {

struct ZeroCopyQueueOptions {
  // Most items in the queue at a time; 0 for no limit but that of loans.
  size_t maxsize = 0;
  // Most items at a time that are being written, in the queue, or being read;
  // from 1 to 4,096.
  size_t loans = 256;
};

namespace ipc_internal {

// The part of ZeroCopyQueue that does not depend on T.
class LoanQueue {
 public:
  static absl::StatusOr<LoanQueue> Create(const ZeroCopyQueueOptions& options);

  absl::StatusOr<Loan> Reserve(size_t bytes, Deadline deadline);
  absl::Status Commit(Loan& loan, Deadline deadline);
  absl::StatusOr<Loan> Borrow(Deadline deadline);
  void Close();

  const Ring& ring() const { return ring_; }
  const Loans& loans() const { return loans_; }

 private:
  friend struct mp::HandleAccess;
  LoanQueue(Ring ring, Loans loans)
      : ring_(std::move(ring)), loans_(std::move(loans)) {}
  auto parts() const { return std::tuple(ring_, loans_); }

  Ring ring_;
  Loans loans_;
};

}  // namespace ipc_internal

// A place for an item. If it goes without Commit(), nothing was put.
template <class T>
class Reservation {
 public:
  // Empty once it has been committed.
  std::span<T> data() const {
    return {reinterpret_cast<T*>(loan_.data()), size()};
  }
  size_t size() const { return loan_.empty() ? 0 : loan_.size() / sizeof(T); }

  // Only the first `size` elements are to go, no more than there are.
  void Shrink(size_t size) {
    MP_CHECK(size <= this->size()) << "a reservation cannot grow";
    loan_.Shrink(size * sizeof(T));
  }

  // Appends the item. After an error it is still here. Zero or less tries once.
  absl::Status Commit(absl::Duration timeout = absl::InfiniteDuration()) {
    return queue_.Commit(loan_, Deadline::After(timeout));
  }

 private:
  template <class U>
  friend class ZeroCopyQueue;
  Reservation(ipc_internal::LoanQueue queue, ipc_internal::Loan loan)
      : queue_(std::move(queue)), loan_(std::move(loan)) {}

  ipc_internal::LoanQueue queue_;
  ipc_internal::Loan loan_;
};

// An item that has been taken from the queue, for as long as this lives.
template <class T>
class Borrowed {
 public:
  std::span<const T> data() const {
    return {reinterpret_cast<const T*>(loan_.data()), size()};
  }
  size_t size() const { return loan_.empty() ? 0 : loan_.size() / sizeof(T); }

  // Gives it back before the end of this object, which is empty then.
  void Release() { loan_ = {}; }

 private:
  template <class U>
  friend class ZeroCopyQueue;
  explicit Borrowed(ipc_internal::Loan loan) : loan_(std::move(loan)) {}

  ipc_internal::Loan loan_;
};

template <class T>
class ZeroCopyQueue {
  static_assert(PlainBytes<T>,
                "mp: the elements of a ZeroCopyQueue must be sent as their own "
                "bytes, without pointers (mp/ipc/codec.h)");

 public:
  // As Create(), but aborts with the message.
  explicit ZeroCopyQueue(const ZeroCopyQueueOptions& options = {})
      : ZeroCopyQueue(ValueOrDie(Create(options))) {}

  // Errors: InvalidArgument for absurd options; what the system said if there
  // is no memory or descriptor.
  static absl::StatusOr<ZeroCopyQueue> Create(
      const ZeroCopyQueueOptions& options = {}) {
    absl::StatusOr<ipc_internal::LoanQueue> queue =
        ipc_internal::LoanQueue::Create(options);
    if (!queue.ok()) return queue.status();
    return ZeroCopyQueue(*std::move(queue));
  }

  // A place for `size` elements. Zero or less tries once without waiting.
  absl::StatusOr<Reservation<T>> Reserve(
      size_t size, absl::Duration timeout = absl::InfiniteDuration()) {
    // What does not fit into a size_t is refused with the largest one.
    const size_t bytes = size <= std::numeric_limits<size_t>::max() / sizeof(T)
                             ? size * sizeof(T)
                             : std::numeric_limits<size_t>::max();
    absl::StatusOr<ipc_internal::Loan> loan =
        queue_.Reserve(bytes, Deadline::After(timeout));
    if (!loan.ok()) return loan.status();
    return Reservation<T>(queue_, *std::move(loan));
  }

  // The oldest item.
  absl::StatusOr<Borrowed<T>> Borrow(
      absl::Duration timeout = absl::InfiniteDuration()) {
    absl::StatusOr<ipc_internal::Loan> loan =
        queue_.Borrow(Deadline::After(timeout));
    if (!loan.ok()) return loan.status();
    return Borrowed<T>(*std::move(loan));
  }

  // With a copy, for who has the item elsewhere, or wants it there. Without the
  // lock that mp::Queue holds for as long as it copies. If Get() finds no
  // memory for the vector and throws, the item is gone.
  absl::Status Put(std::span<const T> item,
                   absl::Duration timeout = absl::InfiniteDuration());
  absl::StatusOr<std::vector<T>> Get(
      absl::Duration timeout = absl::InfiniteDuration());

  // As those of mp::Queue.
  size_t qsize() const { return queue_.ring().size(); }
  bool Empty() const { return qsize() == 0; }
  bool Full() const {
    const uint32_t most = queue_.ring().max_records();
    return most != 0 && qsize() >= most;
  }
  // No more items, by any process: Reserve and Commit fail, also those that
  // wait. Borrow goes on until the queue is empty, then fails.
  void Close() { queue_.Close(); }
  bool closed() const { return queue_.ring().closed(); }

  friend bool operator==(const ZeroCopyQueue& a, const ZeroCopyQueue& b) {
    return a.queue_.ring() == b.queue_.ring();
  }

 private:
  friend struct HandleAccess;
  friend struct WaitAccess;
  explicit ZeroCopyQueue(ipc_internal::LoanQueue queue)
      : queue_(std::move(queue)) {}
  auto parts() const { return std::tuple(queue_); }
  WaitSource wait_source() const { return queue_.ring().wait_source(); }

  ipc_internal::LoanQueue queue_;
};

// ---- implementation ----

template <class T>
absl::Status ZeroCopyQueue<T>::Put(std::span<const T> item,
                                   absl::Duration timeout) {
  const Deadline deadline = Deadline::After(timeout);
  absl::StatusOr<ipc_internal::Loan> loan =
      queue_.Reserve(item.size_bytes(), deadline);
  if (!loan.ok()) return loan.status();
  if (!item.empty()) memcpy(loan->data(), item.data(), item.size_bytes());
  return queue_.Commit(*loan, deadline);
}

template <class T>
absl::StatusOr<std::vector<T>> ZeroCopyQueue<T>::Get(absl::Duration timeout) {
  absl::StatusOr<Borrowed<T>> item = Borrow(timeout);
  if (!item.ok()) return item.status();
  return std::vector<T>(item->data().begin(), item->data().end());
}

}  // namespace mp

#endif  // MP_IPC_ZERO_COPY_QUEUE_H_
