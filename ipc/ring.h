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
//
// The ring can grow. Its memory is a row of regions, each four times as large
// as the one before. The first one has its memory from the beginning, and as
// long as it suffices, all records are there and it stays in the caches. When a
// record does not fit, the producers link the next larger region that is free
// to the end of the current one, and go on in it; the consumers follow once
// they have read what was before. When the ring is empty, both go back to the
// first region, and the memory of large ones is given back. Positions count on
// from region to region, so none of that takes part in the store that makes a
// record visible.

#ifndef MP_IPC_RING_H_
#define MP_IPC_RING_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/handle.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"
#include "mp/shm/segment.h"
#include "mp/shm/wait_source.h"
#include "mp/sync/in_place_lock.h"

namespace mp::ipc_internal {

// Records are stored in blocks of 8 bytes, behind a block with their size.
inline constexpr size_t kBlock = 8;
constexpr size_t RecordSize(size_t size) {
  return (kBlock + size + kBlock - 1) / kBlock * kBlock;
}

enum class RingGrowth {
  kNone,  // no more memory than the capacity
  // A large record waits until the ring is empty, and then has memory of its
  // own. Others do as with kUnlimited, within the size of a large record.
  kForLargeRecords,
  kUnlimited,  // more memory whenever a record has no room
};

struct RingOptions {
  std::string_view name;
  // Room for records, each of which takes RecordSize(its size). Rounded up to a
  // power of two of at least a page.
  size_t capacity_bytes = size_t{1} << 20;
  // How much of it is reserved at once, in whole pages. The rest is when it is
  // needed first: a put may say kNoMemory then.
  size_t reserved_bytes = std::numeric_limits<size_t>::max();
  RingGrowth growth = RingGrowth::kNone;
  // With kForLargeRecords: what is larger than that, or than the memory from
  // the beginning, is large.
  size_t large_bytes = 0;
  // Most records at a time; 0 for no limit but the bytes.
  uint32_t max_records = 0;
};

// What the caller of Ring::Put says of the record it was to write.
enum class FillResult {
  kFilled,
  kAborted,
  kNoRoom,  // for what goes with it: once more when a record has gone
};

enum class RingResult {
  kDone,
  kTimedOut,   // full, or empty, until the deadline or the watched death; or
               // another process stayed inside a put, or get, as long
  kClosed,     // put: the ring is closed; get: and no record is left
  kAborted,    // put: `fill` said so; get: `use` returned false
  kTooLarge,   // put: the record does not fit into the empty ring
  kNoMemory,   // see Ring::LastMemoryError()
  kCorrupted,  // the shared memory contradicts itself
};

// A handle; copies mean the same ring. Safe to use from many threads.
class Ring {
  using Gate = BasicGate<KernelPlatform>;

 public:
  // A watch for Put and Get: ends the wait when one process is dead.
  using WatchOne = Gate::WatchOne;
  using WatchRef = absl::FunctionRef<bool(WatchList&)>;

  static absl::StatusOr<Ring> Create(const RingOptions& options);

  // Appends a record of `size` bytes, which `FillResult fill(std::byte* to,
  // uint32_t number)` writes. `number` counts the records of this ring, modulo
  // 2^32. It runs under the producers' lock: it must neither block nor touch
  // the ring but as said below. Unless it returns kFilled, or true, nothing was
  // put; false is kAborted, and it may throw. Waits for room until the
  // deadline, or as `watch` says (see BasicGate::Wait). Deadline::Now() does
  // not wait for room, only for another put that is under way at the moment.
  template <class Fill, class Watch = WatchOne>
  ABSL_ATTRIBUTE_ALWAYS_INLINE RingResult Put(size_t size, const Fill& fill,
                                              Deadline deadline,
                                              const Watch& watch = {kNoToken});
  // The same for `count` records, one after the other: record i has `size(i)`
  // bytes, which `fill(i, to, number)` writes. As long as there is room, the
  // lock is acquired once. `done` of them have been put, whatever the result.
  RingResult PutMany(
      size_t count, absl::FunctionRef<size_t(size_t)> size,
      absl::FunctionRef<FillResult(size_t, std::byte*, uint32_t)> fill,
      size_t& done, Deadline deadline, WatchRef watch = WatchOne{kNoToken});

  // Calls `use(std::span<const std::byte> record, uint32_t number)` with the
  // oldest record and removes it; `number` is the one it was put with. `use`
  // runs under the consumers' lock, before the record is gone: if it throws, or
  // returns false (it may return nothing), or its process dies in it, the
  // record stays. `removed()` runs under the lock once it is gone; it must not
  // throw. Waits for a record until the deadline, or as `watch` says.
  // Deadline::Now() as above.
  struct DoNothing {
    void operator()() const {}
  };
  template <class Use, class Watch = WatchOne, class Removed = DoNothing>
  ABSL_ATTRIBUTE_ALWAYS_INLINE RingResult Get(const Use& use, Deadline deadline,
                                              const Watch& watch = {kNoToken},
                                              const Removed& removed = {});
  // The same for up to `max` records, of those that are there when there is
  // one. kDone if `done` of them, more than none, have been removed, whatever
  // became of the next one.
  RingResult GetMany(
      size_t max,
      absl::FunctionRef<bool(std::span<const std::byte>, uint32_t)> use,
      size_t& done, Deadline deadline, WatchRef watch = WatchOne{kNoToken},
      absl::FunctionRef<void()> removed = DoNothing());

