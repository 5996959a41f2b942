// Ring: a bounded queue of byte records in shared memory, for many producers
// and many consumers in many processes. The engine of mp::Queue and of the
// pool; use those.
//
// Each side has one robust lock, so producers and consumers do not disturb each
// other, and each operation becomes visible by one final store:
//
//   put:  lock the tail, write the record behind it, store the new tail, unlock
//   get:  lock the head, read the record at it, store the new head, unlock
//
// A process that dies before its store has done nothing, one that dies after it
// has done everything, and the lock's next holder finds nothing to repair.
//
// Records are stored in one piece: the memory is mapped twice in a row, so a
// record that runs over the end needs no special case.

#ifndef MP_IPC_RING_H_
#define MP_IPC_RING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/handle.h"
#include "mp/shm/platform.h"
#include "mp/shm/segment.h"
#include "mp/sync/in_place_lock.h"

namespace mp::ipc_internal {

// Records are stored in blocks of 8 bytes, behind a block with their size.
inline constexpr size_t kBlock = 8;
constexpr size_t RecordSize(size_t size) {
  return (kBlock + size + kBlock - 1) / kBlock * kBlock;
}

struct RingOptions {
  std::string_view name;
  // Room for records, each of which takes RecordSize(its size). Rounded up to a
  // power of two of at least a page.
  size_t capacity_bytes = size_t{1} << 20;
  // Most records at a time; 0 for no limit but the bytes.
  uint32_t max_records = 0;
};

enum class RingResult {
  kDone,
  kTimedOut,   // full, or empty, until the deadline or the watched death; or
               // another process stayed inside a put, or get, as long
  kClosed,     // put: the ring is closed; get: and no record is left
  kAborted,    // put: `fill` returned false
  kTooLarge,   // put: the record does not fit into the empty ring
  kCorrupted,  // the shared memory contradicts itself
};

// A handle; copies mean the same ring. Safe to use from many threads.
class Ring {
 public:
  static absl::StatusOr<Ring> Create(const RingOptions& options);

  // Appends a record of `size` bytes, which `fill(std::byte* to, uint32_t
  // number)` writes. `number` counts the records of this ring, modulo 2^32. It
  // runs under the producers' lock: it must neither block nor touch the ring.
  // If it returns false or throws, nothing was put. Waits for room until the
  // deadline, or until the process `watched` is dead. Deadline::Now() does not
  // wait for room, only for another put that is under way at the moment.
  template <class Fill>
  RingResult Put(size_t size, Fill fill, Deadline deadline,
                 Token watched = kNoToken);

  // Calls `use(std::span<const std::byte> record, uint32_t number)` with the
  // oldest record and removes it; `number` is the one it was put with. `use`
  // runs under the consumers' lock, before the record is gone: if it throws, or
  // its process dies in it, the record stays. Waits for a record until the
  // deadline, or until the process `watched` is dead. Deadline::Now() as above.
  template <class Use>
  RingResult Get(Use use, Deadline deadline, Token watched = kNoToken);

  // Sleeps, without taking anything, until there is a record, or the ring is
  // closed, or `also()`. False if the deadline passed first. Who makes `also()`
  // true calls WakeConsumer() afterwards.
  template <class Also>
  bool WaitForRecord(Also also, Deadline deadline) {
    return control_->not_empty.Sleep(
        [&] { return HasRecord() || closed() || also(); }, deadline);
  }
  void WakeConsumer() {
    FenceBeforeNotify();
    // All, as another one, or one in SpinUntil, knows nothing of `also()`.
    control_->not_empty.NotifyAll();
  }

  // Calls `done()`, which takes records, again and again for as long as that
  // has helped lately, or until it returns true; returns what it said last.
  // Sleeping consumers are left alone meanwhile.
  template <class Done>
  bool SpinUntil(AdaptiveSpin<KernelPlatform, kSpinForPartner>& spin,
                 Done done) {
    const bool result = control_->not_empty.Spin(spin, done);
    if (HasRecord()) control_->not_empty.Notify();
    return result;
  }

  // No more puts: they fail, also those that wait. Gets go on until no record
  // is left. Waits for a put that is under way.
  void Close();

