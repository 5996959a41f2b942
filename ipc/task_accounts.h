// TaskAccounts: which process has taken how many items of a queue and not yet
// said that it is done with them. Internal to mp::JoinableQueue.
//
// An item is unfinished as long as it is in the queue or on somebody's account.
// It moves from the one to the other by the store that removes its record:
//
//   1. write down the intent: which account, and the record's number;
//   2. remove the record;
//   3. add one to the account's count, and note the number with it;
//   4. erase the intent.
//
// All that is under the ring's lock of consumers, so there is one intent. Who
// finds one that its writer did not erase sees by the ring's head whether step
// 2 has happened, and by the account whether step 3 has.

#ifndef MP_IPC_TASK_ACCOUNTS_H_
#define MP_IPC_TASK_ACCOUNTS_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mp/base/deadline.h"
#include "mp/ipc/ring.h"
#include "mp/shm/gate.h"
#include "mp/shm/handle.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/platform.h"

namespace mp::ipc_internal {

// A handle; copies mean the same accounts.
class TaskAccounts {
 public:
  // Processes that can have unfinished items at a time.
  static constexpr size_t kMaxAccounts = 1024;

  static absl::StatusOr<TaskAccounts> Create();

  // For the `use` of Ring::Get, as the last thing that it does: step 1 for
  // record `number`. ResourceExhausted if there is no account left. And for
  // `removed`, the steps 3 and 4.
  absl::Status BeginTake(uint32_t number);
  void EndTake();

  // This process is done with an item of that ring that it took.
  absl::Status Done(Ring& ring);

  // Waits until no item is unfinished. Aborted if some were lost with a process
  // that had taken them; a handle and its copies in a process report each loss
  // once.
  absl::Status Join(Ring& ring, Deadline deadline);

 private:
  friend struct mp::HandleAccess;

  // A count of 0 frees an account.
  struct Account {
    std::atomic<uint64_t> owner{kNoToken};
    // The count, and in the lower half the last record that was added.
    std::atomic<uint64_t> word{0};
  };
  struct State {
    BasicGate<KernelPlatform> done;
    std::atomic<uint64_t> lost{0};
    std::atomic<uint64_t> used{0};  // accounts from here on never were
    // 0, or a record's number and in the upper half 1 + the account's.
    std::atomic<uint64_t> intent{0};
    Account accounts[kMaxAccounts];
  };

  static constexpr uint64_t kOne = uint64_t{1} << 32;  // of a word's count

  explicit TaskAccounts(std::shared_ptr<State> state);
  auto parts() const { return std::tuple(state_); }

  size_t used() const {
    return std::min<uint64_t>(state_->used.load(std::memory_order_relaxed),
                              kMaxAccounts);
  }
  // This process's account; kMaxAccounts if it has none.
  size_t Own() const;
  // One for this process to have; kMaxAccounts if none is left.
  size_t NewAccount();
  // Does or drops what is left of an intent; `gotten` is the ring's.
  void Resolve(uint32_t gotten);
  // Counts what live processes have not finished, and writes off what the dead
  // have not.
  uint64_t Settle(uint32_t gotten);

  std::shared_ptr<State> state_;
  // The losses that this process knows of.
  std::shared_ptr<std::atomic<uint64_t>> reported_;
};

}  // namespace mp::ipc_internal

#endif  // MP_IPC_TASK_ACCOUNTS_H_
