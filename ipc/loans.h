// Loans: blocks of shared memory, each of which one process at a time has for
// itself. Internal to mp::ZeroCopyQueue.
//
// A block is free, or the property of a process, which its owner word names, or
// on the way: then a record of a ring names it, and the owner word still says
// who sent it. Everything moves by one store or one compare-and-swap:
//
//   take       free -> taker, by compare-and-swap
//   send       the record becomes visible
//   receive    the owner word names the receiver, then the record goes, both
//              under the ring's lock of consumers
//   give back  owner -> free, by compare-and-swap
//
// So a block with a dead owner is on the way if a record names it, and else of
// no use to anybody. Who finds no free block collects those.

#ifndef MP_IPC_LOANS_H_
#define MP_IPC_LOANS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/deadline.h"
#include "mp/shm/adaptive_spin.h"
#include "mp/shm/gate.h"
#include "mp/shm/handle.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"
#include "mp/shm/segment.h"

namespace mp::ipc_internal {

// A handle; copies mean the same blocks.
class Loans {
 public:
  static constexpr uint32_t kMaxBlocks = 4096;
  // Of one block.
  static constexpr size_t kMaxBytes = size_t{4} << 30;
  // Memory that free blocks keep, and two of them in any case. What exceeds it
  // is given back.
  static constexpr size_t kIdleBytes = size_t{64} << 20;

  static absl::StatusOr<Loans> Create(uint32_t blocks);

  // False for what is left of a handle that did not arrive, or arrived with a
  // segment that holds no loans.
  bool valid() const { return control_ != nullptr; }

  uint32_t blocks() const { return blocks_; }
  // The most bytes that a block can have.
  size_t max_bytes() const { return range_; }

  // Sets the bit of each block that is on the way, while none can be sent or
  // received.
  enum class Marked {
    kAll,
    kBusy,       // that was not possible now
    kCorrupted,  // nor will it be
  };
  using MarkOnTheWay = absl::FunctionRef<Marked(std::vector<bool>&)>;

  // Takes a block with memory for that many bytes, at most max_bytes(): waits
  // until one is free, or `give_up()`, after whose change somebody calls
  // WakeAll(). Errors: DeadlineExceeded; Cancelled after `give_up()`; DataLoss
  // as `mark` says; ResourceExhausted naming the system call.
  absl::StatusOr<uint32_t> Take(size_t bytes, Deadline deadline,
                                absl::FunctionRef<bool()> give_up,
                                MarkOnTheWay mark);
  void WakeAll();

  // For the receiver, under the ring's lock, before the record goes.
  void Receive(uint32_t block) {
    At(block).owner.store(Liveness::Self(), std::memory_order_relaxed);
  }

  // Where a block is in this process, which has it or is about to receive it.
  // Errors: DataLoss if there is no such block, or it has less memory;
  // ResourceExhausted naming the system call.
  absl::StatusOr<std::byte*> Map(uint32_t block, size_t bytes);

  // Gives a block back. Does nothing if this process does not have it.
  void GiveBack(uint32_t block);

  // Blocks that somebody has or that are on the way; dead owners count.
  uint32_t taken() const;
  // Memory of all blocks.
  size_t reserved_bytes() const;

  friend bool operator==(const Loans& a, const Loans& b) {
    return a.control_ == b.control_;
  }

 private:
  // In cache lines of their own: neighbours belong to different processes.
  struct alignas(64) Block {
    std::atomic<Token> owner{kNoToken};
    // Bytes with memory. Only its owner changes that.
    std::atomic<uint64_t> reserved{0};
  };
  struct alignas(64) Control {
    uint32_t count = 0;
    // About the memory of free blocks of kCounted bytes or more. Deaths make it
    // wrong; it is counted anew when blocks of the dead are collected, which
    // may be wrong by what others do meanwhile. Hence signed.
    std::atomic<int64_t> idle{0};
    BasicGate<KernelPlatform> freed;
    AdaptiveSpin<KernelPlatform, kSpinForPartner> spin;
  };  // and then the blocks
  static constexpr size_t kCounted = size_t{64} << 10;

  static constexpr uint64_t kLayout =
      LayoutFingerprint("loans", 1, sizeof(Block));

  // What a process has of the blocks. An entry belongs to who has the block.
  struct Mapping {
    struct Entry {
      std::byte* base = nullptr;
      size_t size = 0;
    };
    std::shared_ptr<Segment> segment;
    std::vector<Entry> blocks;
    ~Mapping();
  };

  friend struct mp::HandleAccess;
  explicit Loans(SegmentPart<kLayout> part);
  auto parts() const {
    return std::tuple(SegmentPart<kLayout>{
        mapping_ == nullptr ? nullptr : mapping_->segment});
  }

  Block& At(uint32_t block) const {
    return reinterpret_cast<Block*>(control_.get() + 1)[block];
  }
  // What counts as idle of a free block.
  int64_t Counted(const Block& block) const;
  // Tries to make the block this process's.
  bool TryTake(uint32_t block);
  // A free block that has become this process's, with that much memory, or with
  // whatever it has; blocks_ if there is none.
  uint32_t TakeFree(size_t bytes);
  uint32_t TakeAnyFree();
  // More memory for a block of this process.
  absl::Status Reserve(uint32_t block, size_t bytes);
  // Frees what the dead have left. Whether that was anything. `settled` says
  // for each block who is known to be dead and has it on the way.
  absl::StatusOr<bool> Collect(MarkOnTheWay mark, std::vector<Token>& settled);
  // For who waits: lists the owners; false if one is dead that is not settled.
  bool WatchOwners(WatchList& list, const std::vector<Token>& settled) const;
  size_t Offset(uint32_t block) const { return size_t{block} * range_; }

  std::shared_ptr<Control> control_;  // keeps the mapping
  Mapping* mapping_ = nullptr;
  // Here and not in shared memory, where they could be overwritten.
  uint32_t blocks_ = 0;
  size_t range_ = 0;  // of addresses in the segment, for each block
};

// One block, as its owner has it. Movable; gives the block back in the end.
class Loan {
 public:
  Loan() = default;
  // Of a block that this process has taken or received.
  Loan(Loans loans, uint32_t block, std::byte* data, size_t size)
      : loans_(std::move(loans)),
        owner_(Liveness::Self()),
        block_(block),
        data_(data),
        size_(size) {}
  Loan(Loan&& other) noexcept { Swap(other); }
  Loan& operator=(Loan&& other) noexcept {
    Loan(std::move(other)).Swap(*this);
    return *this;
  }
  ~Loan() {
    if (data_ != nullptr && IsOwn()) loans_->GiveBack(block_);
  }

  bool empty() const { return data_ == nullptr; }
  uint32_t block() const { return block_; }
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  void Shrink(size_t size) { size_ = size; }
  // False in a process that has inherited it, which may have the block by now
  // in its own right.
  bool IsOwn() const { return owner_ == Liveness::Self(); }
  // The block has been sent.
  void Forget() { data_ = nullptr; }

 private:
  void Swap(Loan& other) noexcept {
    std::swap(loans_, other.loans_);
    std::swap(owner_, other.owner_);
    std::swap(block_, other.block_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  std::optional<Loans> loans_;
  Token owner_ = kNoToken;
  uint32_t block_ = 0;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace mp::ipc_internal

#endif  // MP_IPC_LOANS_H_