  // Waits for a record as Get() does, but takes nothing. False after the
  // deadline, or as `watch` says. When it returns true, another consumer may
  // have been quicker.
  template <class Watch>
  bool AwaitRecord(Deadline deadline, Watch watch) {
    const bool result = control_->not_empty.Wait(
        control_->consumers.spin, [this] { return HasRecord(); }, deadline,
        watch);
    if (HasRecord()) control_->not_empty.Notify();  // for who does take it
    return result;
  }

  // Sleeps, without taking anything, until there is a record, or the ring is
  // closed, or `also()`. False if the deadline passed first. Who makes `also()`
  // true calls WakeConsumer() afterwards.
  template <class Also>
  bool WaitForRecord(Also also, Deadline deadline) {
    return control_->not_empty.Sleep(
        [&] { return HasRecord() || closed() || also(); }, deadline);
  }
  // The same for who makes `also()` true and notifies at a gate of its own. If
  // the kernel has no futex_waitv, that may be noticed a quarter of a second
  // late.
  template <class Also>
  bool WaitForRecord(Also also, BasicGate<KernelPlatform>& gate,
                     Deadline deadline);
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

  // For a consumer that is about to do what has a record put, and gets that
  // then: sleeping consumers are left alone meanwhile. It calls EndExpecting()
  // when it has it, or will not get one.
  void ExpectRecord() { control_->not_empty.AnnounceSpin(); }
  void EndExpecting() {
    // If it is no more, either it has spun in Get(), which does the rest; or
    // NotifyAll() has woken the sleepers.
    if (!control_->not_empty.IsSpinner()) return;
    control_->not_empty.WithdrawSpin();
    if (HasRecord()) control_->not_empty.Notify();
  }

  // For a consumer before Get(), which takes the lock before it spins: spins
  // until there is a record, for as long as that has helped lately.
  void SpinForRecord() {
    const std::byte* const record = NextRecord();
    const auto has_record = [this, record] {
      Prefetch(record);
      return HasRecord();
    };
    if (!has_record()) SpinUntil(control_->consumers.spin, has_record);
  }

  // ---- For consumers that poll() a descriptor.
  // Outside there is one, the signal, that producers make readable, which is to
  // raise it. If there is a record, the signal is raised, at any instruction
  // and whoever dies. It stays so until a consumer that polls lowers it; for
  // others it costs the first producer of all one system call.

  // For `fill`: whether it must make the descriptor readable now, before it
  // returns true. If it has, it calls SignalRaised().
  bool MustRaiseSignal() const {
    return control_->signal.load(std::memory_order_relaxed) != kRaised;
  }
  void SignalRaised() {
    control_->signal.fetch_or(kRaised, std::memory_order_relaxed);
  }
  // From now on `fill` is asked to raise the signal for each record, for
  // consumers that wait for edges.
  void RaiseSignalForEachRecord() {
    control_->signal.fetch_or(kForEachRecord, std::memory_order_relaxed);
  }
  bool RaisesSignalForEachRecord() const {
    return (control_->signal.load(std::memory_order_relaxed) &
            kForEachRecord) != 0;
  }
  // Whether the signal is raised, but for what a producer that died could not
  // say.
  bool SignalIsRaised() const {
    return (control_->signal.load(std::memory_order_relaxed) & kRaised) != 0;
  }
  // If there is no record, calls `lower()`, which makes the descriptor
  // unreadable, while no producer is at work. Returns whether there is one: its
  // producer may have raised the signal before the caller looked for it.
  // Deadline::Now() as above.
  template <class Lower>
  bool LowerSignal(Lower lower, Deadline deadline);

  // ---- For what goes with records, outside of the ring.

  // For `fill`: a number greater than all it has returned before, whoever died.
  uint64_t NextSerial() {
    const uint64_t serial =
        control_->serial.load(std::memory_order_relaxed) + 1;
    control_->serial.store(serial, std::memory_order_relaxed);
    return serial;
  }
  // Calls `f()` while no consumer is at work; `fill` may call this. False if
  // one stayed inside a get until the deadline, or for Deadline::Now() as
  // above.
  template <class F>
  bool WhileNoGet(F f, Deadline deadline) ABSL_NO_THREAD_SAFETY_ANALYSIS;

