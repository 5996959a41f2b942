#include "mp/ipc/loans.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "absl/strings/str_cat.h"
#include "mp/base/check.h"
#include "mp/base/file_size_limit.h"

namespace mp::ipc_internal {
namespace {

size_t WholePages(size_t bytes) {
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

absl::StatusOr<Loans> Loans::Create(uint32_t blocks) {
  MP_CHECK(blocks > 0 && blocks <= kMaxBlocks);
  if (absl::Status status = Liveness::Join(); !status.ok()) return status;
  // A larger file would be the end of a process with such a limit; half of it
  // is more than enough for the rest.
  const size_t range = std::min(
      kMaxBytes, (FileSizeLimit() / 2 / blocks) & ~(WholePages(1) - 1));
  if (range == 0) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the limit on the size of files (ulimit -f) of ", FileSizeLimit(),
        " bytes leaves no room for ", blocks, " loans"));
  }
  const size_t size = sizeof(Control) + blocks * sizeof(Block);
  absl::StatusOr<std::shared_ptr<Segment>> segment =
      Segment::Create({.name = "loans",
                       .layout = kLayout,
                       .size = size,
                       .spare_size = blocks * range});
  if (!segment.ok()) return segment.status();
  auto* const control = new ((*segment)->data()) Control;
  control->count = blocks;  // which begin as zeros
  return Loans({*std::move(segment)});
}

Loans::Loans(SegmentPart<kLayout> part) {
  if (part.segment == nullptr) return;
  Segment& segment = *part.segment;
  auto* const control = reinterpret_cast<Control*>(segment.data());
  if (segment.size() < sizeof(Control)) return;
  const uint32_t blocks = control->count;
  if (blocks == 0 || blocks > kMaxBlocks ||
      blocks > (segment.size() - sizeof(Control)) / sizeof(Block)) {
    return;
  }
  const size_t range = segment.spare_size() / blocks;
  if (range == 0 || range > kMaxBytes || range != WholePages(range) ||
      segment.spare_size() != range * blocks) {
    return;
  }
  blocks_ = blocks;
  range_ = range;
  const auto mapping = std::make_shared<Mapping>();
  mapping->segment = std::move(part.segment);
  mapping->blocks.resize(blocks_);
  mapping_ = mapping.get();
  control_ = std::shared_ptr<Control>(mapping, control);
}

Loans::Mapping::~Mapping() {
  for (const Entry& entry : blocks) {
    if (entry.base != nullptr) Segment::Unmap(entry.base, entry.size);
  }
}

int64_t Loans::Counted(const Block& block) const {
  const uint64_t reserved = std::min<uint64_t>(
      block.reserved.load(std::memory_order_relaxed), range_);
  return reserved < kCounted ? 0 : static_cast<int64_t>(reserved);
}

