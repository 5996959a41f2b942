// InPlaceSemaphore: the counting semaphore that lives inside your own structure
// in shared memory. Use mp::Semaphore (mp/sync/semaphore.h) unless you design
// the layout of a shared segment yourself.
//
// 16 bytes, standard layout, without permits when zero-filled, no destructor
// needed. All processes that use it must belong to one family
// (mp/shm/liveness.h).
//
// Permits are anonymous: nobody knows who took one, so those that a process had
// when it died are gone. (mp::Semaphore can do better.) Taking one and giving
// some back are one atomic operation each, so a death in between leaves nothing
// to repair. If a process is killed between giving permits back and waking who
// waits for them, they go on at the end of their slice (mp/shm/park.h).
//
// Not fair: a running process may overtake sleeping ones.

#ifndef MP_SYNC_IN_PLACE_SEMAPHORE_H_
#define MP_SYNC_IN_PLACE_SEMAPHORE_H_

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "absl/base/optimization.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/platform.h"

namespace mp {

template <class Platform>
class BasicRobustSemaphore;

template <class Platform>
class BasicInPlaceSemaphore {
 public:
  static constexpr uint32_t kMaxValue = (uint32_t{1} << 31) - 1;

  // REQUIRES: value <= kMaxValue.
  constexpr explicit BasicInPlaceSemaphore(uint32_t value = 0) : word_(value) {
    MP_CHECK(value <= kMaxValue) << value;
  }
  BasicInPlaceSemaphore(const BasicInPlaceSemaphore&) = delete;
  BasicInPlaceSemaphore& operator=(const BasicInPlaceSemaphore&) = delete;

  // Takes a permit. Acquire: what a process did before it gave a permit back is
  // visible to whoever takes one later.
  void Acquire() { (void)AcquireUntil(Deadline::Infinite()); }

  // As Acquire(), but gives up at the deadline; an expired one tries once.
  [[nodiscard]] bool AcquireUntil(Deadline deadline) {
    if (ABSL_PREDICT_TRUE(TryAcquire())) return true;
    const bool acquired = gate_.Wait(
        spin_, [this] { return TryAcquire(); }, deadline);
    if (acquired) PassOn();
    return acquired;
  }

  // False if there is no permit.
  [[nodiscard]] bool TryAcquire() {
    uint32_t word = word_.load(std::memory_order_relaxed);
    while (ABSL_PREDICT_TRUE((word & kValueMask) != 0)) {
      if (ABSL_PREDICT_TRUE(word_.compare_exchange_weak(
              word, word - 1, std::memory_order_acquire,
              std::memory_order_relaxed))) {
        return true;
      }
    }
    return false;
  }

  // Gives back, or adds, `permits`. False, and nothing done, if there would be
  // more than `max`.
  bool Release(uint32_t permits = 1, uint32_t max = kMaxValue) {
    uint32_t word = word_.load(std::memory_order_relaxed);
    do {
      const uint32_t value = word & kValueMask;
      if (ABSL_PREDICT_FALSE(value > max || permits > max - value)) {
        return false;
      }
      // Release: see Acquire(). Every change of the word is a
      // read-modify-write, so who takes a permit synchronises with all who gave
      // some back before.
    } while (!word_.compare_exchange_weak(word, word + permits,
                                          std::memory_order_release,
                                          std::memory_order_relaxed));
    FenceBeforeNotifyAfterRmw();
    gate_.Notify();
    return true;
  }

  // How many permits there are. A hint by the time it is returned.
  uint32_t value() const {
    return word_.load(std::memory_order_relaxed) & kValueMask;
  }

 private:
  friend class BasicRobustSemaphore<Platform>;

  // The word: bits 30-0 the value; bit 31 belongs to BasicRobustSemaphore.
  static constexpr uint32_t kValueMask = kMaxValue;

  // Called by who was let through the gate: the notifier woke only one.
  void PassOn() {
    if (value() != 0) gate_.Notify();
  }

  typename Platform::template Atomic<uint32_t> word_;
  AdaptiveSpin<Platform, kSpinForPartner> spin_;
  BasicGate<Platform> gate_;
};

using InPlaceSemaphore = BasicInPlaceSemaphore<KernelPlatform>;

static_assert(sizeof(InPlaceSemaphore) == 16);
static_assert(std::is_standard_layout_v<InPlaceSemaphore>);
static_assert(std::is_trivially_destructible_v<InPlaceSemaphore>);

}  // namespace mp

#endif  // MP_SYNC_IN_PLACE_SEMAPHORE_H_
