#include "mp/pool/pool_stats.h"

#include <sstream>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace mp {
namespace {

TEST(PoolStatsTest, ShareOfAWorkerThatIsNotReadyIsZero) {
  EXPECT_EQ(WorkerStats().busy_share(), 0);
}

TEST(PoolStatsTest, BusyIsWhatIsNotIdle) {
  const WorkerStats worker = {.alive = absl::Seconds(8),
                              .idle = absl::Seconds(6)};
  EXPECT_EQ(worker.busy(), absl::Seconds(2));
  EXPECT_EQ(worker.busy_share(), 0.25);
}

TEST(PoolStatsTest, PrintsALineForEachWorker) {
  std::ostringstream out;
  out << PoolStats{.waiting = 12,
                   .running = 1,
                   .workers = {{.name = "PoolWorker-1",
                                .pid = 4711,
                                .alive = absl::Milliseconds(1200),
                                .idle = absl::Milliseconds(300),
                                .tasks = 310},
                               {.name = "PoolWorker-2", .restarts = 2}}};
  EXPECT_EQ(
      out.str(),
      "2 workers, 12 tasks wait, 1 run\n"
      "  PoolWorker-1      pid 4711      1.2s  75.0% busy      310 tasks\n"
      "  PoolWorker-2        thread      0.0s   0.0% busy        0 tasks"
      "  2 restarts\n");
}

}  // namespace
}  // namespace mp