  // Calls `f(std::span<const std::byte>)` for each record while neither a
  // producer nor a consumer is at work. Otherwise kTimedOut, as WhileNoGet(),
  // or kCorrupted, perhaps after some calls. For rings that do not grow.
  template <class F>
  RingResult ForEachRecord(F f,
                           Deadline deadline) ABSL_NO_THREAD_SAFETY_ANALYSIS;

  // ---- For producers and consumers that care whether the others still live.

  // How often Leave() was called, modulo 2^32. In 64 bits, as Presence() needs
  // it: GCC spills 32 of them and reads 64 back, which waits for every store
  // before it, a tenth of a message's time.
  uint64_t departures() const {
    return control_->departures.load(std::memory_order_acquire);
  }
  // That the process is here, or was, when there had been so many departures.
  // It costs little to say the same again. If somebody leaves at the same time,
  // it is forgotten: see departures() after the put or get, which has a full
  // barrier behind what it did.
  void SetProducer(Token self, uint64_t departures) {
    StoreIfNew(control_->producer, Presence(self, departures));
  }
  void SetConsumer(Token self, uint64_t departures) {
    StoreIfNew(control_->consumer, Presence(self, departures));
  }
  // Who was last said to be here; kNoToken if somebody has left since.
  Token producer() const { return PresentIn(control_->producer); }
  Token consumer() const { return PresentIn(control_->consumer); }
  // Nobody is said to be `self` any more. Has all who wait call their `watch`.
  void Leave(Token self) {
    const uint32_t before =
        control_->departures.fetch_add(1, std::memory_order_release);
    KeepIfOther(control_->producer, self, before);
    KeepIfOther(control_->consumer, self, before);
    WakeAll();
  }
  // Has all who wait look around.
  void WakeAll() {
    FenceBeforeNotify();
    control_->not_empty.NotifyAll();
    control_->not_full.NotifyAll();
    control_->not_full_for_claim.NotifyAll();
  }

  // Ready while there is a record, or the ring is closed.
  WaitSource wait_source() const;

  // False for what is left of a handle that did not arrive, or arrived with a
  // segment that holds no ring.
  bool valid() const { return control_ != nullptr; }

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
  bool closed() const {
    return control_->closed.load(std::memory_order_acquire) != 0;
  }
  // The largest record that fits.
  size_t max_record_size() const { return max_record_size_; }
  // Bytes of memory that are reserved for records at the moment.
  size_t reserved_bytes() const;
  // Why the last Put or Get of this thread said kNoMemory.
  static const absl::Status& LastMemoryError();
  // For those results of Put and Get that mean the same to every caller; `what`
  // is the ring for its user. Internal for the others.
  static absl::Status ErrorOf(RingResult result, std::string_view what);
  // As created; 0 for no limit.
  uint32_t max_records() const;
  // That of its memory: open for as long as the ring is used in this process.
  int fd() const { return mapping_->segment->fd(); }

  friend bool operator==(const Ring& a, const Ring& b) {
    return a.control_ == b.control_;
  }

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

  static constexpr uint32_t kMaxRegions = 11;
  static constexpr uint32_t kNoRegion = kMaxRegions;

  // Written under the producers' lock. A region is free unless it is on the way
  // from the consumers' region over `next` to the producers'. A free one
  // becomes the producers' by the store of its index to `next` of the last one:
  // who then takes over from a dead producer follows.
  struct Region {
    std::atomic<uint32_t> start{0};  // the position at its beginning
    std::atomic<uint32_t> end{0};    // where records are in `next` instead
    std::atomic<uint32_t> next{kNoRegion};
    // Blocks from the beginning that have memory; kAll once all of them do.
    std::atomic<uint32_t> reserved{0};
    // If not, `reserved` is 0. kMore while it may be more than that.
    std::atomic<uint32_t> holds_memory{0};
    static constexpr uint32_t kMore = 2;
  };
  static constexpr uint32_t kAll = std::numeric_limits<uint32_t>::max();

  // Bits of `signal`.
  static constexpr uint32_t kRaised = 1;
  static constexpr uint32_t kForEachRecord = 2;

