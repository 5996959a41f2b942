// Callbacks that wait for the thread of an executor which runs them, and the
// end of that thread. Internal to the executors.
//
//   for (;;) {  // the thread
//     sleep until callbacks.HasAny() or there is something else to do;
//     callbacks.RunAll();
//     if (nothing will ever be to do) break;
//   }
//   callbacks.End();

#ifndef MP_POOL_CALLBACK_QUEUE_H_
#define MP_POOL_CALLBACK_QUEUE_H_

#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/platform.h"
#include "mp/sync/in_place_lock.h"

namespace mp::pool_internal {

class CallbackQueue {
 public:
  // Has the thread run `callback`, in the order of the calls; `wake()` wakes
  // it, so that it looks at HasAny(). After its end the callback runs here. One
  // that throws is reported on stderr.
  template <class Wake>
  void Post(std::function<void()> callback, Wake wake) {
    Add(std::move(callback));
    wake();
    if (ended()) RunAll();
  }

  // Whether the calling thread runs one of them, and has not come to its end.
  bool RunsHere() const;

  bool HasAny() const { return has_any_.load(std::memory_order_acquire); }
  // Also those that come meanwhile.
  void RunAll();

  // Runs those that are left, and has WaitForEnd() return. The last thing that
  // the thread does.
  void End();
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  // DeadlineExceeded if the thread has not come to its end by then.
  // FailedPrecondition if it never will, as a callback waits for it.
  absl::Status WaitForEnd(Deadline deadline);

 private:
  void Add(std::function<void()> callback);

  InPlaceLock mutex_;
  std::deque<std::function<void()>> callbacks_;
  std::atomic<bool> has_any_{false};
  std::atomic<bool> ended_{false};
  BasicGate<KernelPlatform> end_gate_;
  AdaptiveSpin<KernelPlatform, kSpinForPartner> end_spin_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_CALLBACK_QUEUE_H_
