#include "mp/pool/task_board.h"

#include <utility>

#include "mp/shm/slab.h"

namespace mp::pool_internal {

using ipc_internal::Ring;

namespace {

// To reserve all of it took longer than to start a worker.
constexpr size_t kReservedBytes = size_t{64} << 10;

}  // namespace

absl::StatusOr<TaskBoard> TaskBoard::Create(size_t task_capacity_bytes,
                                            size_t result_capacity_bytes) {
  absl::StatusOr<Ring> tasks =
      Ring::Create({.name = "pool-tasks",
                    .capacity_bytes = task_capacity_bytes,
                    .reserved_bytes = kReservedBytes});
  if (!tasks.ok()) return tasks.status();
  absl::StatusOr<Ring> results =
      Ring::Create({.name = "pool-results",
                    .capacity_bytes = result_capacity_bytes,
                    .reserved_bytes = kReservedBytes});
  if (!results.ok()) return results.status();
  absl::StatusOr<std::shared_ptr<Notices>> notices = MakeShared<Notices>();
  if (!notices.ok()) return notices.status();
  return TaskBoard{.tasks = *std::move(tasks),
                   .results = *std::move(results),
                   .notices = *std::move(notices),
                   .owner = Liveness::Self()};
}

}  // namespace mp::pool_internal