  // Two cache lines for each that is written by another party or at another
  // time: processors fetch them in pairs. With one for each, a consumer that
  // looked at the tail took the producers' lock away with it, and a round trip
  // took a fifth longer.
  static constexpr size_t kApart = 128;
  struct Control {
    alignas(kApart) uint32_t max_records = 0;
    uint32_t common_regions = 1;
    std::atomic<uint32_t> closed{0};
    // Not 0 if another region than the first is in use or holds more memory
    // than an empty ring should. Set under the producers' lock, cleared under
    // both.
    std::atomic<uint32_t> grown{0};
    // kRaised is changed under the producers' lock.
    std::atomic<uint32_t> signal{0};
    // Whose turn it is to put, see RoomWaiter: Liveness::SelfThread(), or 0.
    std::atomic<uint64_t> claim{0};
    std::atomic<uint64_t> serial{0};  // stored under the producers' lock
    std::atomic<uint64_t> producer{kNoToken};
    std::atomic<uint64_t> consumer{kNoToken};
    std::atomic<uint32_t> departures{0};
    Region regions[kMaxRegions];
    struct alignas(kApart) Side {
      InPlaceLock lock;
      // The consumers': the tail as they last saw it. Until they have come
      // there, they leave the producers' cache line alone. Guarded by lock.
      uint64_t seen_tail = 0;
      // The producers': what fits behind the tail for certain, in the region
      // and its memory, without a look at the consumers' cache line. Guarded by
      // lock.
      uint32_t room_blocks = 0;
      uint32_t room_records = 0;
      // The producers' tail again. Consumers that spin take the line of the
      // real one away, so a producer only writes to that.
      uint64_t tail = 0;
      Spin spin;  // while waiting for the other side
      // Where its next record is, or was before it followed `next`. Stored
      // under lock.
      std::atomic<uint32_t> region{0};
    };
    Side producers;
    alignas(kApart) std::atomic<uint64_t> tail{
        0};  // stored under producers.lock
    Side consumers;
    alignas(kApart) std::atomic<uint64_t> head{
        0};  // stored under consumers.lock
    alignas(kApart) Gate not_empty;
    Gate not_full;
    Gate not_full_for_claim;
  };

  // A token and the number of departures.
  static uint64_t Presence(Token token, uint64_t departures) {
    return departures << 32 | token;
  }
  static void StoreIfNew(std::atomic<uint64_t>& presence, uint64_t value) {
    if (ABSL_PREDICT_FALSE(presence.load(std::memory_order_relaxed) != value)) {
      presence.store(value, std::memory_order_relaxed);
    }
  }
  // Who was there before the departure of `self`, and is another, still is:
  // unless one more has left since, for then this says nothing.
  static void KeepIfOther(std::atomic<uint64_t>& presence, Token self,
                          uint32_t before) {
    uint64_t value = presence.load(std::memory_order_relaxed);
    const auto token = static_cast<Token>(value);
    if (value >> 32 != before || token == self) return;
    presence.compare_exchange_strong(value, Presence(token, before + 1),
                                     std::memory_order_relaxed);
  }
  Token PresentIn(const std::atomic<uint64_t>& presence) const {
    const uint64_t value = presence.load(std::memory_order_relaxed);
    return value >> 32 == departures() ? static_cast<Token>(value) : kNoToken;
  }

  // Holds a lock that has been acquired already, as std::lock_guard, which the
  // compiler puts in line when it likes to.
  class ABSL_SCOPED_LOCKABLE Hold {
   public:
    explicit Hold(InPlaceLock& lock) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock)
        : lock_(lock) {}
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ABSL_ATTRIBUTE_ALWAYS_INLINE ~Hold() ABSL_UNLOCK_FUNCTION() {
      lock_.unlock();
    }

   private:
    InPlaceLock& lock_;
  };

  static uint32_t BlocksFor(size_t size) {
    return static_cast<uint32_t>(RecordSize(size) / kBlock);
  }

