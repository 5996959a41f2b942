#include "mp/ipc/task_accounts.h"

#include "absl/strings/str_cat.h"
#include "mp/shm/slab.h"

namespace mp::ipc_internal {

absl::StatusOr<TaskAccounts> TaskAccounts::Create() {
  absl::StatusOr<std::shared_ptr<State>> state = MakeShared<State>();
  if (!state.ok()) return state.status();
  return TaskAccounts(*std::move(state));
}

TaskAccounts::TaskAccounts(std::shared_ptr<State> state)
    : state_(std::move(state)),
      reported_(std::make_shared<std::atomic<uint64_t>>(
          state_ == nullptr ? 0
                            : state_->lost.load(std::memory_order_relaxed))) {}

size_t TaskAccounts::Own() const {
  const Token self = Liveness::Self();
  for (size_t i = 0; i < used(); ++i) {
    if (state_->accounts[i].owner.load(std::memory_order_relaxed) == self) {
      return i;
    }
  }
  return kMaxAccounts;
}

size_t TaskAccounts::NewAccount() {
  size_t i = 0;
  while (i < used() &&
         state_->accounts[i].word.load(std::memory_order_relaxed) >= kOne) {
    ++i;
  }
  if (i == kMaxAccounts) return i;
  state_->accounts[i].owner.store(Liveness::Self(), std::memory_order_relaxed);
  if (i == used()) state_->used.store(i + 1, std::memory_order_relaxed);
  return i;
}

absl::Status TaskAccounts::BeginTake(uint32_t number) {
  Resolve(number);
  size_t account = Own();
  if (account == kMaxAccounts) account = NewAccount();
  if (account == kMaxAccounts) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kMaxAccounts, " processes have unfinished items"));
  }
  std::atomic<uint64_t>& word = state_->accounts[account].word;
  const uint64_t before = word.load(std::memory_order_relaxed);
  // Not this record, though its number may have been used 2^32 records ago.
  word.store((before & ~(kOne - 1)) | (number - 1), std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  state_->intent.store(uint64_t{account + 1} << 32 | number,
                       std::memory_order_relaxed);
  return absl::OkStatus();
}

void TaskAccounts::EndTake() {
  const uint64_t intent = state_->intent.load(std::memory_order_relaxed);
  Resolve(static_cast<uint32_t>(intent) + 1);
}

void TaskAccounts::Resolve(uint32_t gotten) {
  const uint64_t intent = state_->intent.load(std::memory_order_relaxed);
  if (intent == 0) return;
  const auto number = static_cast<uint32_t>(intent);
  const uint64_t account = (intent >> 32) - 1;
  if (number != gotten && account < kMaxAccounts) {
    std::atomic<uint64_t>& word = state_->accounts[account].word;
    const uint64_t before = word.load(std::memory_order_relaxed);
    if (static_cast<uint32_t>(before) != number) {
      word.store(((before & ~(kOne - 1)) + kOne) | number,
                 std::memory_order_relaxed);
    }
  }
  // Others see these stores through the lock, in whatever order. Of a process
  // that dies in between, they see those before its death.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  state_->intent.store(0, std::memory_order_relaxed);
}

absl::Status TaskAccounts::Done(Ring& ring) {
  bool done = false;
  bool last = false;
  ring.WhileNoGet(
      [&] {
        const size_t account = Own();
        if (account == kMaxAccounts) return;
        std::atomic<uint64_t>& count = state_->accounts[account].word;
        const uint64_t word = count.load(std::memory_order_relaxed);
        if (word < kOne) return;
        count.store(word - kOne, std::memory_order_relaxed);
        done = true;
        last = word - kOne < kOne;
      },
      Deadline::Infinite());
  if (!done) {
    return absl::FailedPreconditionError(
        "TaskDone called more often than this process has gotten items");
  }
  if (last) {
    FenceBeforeNotify();
    state_->done.NotifyAll();
  }
  return absl::OkStatus();
}

uint64_t TaskAccounts::Settle(uint32_t gotten) {
  Resolve(gotten);
  uint64_t unfinished = 0;
  for (size_t i = 0; i < used(); ++i) {
    Account& account = state_->accounts[i];
    const uint64_t count = account.word.load(std::memory_order_relaxed) / kOne;
    if (count == 0) continue;
    const uint64_t owner = account.owner.load(std::memory_order_relaxed);
    if (!Liveness::IsDead(static_cast<Token>(owner))) {
      unfinished += count;
      continue;
    }
    // In this order: if this process dies in between, they are written off
    // twice, but not forgotten.
    state_->lost.fetch_add(count, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    account.word.store(0, std::memory_order_relaxed);
  }
  return unfinished;
}

absl::Status TaskAccounts::Join(Ring& ring, Deadline deadline) {
  const auto finished = [&] {
    bool result = false;
    ring.WhileNoGet(
        [&] { result = Settle(ring.gotten()) == 0 && !ring.HasRecord(); },
        Deadline::Now());
    return result;
  };
  const auto watch = [this](WatchList& list) {
    for (size_t i = 0; i < used(); ++i) {
      const Account& account = state_->accounts[i];
      if (account.word.load(std::memory_order_relaxed) >= kOne) {
        list.Add(
            static_cast<Token>(account.owner.load(std::memory_order_relaxed)));
      }
    }
    return true;
  };
  if (!finished() && (deadline == Deadline::Now() ||
                      !state_->done.Sleep(finished, deadline, watch))) {
    return absl::DeadlineExceededError("items stayed unfinished");
  }
  const uint64_t lost = state_->lost.load(std::memory_order_relaxed);
  const uint64_t known = reported_->exchange(lost, std::memory_order_relaxed);
  if (lost == known) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat(lost - known,
                   " items were lost: the process that had gotten them died "
                   "before it called TaskDone"));
}

}  // namespace mp::ipc_internal
