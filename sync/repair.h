// What a lock's handle does before it tells that the last holder died. Internal
// to sync.

#ifndef MP_SYNC_REPAIR_H_
#define MP_SYNC_REPAIR_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "mp/shm/handle.h"

namespace mp::sync_internal {

// Copies share the callback.
class Repair {
 public:
  void Set(std::function<void()> callback) {
    callback_ =
        std::make_shared<const std::function<void()>>(std::move(callback));
  }

  // A function of this process.
  StaysBehind stays_behind() const {
    return {.what = callback_ == nullptr ? nullptr : "a repair callback"};
  }

  // Whether there is one.
  explicit operator bool() const { return callback_ != nullptr; }

  // With `lock` held. If the callback throws, the next holder is to repair.
  template <class InPlaceLock>
  void Run(InPlaceLock& lock) const {
    if (callback_ == nullptr) return;
    absl::Cleanup unrepaired = [&lock] { lock.ReleaseUnrepaired(); };
    (*callback_)();
    std::move(unrepaired).Cancel();
  }

 private:
  std::shared_ptr<const std::function<void()>> callback_;
};

}  // namespace mp::sync_internal

#endif  // MP_SYNC_REPAIR_H_
