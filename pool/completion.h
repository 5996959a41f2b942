// What a submitter waits for: a condition that sinks make true. Internal to the
// pool.

#ifndef MP_POOL_COMPLETION_H_
#define MP_POOL_COMPLETION_H_

#include "mp/base/deadline.h"
#include "mp/pool/executor.h"
#include "mp/shm/gate.h"
#include "mp/shm/platform.h"

namespace mp::pool_internal {

class Completion {
 public:
  // Waits until `ready()`; false if the deadline passed first.
  template <class Ready>
  bool Wait(Executor& executor, Ready ready, Deadline deadline) {
    if (ready()) return true;
    if (deadline == Deadline::Now()) return false;
    return executor.Wait(ready, gate_, deadline);
  }

  // After having made the condition true.
  void Notify() {
    FenceBeforeNotify();
    gate_.NotifyAll();
  }
  // The same if that was done by an atomic read-modify-write, or was followed
  // by one, such as the release of an mp lock.
  void NotifyAfterRmw() {
    FenceBeforeNotifyAfterRmw();
    gate_.NotifyAll();
  }

 private:
  BasicGate<KernelPlatform> gate_;
};

}  // namespace mp::pool_internal

#endif  // MP_POOL_COMPLETION_H_
