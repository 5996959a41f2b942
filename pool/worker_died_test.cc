#include "mp/pool/worker_died.h"

#include <signal.h>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace mp {
namespace {

TEST(WorkerDiedTest, SaysWhoAndHow) {
  const absl::Status killed =
      pool_internal::WorkerDiedError("PoolWorker-3", 4711, -SIGKILL);
  EXPECT_EQ(killed.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(killed.message(),
            "worker died: PoolWorker-3 (pid 4711) was killed by SIGKILL while "
            "it ran this task");
  EXPECT_EQ(pool_internal::WorkerDiedError("w", 1, 3).message(),
            "worker died: w (pid 1) exited with code 3 while it ran this task");
  EXPECT_EQ(pool_internal::WorkerDiedError("w", 1, -SIGRTMAX).message(),
            "worker died: w (pid 1) was killed by signal 64 while it ran this "
            "task");
}

TEST(WorkerDiedTest, IsToldFromOtherErrors) {
  EXPECT_TRUE(IsWorkerDied(pool_internal::WorkerDiedError("w", 1, -SIGSEGV)));
  EXPECT_FALSE(IsWorkerDied(absl::OkStatus()));
  EXPECT_FALSE(IsWorkerDied(absl::AbortedError("a task's own")));
}

}  // namespace
}  // namespace mp