bool Loans::TryTake(uint32_t block) {
  Block& b = At(block);
  Token nobody = kNoToken;
  // Acquire: pairs with the release in GiveBack(). What the last owner did with
  // the memory, also in this process, has happened.
  if (b.owner.load(std::memory_order_relaxed) != kNoToken ||
      !b.owner.compare_exchange_strong(nobody, Liveness::Self(),
                                       std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
    return false;
  }
  if (const int64_t counted = Counted(b); counted != 0) {
    control_->idle.fetch_sub(counted, std::memory_order_relaxed);
  }
  return true;
}

uint32_t Loans::TakeFree(size_t bytes) {
  // From the first one on, so that those in use are few and stay in the caches.
  for (uint32_t i = 0; i < blocks_; ++i) {
    if (At(i).reserved.load(std::memory_order_relaxed) < bytes || !TryTake(i)) {
      continue;
    }
    // Its last owner may have taken the memory away meanwhile.
    if (At(i).reserved.load(std::memory_order_relaxed) >= bytes) {
      return i;
    }
    GiveBack(i);
  }
  return blocks_;
}

uint32_t Loans::TakeAnyFree() {
  for (uint32_t i = 0; i < blocks_; ++i) {
    if (TryTake(i)) return i;
  }
  return blocks_;
}

absl::StatusOr<uint32_t> Loans::Take(size_t bytes, Deadline deadline,
                                     absl::FunctionRef<bool()> give_up,
                                     MarkOnTheWay mark) {
  MP_CHECK(bytes <= range_);
  Control& control = *control_;
  bool waited = false;
  uint32_t block = blocks_;
  std::vector<Token> settled;
  for (;;) {
    if (give_up()) return absl::CancelledError("no more loans");
    block = TakeFree(bytes);
    if (block < blocks_) break;
    // The dead have no need of their memory, so it comes before new one.
    const absl::StatusOr<bool> collected = Collect(mark, settled);
    if (!collected.ok()) return collected.status();
    if (*collected) continue;
    block = TakeAnyFree();
    if (block < blocks_ || (waited && deadline.Expired())) break;
    waited = true;
    control.freed.Wait(
        control.spin,
        [this, give_up] { return taken() < blocks_ || give_up(); }, deadline,
        [this, &settled](WatchList& list) {
          return WatchOwners(list, settled);
        });
  }
  // Who has waited may have got the only wake-up.
  if (waited && taken() < blocks_) control.freed.Notify();
  if (block == blocks_) {
    return absl::DeadlineExceededError(absl::StrCat(
        "all ", blocks_, " loans are out: being written, queued or read"));
  }
  if (absl::Status status = Reserve(block, bytes); !status.ok()) {
    GiveBack(block);
    return status;
  }
  return block;
}

void Loans::WakeAll() {
  FenceBeforeNotify();
  control_->freed.NotifyAll();
}

absl::Status Loans::Reserve(uint32_t block, size_t bytes) {
  Block& b = At(block);
  const uint64_t before = b.reserved.load(std::memory_order_relaxed);
  const size_t wanted = WholePages(bytes);
  if (before >= wanted) return absl::OkStatus();
  if (absl::Status status = mapping_->segment->ReserveSpare(
          Offset(block) + before, wanted - before);
      !status.ok()) {
    // It may have got a part.
    mapping_->segment->DiscardSpare(Offset(block) + before, wanted - before)
        .IgnoreError();
    return status;
  }
  b.reserved.store(wanted, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::StatusOr<std::byte*> Loans::Map(uint32_t block, size_t bytes) {
  if (block >= blocks_) {
    return absl::DataLossError(absl::StrCat("loan ", block, " of ", blocks_));
  }
  const uint64_t reserved = At(block).reserved.load(std::memory_order_relaxed);
  if (bytes > reserved || reserved > range_) {
    return absl::DataLossError(
        absl::StrCat("a loan of ", bytes, " bytes has ", reserved));
  }
  Mapping::Entry& entry = mapping_->blocks[block];
  if (entry.base == nullptr || entry.size < bytes) {
    // A block without any memory needs an address nevertheless.
    const size_t size = std::max<size_t>(reserved, WholePages(1));
    absl::StatusOr<std::byte*> base =
        mapping_->segment->MapSpare(Offset(block), size);
    if (!base.ok()) return base.status();
    // In this order: a child that is forked in between uses what it finds.
    const Mapping::Entry old = entry;
    entry.base = *base;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    entry.size = size;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (old.base != nullptr) Segment::Unmap(old.base, old.size);
  }
  return entry.base;
}

void Loans::GiveBack(uint32_t block) {
  Control& control = *control_;
  Block& b = At(block);
  Token self = Liveness::Self();
  if (b.owner.load(std::memory_order_relaxed) != self) return;
  if (const int64_t counted = Counted(b);
      counted != 0 &&
      control.idle.fetch_add(counted, std::memory_order_relaxed) + counted >
          std::max<int64_t>(kIdleBytes, 2 * counted)) {
    control.idle.fetch_sub(counted, std::memory_order_relaxed);
    // In this order: nobody is to rely on memory that is about to go. If it
    // does not go, it is there, unused, until the block grows again.
    b.reserved.store(0, std::memory_order_relaxed);
    mapping_->segment->DiscardSpare(Offset(block), range_).IgnoreError();
  }
  // Release: pairs with the acquire in TryTake().
  if (b.owner.compare_exchange_strong(self, kNoToken, std::memory_order_release,
                                      std::memory_order_relaxed)) {
    FenceBeforeNotifyAfterRmw();
    control.freed.Notify();
  }
}

absl::StatusOr<bool> Loans::Collect(MarkOnTheWay mark,
                                    std::vector<Token>& settled) {
  // Before the marking: whose block is not on the way then, although it was its
  // owner's before and still is, has died with it. Nobody can take or receive
  // such a block, so it does not matter how long ago that was.
  settled.assign(blocks_, kNoToken);
  bool dead = false;
  for (uint32_t i = 0; i < blocks_; ++i) {
    const Token owner = At(i).owner.load(std::memory_order_relaxed);
    if (owner == kNoToken || !Liveness::IsDead(owner)) continue;
    settled[i] = owner;
    dead = true;
  }
  if (!dead) return false;
  std::vector<bool> on_the_way(blocks_, false);
  const Marked marked = mark(on_the_way);
  if (marked == Marked::kCorrupted) {
    return absl::DataLossError("what is on the way cannot be told");
  }
  if (marked == Marked::kBusy) {
    settled.assign(blocks_, kNoToken);
    return false;
  }
  bool freed = false;
  for (uint32_t i = 0; i < blocks_; ++i) {
    if (settled[i] == kNoToken || on_the_way[i]) continue;
    Block& block = At(i);
    // Through this process, so that it is given back like any other. Acquire:
    // IsDead() has made visible what the dead one stored last.
    if (block.owner.compare_exchange_strong(settled[i], Liveness::Self(),
                                            std::memory_order_acquire,
                                            std::memory_order_relaxed)) {
      // What it may have reserved and not said, or not have given back.
      const size_t reserved = WholePages(std::min<uint64_t>(
          block.reserved.load(std::memory_order_relaxed), range_));
      mapping_->segment->DiscardSpare(Offset(i) + reserved, range_ - reserved)
          .IgnoreError();
      GiveBack(i);
      freed = true;
    }
    settled[i] = kNoToken;
  }
  int64_t idle = 0;
  for (uint32_t i = 0; i < blocks_; ++i) {
    const Block& block = At(i);
    if (block.owner.load(std::memory_order_relaxed) == kNoToken) {
      idle += Counted(block);
    }
  }
  control_->idle.store(idle, std::memory_order_relaxed);
  return freed;
}

bool Loans::WatchOwners(WatchList& list,
                        const std::vector<Token>& settled) const {
  for (uint32_t i = 0; i < blocks_; ++i) {
    const Token owner = At(i).owner.load(std::memory_order_relaxed);
    if (owner == kNoToken || owner == settled[i]) continue;
    const auto known = list.tokens();
    if (std::find(known.begin(), known.end(), owner) != known.end()) continue;
    if (Liveness::IsDead(owner)) return false;
    list.Add(owner);
  }
  return true;
}

uint32_t Loans::taken() const {
  uint32_t count = 0;
  for (uint32_t i = 0; i < blocks_; ++i) {
    count += At(i).owner.load(std::memory_order_relaxed) != kNoToken;
  }
  return count;
}

size_t Loans::reserved_bytes() const {
  size_t bytes = 0;
  for (uint32_t i = 0; i < blocks_; ++i) {
    bytes += At(i).reserved.load(std::memory_order_relaxed);
  }
  return bytes;
}

}  // namespace mp::ipc_internal