  // A lock is held for as long as it takes to copy a record, which is not what
  // "full" or "empty" means. But a process can be stopped while it holds one.
  static constexpr int64_t kLockPatienceNanos = 100'000'000;
  static AcquireResult AcquirePatiently(InPlaceLock& lock, Deadline deadline) {
    return lock.AcquireUntil(
        deadline == Deadline::Now()
            ? Deadline::Infinite().Sooner(kLockPatienceNanos)
            : deadline);
  }
  // The callers hand the lock to a guard of the standard library, which Clang's
  // analysis does not follow.
  bool AcquireConsumers(Deadline deadline) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    InPlaceLock& lock = control_->consumers.lock;
    return ABSL_PREDICT_TRUE(lock.TryAcquire()) ||
           AcquirePatiently(lock, deadline);
  }
  // Besides TryAcquire(), the only way to the producers' lock.
  bool AcquireProducers(Deadline deadline) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    InPlaceLock& lock = control_->producers.lock;
    if (ABSL_PREDICT_TRUE(lock.TryAcquire())) return true;
    const AcquireResult acquired = AcquirePatiently(lock, deadline);
    if (acquired == kOwnerDied) {
      control_->producers.tail = control_->tail.load(std::memory_order_relaxed);
      control_->producers.room_blocks = 0;
    }
    return acquired != kTimedOut;
  }

  static constexpr uint64_t kLayout =
      LayoutFingerprint("ring", 5, sizeof(Control));

  // What a process has of the ring. Regions are mapped when they are first used
  // there.
  struct Mapping {
    std::shared_ptr<Segment> segment;
    std::atomic<std::byte*> regions[kMaxRegions] = {};
    std::atomic<bool> has_gotten{false};  // this process, or its parent
    size_t sizes[kMaxRegions] = {};       // in bytes
    ~Mapping();
  };

  friend struct mp::HandleAccess;
  explicit Ring(SegmentPart<kLayout> part);
  auto parts() const {
    return std::tuple(SegmentPart<kLayout>{
        mapping_ == nullptr ? nullptr : mapping_->segment});
  }

  // Blocks in a region.
  uint32_t Capacity(uint32_t region) const {
    return capacity_blocks_ << (2 * region);
  }
  // Whether a record of `blocks` blocks fits into a region that is in use from
  // `used_from` to the tail.
  bool Fits(Cursor tail, Cursor used_from, uint32_t region,
            uint32_t blocks) const {
    const uint64_t used = tail.blocks - used_from.blocks;
    uint32_t limit = Capacity(region);
    if (ABSL_PREDICT_FALSE(region >= common_regions_ && used != 0)) {
      limit = Capacity(common_regions_ - 1);  // the rest is for one
    }
    return used + blocks <= limit &&
           tail.records - used_from.records < control_->max_records;
  }
  // Looks at the state of the moment, without a lock: a hint.
  bool HasRoom(uint32_t blocks) const;
  static FillResult ToFillResult(FillResult result) { return result; }
  static FillResult ToFillResult(bool filled) {
    return filled ? FillResult::kFilled : FillResult::kAborted;
  }
  template <class Use>
  ABSL_ATTRIBUTE_ALWAYS_INLINE static bool Takes(
      const Use& use, std::span<const std::byte> record, uint32_t number) {
    if constexpr (std::is_same_v<decltype(use(record, number)), bool>) {
      return use(record, number);
    } else {
      use(record, number);
      return true;
    }
  }
  // A producer that waits for room. Others that come when there is room are
  // served before it, so that nobody sleeps while work can be done, and a large
  // record may find that small ones take the room again and again. So after
  // kClaimAfterNanos a waiter claims the room that comes next: all others stand
  // back until it has put its record or given up. (As sync.Mutex of Go does in
  // its starvation mode.) Not so a put with Deadline::Now(), and a process that
  // also gets from this ring: it may have to put before it gets again.
  //
  // A claim is no lock, and nothing breaks without it. It goes when its process
  // dies. It lapses if the ring has been empty for as long as it took to claim,
  // so that its process must be stopped; and if nobody has gotten anything for
  // a second while another one has room: who gets may wait for that one.
  class RoomWaiter;
  bool MayPutNow(Deadline deadline) const {
    return control_->claim.load(std::memory_order_relaxed) == 0 ||
           deadline == Deadline::Now();
  }
  static constexpr int64_t kClaimAfterNanos = 10'000'000;
  static constexpr int64_t kClaimLapsesNanos = 1'000'000'000;
  static inline std::atomic<int64_t> claim_after_nanos_{kClaimAfterNanos};
  // After so many records have gone, and the lock was released.
  ABSL_ATTRIBUTE_ALWAYS_INLINE void TellOfRoom(size_t records) {
    FenceBeforeNotifyAfterRmw();
    if (ABSL_PREDICT_FALSE(control_->claim.load(std::memory_order_relaxed) !=
                           0)) {
      control_->not_full_for_claim.NotifyAll();
    } else if (ABSL_PREDICT_TRUE(records == 1)) {
      control_->not_full.Notify();
    } else {
      // It may be room for one that the first to wake cannot use.
      control_->not_full.NotifyAll();
    }
  }
  // For a while, until there may be room for what goes with a record. Room may
  // have come before the call already, or come without notice when a consumer
  // dies, hence the while. False if Put must give up.
  bool AwaitRoomBeside(Deadline deadline, WatchRef watch);
  static constexpr int64_t kRoomPatienceNanos = 10'000'000;
  // For the producers, who have come to `region`: the consumers' cursor, or the
  // region's start while the consumers are in another one.
  Cursor UsedFrom(uint32_t region) const;
  // A bit for each region that is not free.
  uint32_t RegionsInUse() const;
  // The region at the end of the way over `next`; kNoRegion if it has none.
  uint32_t LastRegion(uint32_t region) const;
  // Whether the consumers, who have read everything, have not come to the last
  // region: one of them died on the way, so that one is in use for nothing.
  bool ConsumersAreBehind(uint32_t last, Cursor tail) const;
  // Under the producers' lock, without a record.
  void LeadConsumersTo(uint32_t last);
  // The region where a record that does not fit into the producers' region
  // goes; kNoRegion if it has to wait.
  uint32_t RegionToGrowInto(uint32_t region, Cursor tail,
                            uint32_t blocks) const;

  // What goes under one acquisition of a lock, for which others wait.
  static constexpr size_t kBatchRecords = 256;
  static constexpr size_t kBatchBytes = size_t{1} << 20;
  // Puts one record; under the producers' lock. kTimedOut: no room now,
  // `beside` the ring if `fill` said so.
  template <class Fill>
  ABSL_ATTRIBUTE_ALWAYS_INLINE RingResult PutLocked(size_t size,
                                                    const Fill& fill,
                                                    bool& beside);
  // Gets one; under the consumers' lock. kTimedOut: there is none.
  template <class Use, class Removed>
  ABSL_ATTRIBUTE_ALWAYS_INLINE RingResult GetLocked(const Use& use,
                                                    const Removed& removed);
  // Where to put a record; under the producers' lock. kTimedOut: no room now.
  ABSL_ATTRIBUTE_ALWAYS_INLINE RingResult FindPlace(Cursor tail,
                                                    uint32_t blocks,
                                                    std::byte*& place) {
    const Control::Side& side = control_->producers;
    const uint32_t region = side.region.load(std::memory_order_relaxed);
    if (ABSL_PREDICT_TRUE(blocks <= side.room_blocks &&
                          side.room_records != 0 && region < regions_)) {
      std::byte* const memory =
          mapping_->regions[region].load(std::memory_order_acquire);
      // Whatever the shared memory says, no access is outside the region.
      if (ABSL_PREDICT_TRUE(memory != nullptr && blocks <= Capacity(region))) {
        place = memory + Offset(region, tail) * kBlock;
        return RingResult::kDone;
      }
    }
    return FindPlaceSlow(tail, blocks, place);
  }
  RingResult FindPlaceSlow(Cursor tail, uint32_t blocks, std::byte*& place);
  // `region` is the last one.
  void SetProducers(uint32_t region);
  // What fits there behind the tail.
  void SetRoom(uint32_t region, Cursor tail, Cursor used_from);
  static bool HasMemory(const Region& region, size_t offset, uint32_t blocks) {
    return offset + blocks <= region.reserved.load(std::memory_order_relaxed);
  }
  // Of a region, with memory.
  size_t ReservedBytes(uint32_t region) const;
  // Gives memory to a place in a region. kNoMemory with LastMemoryError().
  RingResult Reserve(uint32_t region, size_t offset, uint32_t blocks);
  // Where the region begins among the segment's spare bytes.
  size_t SpareOffset(uint32_t region) const;
  // Where a region is in this process; null with LastMemoryError().
  std::byte* Map(uint32_t region);

  // Where the record at the head is; under the consumers' lock.
  ABSL_ATTRIBUTE_ALWAYS_INLINE RingResult FindRecord(Cursor head,
                                                     const std::byte*& record,
                                                     uint32_t& capacity) {
    Control& control = *control_;
    const uint32_t region =
        control.consumers.region.load(std::memory_order_relaxed);
    if (ABSL_PREDICT_TRUE(region < regions_)) {
      std::byte* const memory =
          mapping_->regions[region].load(std::memory_order_acquire);
      if (ABSL_PREDICT_TRUE(!EndsAt(control.regions[region], head) &&
                            memory != nullptr)) {
        record = memory + Offset(region, head) * kBlock;
        capacity = Capacity(region);
        return RingResult::kDone;
      }
    }
    return FindRecordSlow(head, record, capacity);
  }
  RingResult FindRecordSlow(Cursor head, const std::byte*& record,
                            uint32_t& capacity);
  // Whether the record there, whose size it reads, ends before the tail.
  bool HasWholeRecord(Cursor head, Cursor tail, const std::byte* record,
                      uint32_t capacity, uint64_t& size) const {
    memcpy(&size, record, kBlock);
    const uint32_t present = tail.blocks - head.blocks;
    return present <= total_blocks_ && size <= capacity * kBlock - kBlock &&
           BlocksFor(size) <= present;
  }
  // Acquire: `end` is stored before `next`.
  static bool EndsAt(const Region& region, Cursor head) {
    return region.next.load(std::memory_order_acquire) != kNoRegion &&
           region.end.load(std::memory_order_relaxed) == head.blocks;
  }
  // Gives memory back that is not needed, and leads both sides to the first
  // region if the ring is empty. Under the consumers' lock. Does nothing if a
  // producer is at work: there is another chance. A std::lock_guard has the
  // producers' lock, which Clang's analysis does not follow.
  void Shrink() ABSL_NO_THREAD_SAFETY_ANALYSIS;

  // What a consumer reads next, as far as this process has seen it; null if it
  // does not know.
  const std::byte* NextRecord() const {
    const uint32_t region =
        control_->consumers.region.load(std::memory_order_relaxed);
    if (region >= regions_) return nullptr;
    const std::byte* const memory =
        mapping_->regions[region].load(std::memory_order_relaxed);
    if (memory == nullptr) return nullptr;
    const Cursor head =
        Cursor::Unpack(control_->head.load(std::memory_order_relaxed));
    return memory + Offset(region, head) * kBlock;
  }
  // The beginning of it, which is in another cache.
  static void Prefetch(const std::byte* record) {
    if (record == nullptr) return;
    __builtin_prefetch(record);
    __builtin_prefetch(record + 64);
  }

  // In blocks from the beginning of the region. The masks keep every access
  // inside it, whatever the shared memory says.
  size_t Offset(uint32_t region, Cursor cursor) const {
    const uint32_t start =
        control_->regions[region].start.load(std::memory_order_relaxed);
    return (cursor.blocks - start) & (Capacity(region) - 1);
  }

  std::shared_ptr<Control> control_;  // keeps the mapping
  Mapping* mapping_ = nullptr;
  // Here and not in shared memory, where they could be overwritten.
  uint32_t capacity_blocks_ = 0;  // of the first region: a power of two
  uint32_t regions_ = 0;
  uint32_t common_regions_ = 0;  // the smallest ones are for all records
  uint32_t total_blocks_ = 0;    // of all regions
  size_t max_record_size_ = 0;
};

