#include "mp/ipc/ring.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <mutex>
#include <new>

#include "absl/base/optimization.h"
#include "absl/cleanup/cleanup.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mp/base/deadline.h"
#include "mp/base/errno_status.h"
#include "mp/base/file_size_limit.h"
#include "mp/shm/gate.h"
#include "mp/shm/liveness.h"

namespace mp::ipc_internal {
namespace {

// Positions are counted in blocks modulo 2^32; half of that keeps full and
// empty apart.
constexpr size_t kMaxCapacity = (size_t{1} << 31) * kBlock;

constexpr uint32_t kNoLimit = std::numeric_limits<uint32_t>::max();

// Of a region beside the first. All of them together stay below 2^31 blocks.
constexpr size_t kMaxRegionBlocks = (size_t{4} << 30) / kBlock;
// What a ring keeps of the regions that are not in use, the smallest ones
// first: those that large messages go through one by one are needed again at
// once. (With less, a message of 4 MiB spent nine tenths of its time on memory
// that came and went.)
constexpr size_t kKeptBytes = size_t{64} << 20;
// Memory is reserved in pieces of at least this size.
constexpr uint64_t kPieceBlocks = (uint64_t{256} << 10) / kBlock;

thread_local absl::Status last_memory_error;

// Regions beside the first, if that has so many blocks.
uint32_t CountRegions(size_t capacity_blocks) {
  uint32_t count = 0;
  while (capacity_blocks << (2 * (count + 1)) <= kMaxRegionBlocks) ++count;
  return count;
}

}  // namespace

absl::StatusOr<Ring> Ring::Create(const RingOptions& options) {
  if (options.capacity_bytes == 0 || options.capacity_bytes > kMaxCapacity) {
    return absl::InvalidArgumentError(
        absl::StrCat("capacity of ", options.capacity_bytes,
                     " bytes: must be from 1 to ", kMaxCapacity));
  }
  if (absl::Status status = Liveness::Join(); !status.ok()) return status;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t capacity = std::bit_ceil(std::max(options.capacity_bytes, page));
  const size_t reserved =
      options.reserved_bytes >= capacity
          ? capacity
          : (options.reserved_bytes + page - 1) / page * page;
  size_t spare = 0;
  if (options.growth != RingGrowth::kNone) {
    const uint32_t more =
        std::min(CountRegions(capacity / kBlock), kMaxRegions - 1);
    const size_t limit = FileSizeLimit() / 2;  // the other half is for the rest
    for (uint32_t i = 1; i <= more && spare + (capacity << (2 * i)) < limit;
         ++i) {
      spare += capacity << (2 * i);
    }
  }
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      Segment::Create({.name = options.name,
                       .layout = kLayout,
                       .size = sizeof(Control),
                       .ring_size = capacity,
                       .ring_reserved_size = reserved,
                       .spare_size = spare});
  if (!segment.ok()) return segment.status();
  auto* const control = new ((*segment)->data()) Control;
  control->max_records =
      options.max_records != 0 ? options.max_records : kNoLimit;
  if (options.growth != RingGrowth::kNone) {
    const size_t common = options.growth == RingGrowth::kUnlimited
                              ? kMaxCapacity
                              : std::max(options.large_bytes, capacity);
    while (control->common_regions < kMaxRegions &&
           capacity << (2 * control->common_regions) <= common) {
      ++control->common_regions;
    }
  }
  control->regions[0].reserved.store(
      reserved == capacity ? kAll : static_cast<uint32_t>(reserved / kBlock),
      std::memory_order_relaxed);
  return Ring({*std::move(segment)});
}

Ring::Ring(SegmentPart<kLayout> part) {
  if (part.segment == nullptr) return;
  Segment& segment = *part.segment;
  const size_t capacity = segment.ring_size() / kBlock;
  if (!std::has_single_bit(capacity) || capacity > kMaxCapacity / kBlock ||
      segment.size() < sizeof(Control)) {
    return;
  }
  const auto mapping = std::make_shared<Mapping>();
  mapping->segment = std::move(part.segment);
  mapping_ = mapping.get();
  mapping_->regions[0].store(segment.ring(), std::memory_order_relaxed);
  capacity_blocks_ = static_cast<uint32_t>(capacity);
  const uint32_t more = std::min(CountRegions(capacity), kMaxRegions - 1);
  size_t total = segment.ring_size();
  for (regions_ = 1;
       total - segment.ring_size() < segment.spare_size() && regions_ <= more;
       ++regions_) {
    mapping_->sizes[regions_] = Capacity(regions_) * kBlock;
    total += mapping_->sizes[regions_];
  }
  if (total - segment.ring_size() != segment.spare_size()) {
    mapping_ = nullptr;
    return;
  }
  total_blocks_ = static_cast<uint32_t>(total / kBlock);
  max_record_size_ = (size_t{Capacity(regions_ - 1)} - 1) * kBlock;
  control_ = std::shared_ptr<Control>(
      mapping, reinterpret_cast<Control*>(segment.data()));
  common_regions_ = std::clamp(control_->common_regions, 1u, regions_);
}

Ring::Mapping::~Mapping() {
  for (uint32_t i = 1; i < kMaxRegions; ++i) {
    if (std::byte* const region = regions[i].load(std::memory_order_relaxed);
        region != nullptr) {
      Segment::UnmapRing(region, sizes[i]);
    }
  }
}

const absl::Status& Ring::LastMemoryError() { return last_memory_error; }

absl::Status Ring::ErrorOf(RingResult result, std::string_view what) {
  switch (result) {
    case RingResult::kNoMemory:
      return LastMemoryError();
    case RingResult::kCorrupted:
      return absl::DataLossError(
          absl::StrCat("the ", ToAbsl(what), "'s shared memory is corrupted"));
    default:
      return absl::InternalError(absl::StrCat("the ", ToAbsl(what), ": result ",
                                              static_cast<int>(result)));
  }
}

// ---- Memory

Ring::Cursor Ring::UsedFrom(uint32_t region) const {
  // In this order, both acquire: the region is in use from its start until the
  // consumers are in it, and then from their head. What they have read before
  // may be overwritten.
  const bool shared =
      control_->consumers.region.load(std::memory_order_acquire) == region;
  Cursor from = Cursor::Unpack(control_->head.load(std::memory_order_acquire));
  if (!shared) {
    from.blocks =
        control_->regions[region].start.load(std::memory_order_relaxed);
  }
  return from;
}

uint32_t Ring::RegionsInUse() const {
  uint32_t regions = 0;
  // Acquire: the consumers have read all that was in the regions before.
  uint32_t i = control_->consumers.region.load(std::memory_order_acquire);
  for (uint32_t hops = 0; hops < kMaxRegions && i < regions_; ++hops) {
    regions |= 1u << i;
    i = control_->regions[i].next.load(std::memory_order_relaxed);
  }
  return regions;
}

uint32_t Ring::LastRegion(uint32_t region) const {
  for (uint32_t hops = 0; hops < kMaxRegions && region < regions_; ++hops) {
    const uint32_t next =
        control_->regions[region].next.load(std::memory_order_relaxed);
    if (next == kNoRegion) return region;
    region = next;
  }
  return kNoRegion;
}

uint32_t Ring::RegionToGrowInto(uint32_t region, Cursor tail,
                                uint32_t blocks) const {
  const Control& control = *control_;
  const Cursor head =
      Cursor::Unpack(control.head.load(std::memory_order_relaxed));
  if (tail.records - head.records >= control.max_records) return kNoRegion;
  const bool large = blocks > Capacity(common_regions_ - 1);
  const uint32_t end = !large                           ? common_regions_
                       : tail.packed() == head.packed() ? regions_
                                                        : 0;
  const uint32_t in_use = RegionsInUse();
  for (uint32_t i = region + 1; i < std::min(end, regions_); ++i) {
    if ((in_use & 1u << i) == 0 && blocks <= Capacity(i)) return i;
  }
  return kNoRegion;
}

bool Ring::ConsumersAreBehind(uint32_t last, Cursor tail) const {
  return tail.packed() == control_->head.load(std::memory_order_relaxed) &&
         control_->consumers.region.load(std::memory_order_relaxed) != last;
}

void Ring::LeadConsumersTo(uint32_t last) {
  WhileNoGet(
      [&] {
        // Release: as in FindRecordSlow().
        control_->consumers.region.store(last, std::memory_order_release);
      },
      Deadline::Now());
}

bool Ring::HasRoom(uint32_t blocks) const {
  const Cursor tail =
      Cursor::Unpack(control_->tail.load(std::memory_order_relaxed));
  const uint32_t region =
      LastRegion(control_->producers.region.load(std::memory_order_relaxed));
  return region == kNoRegion ||  // Put will say what that is
         Fits(tail, UsedFrom(region), region, blocks) ||
         RegionToGrowInto(region, tail, blocks) != kNoRegion ||
         ConsumersAreBehind(region, tail);
}

void Ring::SetProducers(uint32_t region) {
  control_->producers.room_blocks = 0;
  control_->producers.region.store(region, std::memory_order_relaxed);
}

void Ring::SetRoom(uint32_t region, Cursor tail, Cursor used_from) {
  Control::Side& side = control_->producers;
  const uint32_t records = tail.records - used_from.records;
  side.room_records =
      control_->max_records - std::min(control_->max_records, records);
  // Of those regions that only one record may fill, Fits() decides each time.
  if (region >= common_regions_) return;
  const uint32_t in_region =
      Capacity(region) - (tail.blocks - used_from.blocks);
  const auto offset = static_cast<uint32_t>(Offset(region, tail));
  const uint32_t reserved =
      control_->regions[region].reserved.load(std::memory_order_relaxed);
  // All of the memory is there twice in a row, a part of it once.
  side.room_blocks =
      reserved == kAll
          ? in_region
          : std::min(in_region, reserved - std::min(reserved, offset));
}

RingResult Ring::FindPlaceSlow(Cursor tail, uint32_t blocks,
                               std::byte*& place) {
  Control& control = *control_;
  Control::Side& side = control.producers;
  // Or HasRoom() might always see room where this does not.
  if (tail.packed() != control.tail.load(std::memory_order_relaxed)) {
    return RingResult::kCorrupted;
  }
  // A producer that died may have gone on in another region than it said. That
  // is put right before any region is linked anew, or it would not be found.
  uint32_t region = LastRegion(side.region.load(std::memory_order_relaxed));
  if (region == kNoRegion) return RingResult::kCorrupted;
  Cursor used_from = UsedFrom(region);
  if (tail.blocks - used_from.blocks > Capacity(region)) {
    return RingResult::kCorrupted;
  }
  SetProducers(region);
  if (!Fits(tail, used_from, region, blocks)) {
    const uint32_t last = region;
    region = RegionToGrowInto(last, tail, blocks);
    if (region == kNoRegion && ConsumersAreBehind(last, tail)) {
      LeadConsumersTo(last);
      region = RegionToGrowInto(last, tail, blocks);
    }
    if (region == kNoRegion) return RingResult::kTimedOut;
    Region& fresh = control.regions[region];
    fresh.start.store(tail.blocks, std::memory_order_relaxed);
    fresh.next.store(kNoRegion, std::memory_order_relaxed);
    control.grown.store(1, std::memory_order_relaxed);
    if (const RingResult reserved = Reserve(region, 0, blocks);
        reserved != RingResult::kDone) {
      return reserved;
    }
    control.regions[last].end.store(tail.blocks, std::memory_order_relaxed);
    // Release: who follows finds the region as it should be. So will who takes
    // over if this process dies here: a region without a record does no harm.
    control.regions[last].next.store(region, std::memory_order_release);
    used_from.blocks = tail.blocks;
  }
  const size_t offset = Offset(region, tail);
  if (const RingResult reserved = Reserve(region, offset, blocks);
      reserved != RingResult::kDone) {
    return reserved;
  }
  std::byte* const memory = Map(region);
  if (memory == nullptr) return RingResult::kNoMemory;
  SetProducers(region);
  SetRoom(region, tail, used_from);
  place = memory + offset * kBlock;
  return RingResult::kDone;
}

RingResult Ring::Reserve(uint32_t region, size_t offset, uint32_t blocks) {
  Region& r = control_->regions[region];
  if (HasMemory(r, offset, blocks)) return RingResult::kDone;
  const uint64_t capacity = Capacity(region);
  const uint64_t reserved = r.reserved.load(std::memory_order_relaxed);
  if (reserved >= capacity) return RingResult::kCorrupted;
  r.holds_memory.store(Region::kMore, std::memory_order_relaxed);
  // A quarter more than there is, so that there are not too many pieces.
  const uint64_t wanted = std::max<uint64_t>(
      offset + blocks, reserved + reserved / 4 + kPieceBlocks);
  const uint64_t now =
      std::min(capacity, (wanted + kPieceBlocks - 1) & ~(kPieceBlocks - 1));
  Segment& segment = *mapping_->segment;
  const size_t from = reserved * kBlock;
  const size_t size = (now - reserved) * kBlock;
  if (absl::Status status =
          region == 0 ? segment.ReserveRing(from, size)
                      : segment.ReserveSpare(SpareOffset(region) + from, size);
      !status.ok()) {
    last_memory_error = std::move(status);
    return RingResult::kNoMemory;
  }
  r.reserved.store(now == capacity ? kAll : static_cast<uint32_t>(now),
                   std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  r.holds_memory.store(1, std::memory_order_relaxed);
  return RingResult::kDone;
}

size_t Ring::SpareOffset(uint32_t region) const {
  size_t offset = 0;
  for (uint32_t i = 1; i < region; ++i) offset += mapping_->sizes[i];
  return offset;
}

std::byte* Ring::Map(uint32_t region) {
  std::atomic<std::byte*>& mapped = mapping_->regions[region];
  std::byte* known = mapped.load(std::memory_order_acquire);
  if (known != nullptr) return known;
  const size_t size = mapping_->sizes[region];
  const absl::StatusOr<std::byte*> fresh =
      mapping_->segment->MapSpareRing(SpareOffset(region), size);
  if (!fresh.ok()) {
    last_memory_error = fresh.status();
    return nullptr;
  }
  // Another thread, on the other side, may have been quicker.
  if (mapped.compare_exchange_strong(known, *fresh,
                                     std::memory_order_acq_rel)) {
    return *fresh;
  }
  Segment::UnmapRing(*fresh, size);
  return known;
}

RingResult Ring::FindRecordSlow(Cursor head, const std::byte*& record,
                                uint32_t& capacity) {
  Control& control = *control_;
  uint32_t region = control.consumers.region.load(std::memory_order_relaxed);
  bool moved = false;
  for (uint32_t hops = 0; hops < kMaxRegions && region < regions_; ++hops) {
    if (!EndsAt(control.regions[region], head)) {
      std::byte* const memory = Map(region);
      if (memory == nullptr) return RingResult::kNoMemory;
      if (moved) {
        // Release: the records of the regions before have been read.
        control.consumers.region.store(region, std::memory_order_release);
        Shrink();
      }
      record = memory + Offset(region, head) * kBlock;
      capacity = Capacity(region);
      return RingResult::kDone;
    }
    region = control.regions[region].next.load(std::memory_order_relaxed);
    moved = true;
  }
  return RingResult::kCorrupted;
}

void Ring::Shrink() {
  Control& control = *control_;
  if (!control.producers.lock.TryAcquire()) return;
  const std::lock_guard hold(control.producers.lock, std::adopt_lock);
  const uint64_t tail = control.tail.load(std::memory_order_relaxed);
  uint32_t region =
      LastRegion(control.producers.region.load(std::memory_order_relaxed));
  if (region == kNoRegion) return;  // Put and Get will say so
  if (tail == control.head.load(std::memory_order_relaxed) && region != 0) {
    // First both go to the last region. Then the first one is free, and they go
    // there as if it were the next larger one. Whoever takes over after a death
    // at any of these stores finds a way over `next` that is as good.
    const Cursor end = Cursor::Unpack(tail);
    SetProducers(region);
    control.consumers.region.store(region, std::memory_order_release);
    Region& first = control.regions[0];
    first.start.store(end.blocks, std::memory_order_relaxed);
    first.next.store(kNoRegion, std::memory_order_relaxed);
    control.regions[region].end.store(end.blocks, std::memory_order_relaxed);
    control.regions[region].next.store(0, std::memory_order_release);
    SetProducers(0);
    control.consumers.region.store(0, std::memory_order_release);
    region = 0;
  }
  const uint32_t in_use = RegionsInUse();
  size_t kept = 0;
  for (uint32_t i = 1; i < regions_; ++i) {
    Region& r = control.regions[i];
    if ((in_use & 1u << i) != 0 ||
        r.holds_memory.load(std::memory_order_relaxed) == 0) {
      continue;
    }
    // Not what holds memory without saying so: its producer has died, or found
    // no more.
    const size_t bytes = ReservedBytes(i);
    if (r.holds_memory.load(std::memory_order_relaxed) != Region::kMore &&
        bytes != 0 && kept + bytes <= kKeptBytes) {
      kept += bytes;
      continue;
    }
    // Before the memory goes, and if that fails, it stays.
    r.reserved.store(0, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (mapping_->segment->DiscardSpare(SpareOffset(i), mapping_->sizes[i])
            .ok()) {
      r.holds_memory.store(0, std::memory_order_relaxed);
    }
  }
  if (region == 0 && in_use == 1) {
    control.grown.store(0, std::memory_order_relaxed);
  }
}

size_t Ring::reserved_bytes() const {
  size_t bytes = 0;
  for (uint32_t i = 0; i < regions_; ++i) bytes += ReservedBytes(i);
  return bytes;
}

size_t Ring::ReservedBytes(uint32_t region) const {
  return kBlock * std::min<size_t>(control_->regions[region].reserved.load(
                                       std::memory_order_relaxed),
                                   Capacity(region));
}

// ---- Waiting for room

class Ring::RoomWaiter {
 public:
  explicit RoomWaiter(Ring& ring) : ring_(ring), control_(*ring.control_) {}
  RoomWaiter(const RoomWaiter&) = delete;
  RoomWaiter& operator=(const RoomWaiter&) = delete;
  // Gives the claim up. And who has waited may have got the only wake-up, so it
  // passes that on if there is room left, in whichever way it leaves.
  ~RoomWaiter() {
    SetServed();
    if (waited_ && ring_.HasRoom(1)) ring_.TellOfRoom(1);
  }

  // Unless it stands back.
  bool MayPutNow(Deadline deadline) const {
    return claims_ || ring_.MayPutNow(deadline) || !StandsBack();
  }
  bool has_waited() const { return waited_; }
  // Or otherwise.
  void SetWaited() { waited_ = true; }
  // It has put something, or cannot use room now: the others' turn.
  void SetServed() {
    if (claims_) {
      Drop(Liveness::SelfThread());
      // Gets have told nobody but this one.
      if (ring_.HasRoom(1)) ring_.TellOfRoom(kAll);
    }
    claims_ = false;
    since_ = 0;
  }

  // Until there may be room for `blocks`, or the ring is closed. False after
  // the deadline, or as `watch` says.
  bool Wait(uint32_t blocks, Deadline deadline, WatchRef watch);

 private:
  bool WaitInTheCrowd(uint32_t blocks, Deadline deadline, WatchRef watch);
  // Before each sleep in the crowd.
  void Claim(uint32_t blocks);
  // While another one has a claim.
  bool StandsBack() const {
    return !ring_.mapping_->has_gotten.load(std::memory_order_relaxed) &&
           !ring_.closed();
  }
  // Takes away whoever has `claim`, if that is so still.
  void Drop(uint64_t claim) {
    if (control_.claim.compare_exchange_strong(claim, 0,
                                               std::memory_order_relaxed)) {
      FenceBeforeNotifyAfterRmw();
      control_.not_full_for_claim.NotifyAll();
    }
  }
  static Token Process(uint64_t claim) {
    return static_cast<Token>(claim >> 32) & kTokenMask;
  }

  Ring& ring_;
  Control& control_;
  bool waited_ = false;
  bool claims_ = false;   // or did, and another one has found that too slow
  int64_t since_ = 0;     // when it began to wait, in nanoseconds
  int64_t patience_ = 1;  // in times of what it takes to claim
  static constexpr int64_t kMostPatience = 1000;
  // The claim that was there, how much had been gotten, and since when.
  uint64_t seen_claim_ = 0;
  uint32_t seen_gotten_ = 0;
  int64_t same_since_ = 0;
};

bool Ring::RoomWaiter::Wait(uint32_t blocks, Deadline deadline,
                            WatchRef watch) {
  waited_ = true;
  if (!claims_ && WaitInTheCrowd(blocks, deadline, watch)) return true;
  if (!claims_) return false;
  const uint64_t self = Liveness::SelfThread();
  const auto is_mine = [this, self] {
    return control_.claim.load(std::memory_order_relaxed) == self;
  };
  const auto ready = [&] {
    return ring_.HasRoom(blocks) || ring_.closed() || !is_mine();
  };
  const bool done = control_.not_full_for_claim.Sleep(ready, deadline, watch);
  if (!is_mine()) {
    // Others could not wait for it; the next time they need not so soon.
    claims_ = false;
    since_ = 0;
    patience_ = std::min(8 * patience_, kMostPatience);
  }
  return done;
}

bool Ring::RoomWaiter::WaitInTheCrowd(uint32_t blocks, Deadline deadline,
                                      WatchRef watch) {
  if (since_ == 0) since_ = MonotonicNanos();
  const auto claim = [this] {
    return control_.claim.load(std::memory_order_relaxed);
  };
  const auto ready = [&] {
    return (ring_.HasRoom(blocks) && (claim() == 0 || !StandsBack())) ||
           ring_.closed();
  };
  const auto claim_or_watch = [&](WatchList& list) {
    Claim(blocks);
    if (claims_) return false;  // goes on elsewhere
    list.Add(Process(claim()));
    return watch(list);
  };
  // Nothing is worth a spin before another one is served.
  return claim() != 0 && deadline != Deadline::Now()
             ? control_.not_full.Sleep(ready, deadline, claim_or_watch)
             : control_.not_full.Wait(control_.producers.spin, ready, deadline,
                                      claim_or_watch);
}

void Ring::RoomWaiter::Claim(uint32_t blocks) {
  const int64_t now = MonotonicNanos();
  const int64_t after = claim_after_nanos_.load(std::memory_order_relaxed);
  uint64_t claim = control_.claim.load(std::memory_order_relaxed);
  if (claim != 0) {
    if (const uint32_t gotten = ring_.gotten();
        claim != seen_claim_ || gotten != seen_gotten_) {
      seen_claim_ = claim;
      seen_gotten_ = gotten;
      same_since_ = now;
    }
    const bool lapses =
        now - same_since_ >= (ring_.HasRecord() ? kClaimLapsesNanos : after) &&
        ring_.HasRoom(blocks);
    if (!lapses && !Liveness::IsDead(Process(claim))) return;
    Drop(claim);
    claim = 0;
    // And takes its place, for it has not looked for room since.
  } else if ((now - since_) / patience_ < after) {
    return;
  }
  // Relaxed: nothing is guarded. The fence in the gate is between this and the
  // next look for room, as another one is between a get and its look here.
  claims_ = control_.claim.compare_exchange_strong(
      claim, Liveness::SelfThread(), std::memory_order_relaxed);
}

// ---- Many at a time, and all that waits

RingResult Ring::PutMany(
    size_t count, absl::FunctionRef<size_t(size_t)> size,
    absl::FunctionRef<FillResult(size_t, std::byte*, uint32_t)> fill,
    size_t& done, Deadline deadline, WatchRef watch) {
  Control& control = *control_;
  Control::Side& side = control.producers;
  RoomWaiter waiter(*this);
  for (done = 0;;) {
    const size_t before = done;
    bool beside = false;
    bool more = false;
    if (ABSL_PREDICT_TRUE(waiter.MayPutNow(deadline))) {
      // Once the lock is released, also if `fill` throws.
      const absl::Cleanup tell = [&control, before, &done] {
        if (ABSL_PREDICT_FALSE(done == before)) return;
        FenceBeforeNotifyAfterRmw();
        control.not_empty.Notify();
      };
      // Who takes over from a dead producer finds the tail where it was.
      if (!AcquireProducers(deadline)) return RingResult::kTimedOut;
      const std::lock_guard hold(side.lock, std::adopt_lock);
      if (control.closed.load(std::memory_order_relaxed) != 0) {
        return RingResult::kClosed;
      }
      for (size_t records = 0, bytes = 0;; ++records) {
        if (ABSL_PREDICT_FALSE(records == kBatchRecords ||
                               bytes >= kBatchBytes)) {
          more = true;
          break;
        }
        const size_t next = size(done);
        const RingResult result = PutLocked(
            next,
            [&fill, &done](std::byte* to, uint32_t number) {
              return fill(done, to, number);
            },
            beside);
        if (ABSL_PREDICT_FALSE(result == RingResult::kTimedOut)) break;
        if (ABSL_PREDICT_FALSE(result != RingResult::kDone)) return result;
        if (++done == count) return RingResult::kDone;
        bytes += next;
      }
    }
    if (done > before) waiter.SetServed();
    if (more) continue;
    if (beside) {
      waiter.SetServed();
      waiter.SetWaited();
      if (!AwaitRoomBeside(deadline, watch)) return RingResult::kTimedOut;
      continue;
    }
    // HasRoom() is a hint, and may be wrong for as long as a consumer is
    // stopped inside a get.
    if (waiter.has_waited() && deadline.Expired()) return RingResult::kTimedOut;
    const size_t next = size(done);
    if (next > max_record_size()) return RingResult::kTooLarge;
    if (!waiter.Wait(BlocksFor(next), deadline, watch)) {
      return RingResult::kTimedOut;
    }
  }
}

RingResult Ring::GetMany(
    size_t max,
    absl::FunctionRef<bool(std::span<const std::byte>, uint32_t)> use,
    size_t& done, Deadline deadline, WatchRef watch,
    absl::FunctionRef<void()> removed) {
  Control& control = *control_;
  Control::Side& side = control.consumers;
  bool waited = false;
  const absl::Cleanup pass_on = [this, &waited] {  // as RoomWaiter
    if (waited && HasRecord()) control_->not_empty.Notify();
  };
  for (done = 0;;) {
    {
      const absl::Cleanup tell = [this, &done] {  // as in PutMany
        if (ABSL_PREDICT_TRUE(done != 0)) TellOfRoom(done);
      };
      if (!AcquireConsumers(deadline)) return RingResult::kTimedOut;
      const std::lock_guard hold(side.lock, std::adopt_lock);
      if (max != 1) {  // Acquire: pairs with the release in PutLocked.
        side.seen_tail = control.tail.load(std::memory_order_acquire);
      }
      for (;;) {
        const RingResult result = GetLocked(use, removed);
        if (ABSL_PREDICT_FALSE(result != RingResult::kDone)) {
          if (done != 0) return RingResult::kDone;
          if (result != RingResult::kTimedOut) return result;
          break;
        }
        if (++done == max || done == kBatchRecords ||
            control.head.load(std::memory_order_relaxed) == side.seen_tail) {
          return RingResult::kDone;
        }
      }
    }
    waited = true;
    const auto ready = [this] { return HasRecord() || closed(); };
    if (!control.not_empty.Wait(side.spin, ready, deadline, watch)) {
      return RingResult::kTimedOut;
    }
  }
}

bool Ring::AwaitRoomBeside(Deadline deadline, WatchRef watch) {
  const uint32_t before = gotten();
  const auto changed = [this, before] {
    return gotten() != before || closed();
  };
  if (control_->not_full.Wait(control_->producers.spin, changed,
                              deadline.Sooner(kRoomPatienceNanos), watch)) {
    return true;
  }
  WatchList watched;
  return !deadline.Expired() && watch(watched);
}

// ---- The rest

void Ring::Close() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  Control& control = *control_;
  {
    AcquireProducers(Deadline::Infinite());
    const std::lock_guard hold(control.producers.lock, std::adopt_lock);
    // Release: who sees the ring closed sees what was put before.
    control.closed.store(1, std::memory_order_release);
  }
  FenceBeforeNotify();
  control.not_empty.NotifyAll();
  control.not_full.NotifyAll();
  control.not_full_for_claim.NotifyAll();
}

WaitSource Ring::wait_source() const {
  static constexpr WaitSource::Kind kKind = {
      .check = nullptr,
      .ready =
          [](void* object, uint32_t) {
            const Control& control = *static_cast<const Control*>(object);
            return control.tail.load(std::memory_order_relaxed) !=
                       control.head.load(std::memory_order_relaxed) ||
                   control.closed.load(std::memory_order_acquire) != 0;
          },
      .gate = [](void* object) -> WaitSource::Gate& {
        return static_cast<Control*>(object)->not_empty;
      },
      .descriptor = nullptr};
  return {control_, &kKind};
}

uint32_t Ring::size() const {
  // The tail belongs to the head if the head did not move meanwhile.
  uint64_t head = control_->head.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t tail = control_->tail.load(std::memory_order_acquire);
    const uint64_t again = control_->head.load(std::memory_order_acquire);
    if (again == head) {
      return Cursor::Unpack(tail).records - Cursor::Unpack(head).records;
    }
    head = again;
  }
}

uint32_t Ring::gotten() const {
  return Cursor::Unpack(control_->head.load(std::memory_order_acquire)).records;
}

uint32_t Ring::max_records() const {
  return control_->max_records == kNoLimit ? 0 : control_->max_records;
}

}  // namespace mp::ipc_internal