  // Whether there is a record at the moment, without a lock: a hint.
  bool HasRecord() const {
    return control_->tail.load(std::memory_order_relaxed) !=
           control_->head.load(std::memory_order_relaxed);
  }
  // Records in the ring at some moment during the call.
  uint32_t size() const;
  // Records gotten so far, modulo 2^32. Acquire: who sees record n gotten sees
  // what `use` wrote for it.
  uint32_t gotten() const;
  bool closed() const;
  // The largest record that fits.
  size_t max_record_size() const { return capacity_blocks_ * kBlock - kBlock; }
  // As created; 0 for no limit.
  uint32_t max_records() const;

  friend bool operator==(const Ring&, const Ring&) = default;

 private:
  friend struct RingTestPeer;

  // A position: how many records and how many 8-byte blocks have passed it,
  // both modulo 2^32. In one word, so that one store moves both.
  struct Cursor {
    uint32_t records = 0;
    uint32_t blocks = 0;

    uint64_t packed() const { return uint64_t{records} << 32 | blocks; }
    static Cursor Unpack(uint64_t packed) {
      return {.records = static_cast<uint32_t>(packed >> 32),
              .blocks = static_cast<uint32_t>(packed)};
    }
  };

  using Spin = AdaptiveSpin<KernelPlatform, kSpinForPartner>;
  using Gate = BasicGate<KernelPlatform>;

  // One cache line for each that is written by another party or at another
  // time.
  struct Control {
    alignas(64) uint32_t max_records = 0;
    std::atomic<uint32_t> closed{0};
    struct alignas(64) Side {
      InPlaceLock lock;
      // What this side last saw of the other side's cursor: as long as that
      // suffices, the other side's cache line is left alone. Guarded by lock.
      uint64_t seen_other = 0;
      Spin spin;  // while waiting for the other side
    };
    Side producers;
    alignas(64) std::atomic<uint64_t> tail{0};  // stored under producers.lock
    Side consumers;
    alignas(64) std::atomic<uint64_t> head{0};  // stored under consumers.lock
    alignas(64) Gate not_empty;
    Gate not_full;
  };

  static uint32_t BlocksFor(size_t size) {
    return static_cast<uint32_t>(RecordSize(size) / kBlock);
  }

  // A lock is held for as long as it takes to copy a record, which is not what
  // "full" or "empty" means. But a process can be stopped while it holds one.
  static constexpr int64_t kLockPatienceNanos = 100'000'000;
  // The callers hand the lock to a std::unique_lock, which Clang's analysis
  // does not follow.
  static bool AcquireLock(InPlaceLock& lock,
                          Deadline deadline) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (ABSL_PREDICT_TRUE(lock.TryAcquire())) return true;
    return lock.AcquireUntil(
        deadline == Deadline::Now()
            ? Deadline::Infinite().Sooner(kLockPatienceNanos)
            : deadline);
  }

  static constexpr uint64_t kLayout =
      LayoutFingerprint("ring", 1, sizeof(Control));

  friend struct mp::HandleAccess;
  explicit Ring(SegmentPart<kLayout> part);
  auto parts() const {
    return std::tuple(SegmentPart<kLayout>{Segment::Of(control_)});
  }

  // Whether a record of `blocks` blocks fits between the cursors.
  bool Fits(Cursor tail, Cursor head, uint32_t blocks) const {
    const uint64_t used = tail.blocks - head.blocks;
    return used + blocks <= capacity_blocks_ &&
           tail.records - head.records < control_->max_records;
  }
  // Looks at the state of the moment, without a lock: a hint.
  bool HasRoom(uint32_t blocks) const {
    const uint64_t head = control_->head.load(std::memory_order_relaxed);
    return Fits(Cursor::Unpack(control_->tail.load(std::memory_order_relaxed)),
                Cursor::Unpack(head), blocks);
  }
  std::byte* At(Cursor cursor) const {
    return memory_ + (cursor.blocks & (capacity_blocks_ - 1)) * kBlock;
  }

  std::shared_ptr<Control> control_;
  std::byte* memory_ = nullptr;
  // A power of two. Here and not in shared memory, where it could be
  // overwritten: every access stays inside the ring, whatever the cursors say.
  uint32_t capacity_blocks_ = 0;
};

// ---- implementation ----