// ---- implementation ----

template <class Fill, class Watch>
inline RingResult Ring::Put(size_t size, const Fill& fill, Deadline deadline,
                            const Watch& watch) {
  Control& control = *control_;
  InPlaceLock& lock = control.producers.lock;
  // The usual case apart: the compiler keeps in registers what does not wait.
  if (ABSL_PREDICT_TRUE(MayPutNow(deadline) && lock.TryAcquire())) {
    RingResult result = RingResult::kClosed;
    bool beside = false;
    {
      const Hold hold(lock);
      if (ABSL_PREDICT_TRUE(control.closed.load(std::memory_order_relaxed) ==
                            0)) {
        result = PutLocked(size, fill, beside);
      }
    }
    if (ABSL_PREDICT_TRUE(result == RingResult::kDone)) {
      FenceBeforeNotifyAfterRmw();
      control.not_empty.Notify();
      return result;
    }
    if (result != RingResult::kTimedOut || deadline == Deadline::Now()) {
      return result;
    }
  }
  size_t done;
  return PutMany(
      1, [size](size_t) { return size; },
      [&fill](size_t, std::byte* to, uint32_t number) {
        return ToFillResult(fill(to, number));
      },
      done, deadline, watch);
}

template <class Fill>
inline RingResult Ring::PutLocked(size_t size, const Fill& fill, bool& beside) {
  Control& control = *control_;
  Control::Side& side = control.producers;
  if (ABSL_PREDICT_FALSE(size > max_record_size())) {
    return RingResult::kTooLarge;
  }
  const uint32_t blocks = BlocksFor(size);
  const Cursor tail = Cursor::Unpack(side.tail);
  std::byte* record = nullptr;
  const RingResult found = FindPlace(tail, blocks, record);
  if (ABSL_PREDICT_FALSE(found != RingResult::kDone)) return found;
  const uint64_t header = size;
  memcpy(record, &header, kBlock);
  const FillResult filled = ToFillResult(fill(record + kBlock, tail.records));
  if (ABSL_PREDICT_FALSE(filled != FillResult::kFilled)) {
    beside = filled == FillResult::kNoRoom;
    return beside ? RingResult::kTimedOut : RingResult::kAborted;
  }
  const Cursor next = {.records = tail.records + 1,
                       .blocks = tail.blocks + blocks};
  // Release: who sees the new tail sees the record.
  control.tail.store(next.packed(), std::memory_order_release);
  side.tail = next.packed();
  // FindPlaceSlow() may find a place where it can promise none.
  side.room_blocks -= std::min(side.room_blocks, blocks);
  side.room_records -= std::min(side.room_records, 1u);
  return RingResult::kDone;
}

