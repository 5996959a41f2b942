#include "mp/ipc/zero_copy_queue.h"

#include "absl/strings/str_cat.h"

namespace mp::ipc_internal {
namespace {

// What the ring holds.
struct Item {
  uint32_t block;
  uint32_t unused;
  uint64_t bytes;
};

bool Read(std::span<const std::byte> record, Item& item) {
  if (record.size() != sizeof(item)) return false;
  memcpy(&item, record.data(), sizeof(item));
  return true;
}

absl::Status Closed(absl::string_view call) {
  return absl::FailedPreconditionError(
      absl::StrCat(call, " on a closed queue"));
}

}  // namespace

absl::StatusOr<LoanQueue> LoanQueue::Create(
    const ZeroCopyQueueOptions& options) {
  if (options.loans == 0 || options.loans > Loans::kMaxBlocks) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.loans, " loans: must be from 1 to ", Loans::kMaxBlocks));
  }
  absl::StatusOr<Ring> ring =
      Ring::Create({.name = "queue",
                    .capacity_bytes = options.loans * RecordSize(sizeof(Item)),
                    .max_records = options.maxsize <= options.loans
                                       ? static_cast<uint32_t>(options.maxsize)
                                       : 0});
  if (!ring.ok()) return ring.status();
  absl::StatusOr<Loans> loans =
      Loans::Create(static_cast<uint32_t>(options.loans));
  if (!loans.ok()) return loans.status();
  return LoanQueue(*std::move(ring), *std::move(loans));
}

absl::StatusOr<Loan> LoanQueue::Reserve(size_t bytes, Deadline deadline) {
  if (bytes > loans_.max_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "an item of ", bytes, " bytes: at most ", loans_.max_bytes()));
  }
  const absl::StatusOr<uint32_t> block = loans_.Take(
      bytes, deadline, [this] { return ring_.closed(); },
      [this](std::vector<bool>& on_the_way) {
        const RingResult result = ring_.ForEachRecord(
            [&on_the_way](std::span<const std::byte> record) {
              Item item;
              if (Read(record, item) && item.block < on_the_way.size()) {
                on_the_way[item.block] = true;
              }
            },
            Deadline::Now());
        return result == RingResult::kDone       ? Loans::Marked::kAll
               : result == RingResult::kTimedOut ? Loans::Marked::kBusy
                                                 : Loans::Marked::kCorrupted;
      });
  if (!block.ok()) {
    return absl::IsCancelled(block.status()) ? Closed("Reserve")
                                             : block.status();
  }
  const absl::StatusOr<std::byte*> data = loans_.Map(*block, bytes);
  if (!data.ok()) {
    loans_.GiveBack(*block);
    return data.status();
  }
  return Loan(loans_, *block, *data, bytes);
}

absl::Status LoanQueue::Commit(Loan& loan, Deadline deadline) {
  if (loan.empty()) {
    return absl::FailedPreconditionError(
        "Commit of what has been committed or moved away");
  }
  if (!loan.IsOwn()) {
    return absl::FailedPreconditionError(
        "Commit by another process than the one that made the reservation");
  }
  const Item item = {.block = loan.block(), .unused = 0, .bytes = loan.size()};
  const RingResult result = ring_.Put(
      sizeof(item),
      [&item](std::byte* to, uint32_t) {
        memcpy(to, &item, sizeof(item));
        return true;
      },
      deadline);
  switch (result) {
    case RingResult::kDone:
      loan.Forget();
      return absl::OkStatus();
    case RingResult::kTimedOut:
      return absl::DeadlineExceededError("the queue stayed full");
    case RingResult::kClosed:
      return Closed("Commit");
    default:
      return Ring::ErrorOf(result, "queue");
  }
}

absl::StatusOr<Loan> LoanQueue::Borrow(Deadline deadline) {
  absl::StatusOr<std::byte*> data;
  Item item = {};
  const RingResult result = ring_.Get(
      [&](std::span<const std::byte> record, uint32_t) {
        if (!Read(record, item)) {
          data = absl::DataLossError("a record that is no item");
          return true;
        }
        data = loans_.Map(item.block, item.bytes);
        // What is broken goes; what has no room in this process stays.
        if (!data.ok()) return absl::IsDataLoss(data.status());
        loans_.Receive(item.block);
        return true;
      },
      deadline);
  switch (result) {
    case RingResult::kDone:
    case RingResult::kAborted:
      if (!data.ok()) return data.status();
      return Loan(loans_, item.block, *data, item.bytes);
    case RingResult::kTimedOut:
      return absl::DeadlineExceededError("the queue stayed empty");
    case RingResult::kClosed:
      return absl::OutOfRangeError("the queue is closed and empty");
    default:
      return Ring::ErrorOf(result, "queue");
  }
}

void LoanQueue::Close() {
  ring_.Close();
  loans_.WakeAll();
}

}  // namespace mp::ipc_internal
