// SimpleQueue: a Queue without limits, sizes and timeouts.
//
//   mp::SimpleQueue<std::string> queue;
//   MP_CHECK_OK(queue.Put("hello"));
//   absl::StatusOr<std::string> item = queue.Get();
//
// For who knows it from Python, where it is the queue without a thread. Queue
// is no slower here, and all that mp/ipc/queue.h says is true of both.

#ifndef MP_IPC_SIMPLE_QUEUE_H_
#define MP_IPC_SIMPLE_QUEUE_H_

#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/ipc/queue.h"
#include "mp/shm/handle.h"
#include "mp/shm/wait_source.h"

namespace mp {

template <class T>
class SimpleQueue {
 public:
  // As Create(), but aborts with the message if there is no memory for it.
  SimpleQueue() = default;
  static absl::StatusOr<SimpleQueue> Create() {
    absl::StatusOr<Queue<T>> queue = Queue<T>::Create();
    if (!queue.ok()) return queue.status();
    return SimpleQueue(*std::move(queue));
  }

  absl::Status Put(const T& item) { return queue_.Put(item); }
  absl::StatusOr<T> Get() { return queue_.Get(); }
  bool Empty() const { return queue_.Empty(); }
  void Close() { queue_.Close(); }

  friend bool operator==(const SimpleQueue&, const SimpleQueue&) = default;

 private:
  friend struct HandleAccess;
  friend struct WaitAccess;
  explicit SimpleQueue(Queue<T> queue) : queue_(std::move(queue)) {}
  auto parts() const { return std::tuple(queue_); }
  WaitSource wait_source() const { return WaitAccess::Source(queue_); }

  Queue<T> queue_;
};

}  // namespace mp

#endif  // MP_IPC_SIMPLE_QUEUE_H_