template <class Use, class Watch, class Removed>
inline RingResult Ring::Get(const Use& use, Deadline deadline,
                            const Watch& watch, const Removed& removed) {
  Control& control = *control_;
  InPlaceLock& lock = control.consumers.lock;
  if (ABSL_PREDICT_TRUE(lock.TryAcquire())) {  // as in Put
    RingResult result;
    {
      const Hold hold(lock);
      result = GetLocked(use, removed);
    }
    if (ABSL_PREDICT_TRUE(result == RingResult::kDone)) {
      TellOfRoom(/*records=*/1);
      return result;
    }
    if (result != RingResult::kTimedOut || deadline == Deadline::Now()) {
      return result;
    }
  }
  size_t done;
  return GetMany(
      1,
      [&use](std::span<const std::byte> bytes, uint32_t number) {
        return Takes(use, bytes, number);
      },
      done, deadline, watch, removed);
}

template <class Use, class Removed>
inline RingResult Ring::GetLocked(const Use& use, const Removed& removed) {
  Control& control = *control_;
  Control::Side& side = control.consumers;
  const Cursor head =
      Cursor::Unpack(control.head.load(std::memory_order_relaxed));
  bool was_closed = false;
  if (head.packed() == side.seen_tail) {
    // In this order, both acquire: Close() waits for the last put, so who sees
    // the ring closed sees every record.
    was_closed = closed();
    // Acquire: pairs with the release in PutLocked.
    side.seen_tail = control.tail.load(std::memory_order_acquire);
  }
  const Cursor tail = Cursor::Unpack(side.seen_tail);
  if (head.packed() == tail.packed()) {
    return was_closed ? RingResult::kClosed : RingResult::kTimedOut;
  }
  const std::byte* record = nullptr;
  uint32_t capacity = 0;
  if (const RingResult found = FindRecord(head, record, capacity);
      ABSL_PREDICT_FALSE(found != RingResult::kDone)) {
    return found;
  }
  uint64_t size;
  if (ABSL_PREDICT_FALSE(!HasWholeRecord(head, tail, record, capacity, size))) {
    return RingResult::kCorrupted;
  }
  const std::span<const std::byte> bytes(record + kBlock, size);
  if (!Takes(use, bytes, head.records)) return RingResult::kAborted;
  const Cursor next = {.records = head.records + 1,
                       .blocks = head.blocks + BlocksFor(size)};
  if (ABSL_PREDICT_FALSE(
          !mapping_->has_gotten.load(std::memory_order_relaxed))) {
    mapping_->has_gotten.store(true, std::memory_order_relaxed);
  }
  // Release: the record was read before a producer may write there again.
  control.head.store(next.packed(), std::memory_order_release);
  removed();
  if (ABSL_PREDICT_FALSE(control.grown.load(std::memory_order_relaxed) != 0) &&
      control.tail.load(std::memory_order_relaxed) == next.packed()) {
    Shrink();
  }
  return RingResult::kDone;
}