template <class Fill>
RingResult Ring::Put(size_t size, Fill fill, Deadline deadline, Token watched) {
  Control& control = *control_;
  Control::Side& side = control.producers;
  if (size > max_record_size()) return RingResult::kTooLarge;
  const uint32_t blocks = BlocksFor(size);
  bool waited = false;
  // Who has waited may have got the only wake-up, so it passes that on if there
  // is room left, in whichever way it leaves.
  const absl::Cleanup pass_on = [this, &waited] {
    if (waited && HasRoom(1)) control_->not_full.Notify();
  };
  for (;;) {
    // Who takes over from a dead producer finds the tail where it was.
    if (!AcquireLock(side.lock, deadline)) return RingResult::kTimedOut;
    std::unique_lock hold(side.lock, std::adopt_lock);
    if (control.closed.load(std::memory_order_relaxed) != 0) {
      return RingResult::kClosed;
    }
    const Cursor tail =
        Cursor::Unpack(control.tail.load(std::memory_order_relaxed));
    if (!Fits(tail, Cursor::Unpack(side.seen_other), blocks)) {
      // Acquire: the record was read before its memory is written again.
      side.seen_other = control.head.load(std::memory_order_acquire);
    }
    if (Fits(tail, Cursor::Unpack(side.seen_other), blocks)) {
      std::byte* const record = At(tail);
      const uint64_t header = size;
      memcpy(record, &header, kBlock);
      if (!fill(record + kBlock, tail.records)) {
        return RingResult::kAborted;
      }
      const Cursor next = {.records = tail.records + 1,
                           .blocks = tail.blocks + blocks};
      // Release: who sees the new tail sees the record.
      control.tail.store(next.packed(), std::memory_order_release);
      hold.unlock();
      FenceBeforeNotifyAfterRmw();
      control.not_empty.Notify();
      return RingResult::kDone;
    }
    if (tail.blocks - Cursor::Unpack(side.seen_other).blocks >
        capacity_blocks_) {
      return RingResult::kCorrupted;
    }
    hold.unlock();
    waited = true;
    const auto ready = [this, blocks] { return HasRoom(blocks) || closed(); };
    if (!control.not_full.Wait(side.spin, ready, deadline,
                               Gate::WatchOne{watched})) {
      return RingResult::kTimedOut;
    }
  }
}

template <class Use>
RingResult Ring::Get(Use use, Deadline deadline, Token watched) {
  Control& control = *control_;
  Control::Side& side = control.consumers;
  bool waited = false;
  const absl::Cleanup pass_on = [this, &waited] {  // as in Put
    if (waited && HasRecord()) control_->not_empty.Notify();
  };
  for (;;) {
    if (!AcquireLock(side.lock, deadline)) return RingResult::kTimedOut;
    std::unique_lock hold(side.lock, std::adopt_lock);
    const Cursor head =
        Cursor::Unpack(control.head.load(std::memory_order_relaxed));
    bool was_closed = false;
    if (head.packed() == side.seen_other) {
      // In this order, both acquire: Close() waits for the last put, so who
      // sees the ring closed sees every record.
      was_closed = closed();
      // Acquire: pairs with the release in Put.
      side.seen_other = control.tail.load(std::memory_order_acquire);
    }
    const Cursor tail = Cursor::Unpack(side.seen_other);
    if (head.packed() != tail.packed()) {
      const std::byte* const record = At(head);
      uint64_t size;
      memcpy(&size, record, kBlock);
      const uint32_t present = tail.blocks - head.blocks;
      if (present > capacity_blocks_ || size > max_record_size() ||
          BlocksFor(size) > present) {
        return RingResult::kCorrupted;
      }
      use(std::span(record + kBlock, size), head.records);
      const Cursor next = {.records = head.records + 1,
                           .blocks = head.blocks + BlocksFor(size)};
      // Release: the record was read before a producer may write there again.
      control.head.store(next.packed(), std::memory_order_release);
      hold.unlock();
      FenceBeforeNotifyAfterRmw();
      control.not_full.Notify();
      return RingResult::kDone;
    }
    if (was_closed) return RingResult::kClosed;
    hold.unlock();
    waited = true;
    const auto ready = [this] { return HasRecord() || closed(); };
    if (!control.not_empty.Wait(side.spin, ready, deadline,
                                Gate::WatchOne{watched})) {
      return RingResult::kTimedOut;
    }
  }
}

}  // namespace mp::ipc_internal

#endif  // MP_IPC_RING_H_