template <class Also>
bool Ring::WaitForRecord(Also also, Gate& gate, Deadline deadline) {
  Gate& records = control_->not_empty;
  ParkSlices slices;
  for (bool woken = false;;) {
    const Gate::Ticket here = records.BeforeSleep();
    const Gate::Ticket there = gate.BeforeSleep();
    const bool is_ready = HasRecord() || closed() || also();
    const bool sleeps = !is_ready && !deadline.Expired();
    if (sleeps) {
      Liveness::Rehome();
      const FutexExpectation words[] = {{here.word, here.expected},
                                        {there.word, there.expected}};
      const Deadline slice = deadline.Sooner(slices.nanos());
      FutexWaitAny(words, slice);
      if (slice.Expired()) slices.Grow();
    }
    woken |= records.AfterSleep(here);
    gate.AfterSleep(there);
    if (sleeps) continue;
    if (woken && HasRecord()) records.Notify();  // perhaps for another one
    return is_ready;
  }
}

template <class F>
bool Ring::WhileNoGet(F f, Deadline deadline) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (!AcquireConsumers(deadline)) return false;
  const std::lock_guard hold(control_->consumers.lock, std::adopt_lock);
  f();
  return true;
}

template <class F>
RingResult Ring::ForEachRecord(F f, Deadline deadline)
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  Control& control = *control_;
  if (regions_ != 1) return RingResult::kCorrupted;
  if (!AcquireProducers(deadline)) return RingResult::kTimedOut;
  const std::lock_guard no_put(control.producers.lock, std::adopt_lock);
  if (!AcquireConsumers(deadline)) return RingResult::kTimedOut;
  const std::lock_guard no_get(control.consumers.lock, std::adopt_lock);
  Cursor at = Cursor::Unpack(control.head.load(std::memory_order_relaxed));
  const Cursor tail =
      Cursor::Unpack(control.tail.load(std::memory_order_relaxed));
  while (at.packed() != tail.packed()) {
    const std::byte* record = nullptr;
    uint32_t capacity = 0;
    uint64_t size;
    if (FindRecord(at, record, capacity) != RingResult::kDone ||
        !HasWholeRecord(at, tail, record, capacity, size)) {
      return RingResult::kCorrupted;
    }
    f(std::span(record + kBlock, size));
    at = {.records = at.records + 1, .blocks = at.blocks + BlocksFor(size)};
  }
  return RingResult::kDone;
}

template <class Lower>
bool Ring::LowerSignal(Lower lower, Deadline deadline) {
  Control& control = *control_;
  if (!AcquireProducers(deadline)) return HasRecord();
  const std::unique_lock hold(control.producers.lock, std::adopt_lock);
  if (control.tail.load(std::memory_order_relaxed) ==
      control.head.load(std::memory_order_relaxed)) {
    // In this order: a process that dies in between leaves a signal that will
    // be raised once more, not one that never will. And whatever the word says:
    // a process may have died before it could say that it raised the signal, or
    // here.
    control.signal.fetch_and(~kRaised, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    lower();
    return false;
  }
  return true;
}

}  // namespace mp::ipc_internal

#endif  // MP_IPC_RING_H_
