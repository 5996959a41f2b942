// Many workers on few processors, and what they cost while they have nothing to
// do.

#include <dirent.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/pool/initializer.h"
#include "mp/pool/pool.h"
#include "mp/pool/pool_test_util.h"
#include "mp/sync/barrier.h"
#include "mp/testing/process_test.h"
#include "mp/testing/sanitizers.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::pool_internal::Numbers;
using ::mp::pool_internal::Square;
using ::mp::pool_internal::Squares;
using ::mp::testing::IsOk;
using ::mp::testing::IsOkAndHolds;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int kMany = mp::testing::kSanitized ? 40 : 200;

class PoolScaleTest : public mp::testing::ProcessTest {};

// CPython's test_large_pool.
TEST_F(PoolScaleTest, TwoHundredWorkersStartWorkAndFinish) {
  ::testing::internal::CaptureStderr();
  {
    // All work at the same time: none can go on before.
    const Barrier all(kMany);
    Pool pool({.processes = kMany,
               .initializer = Initializer([](Barrier b) { return b; }, all)});
    EXPECT_THAT(pool.pids(), SizeIs(kMany));
    const absl::StatusOr<std::vector<pid_t>> pids = pool.Map(
        [](int) -> absl::StatusOr<pid_t> {
          const absl::StatusOr<int> place = WorkerState<Barrier>().Wait();
          if (!place.ok()) return place.status();
          return getpid();
        },
        Numbers(kMany), 1);
    ASSERT_THAT(pids.status(), IsOk());
    EXPECT_THAT(std::set<pid_t>(pids->begin(), pids->end()), SizeIs(kMany));
    EXPECT_THAT(pool.Map(Square, Numbers(10'000), 1),
                IsOkAndHolds(Squares(10'000)));
    pool.Close();
    EXPECT_THAT(pool.Join(), IsOk());
    EXPECT_THAT(pool.pids(), IsEmpty());
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

// The time that a process has had a processor, with all its threads.
absl::Duration ProcessorTime(pid_t pid) {
  const std::string tasks = absl::StrCat("/proc/", pid, "/task");
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(tasks.c_str()),
                                                      &closedir);
  int64_t all = 0;
  while (const dirent* entry = readdir(directory.get())) {
    int64_t nanos = 0;
    if (std::ifstream(absl::StrCat(tasks, "/", entry->d_name, "/schedstat")) >>
        nanos) {
      all += nanos;
    }
  }
  return absl::Nanoseconds(all);
}

TEST_F(PoolScaleTest, IdleWorkersCostNextToNothing) {
  constexpr int kWorkers = 64;
  Pool pool({.processes = kWorkers});
  EXPECT_THAT(pool.Map(Square, Numbers(1000), 1), IsOkAndHolds(Squares(1000)));
  // They sleep ever longer, up to a quarter of a second.
  absl::SleepFor(absl::Seconds(1));
  const auto used = [&] {
    absl::Duration sum = ProcessorTime(getpid());
    for (const pid_t pid : pool.pids()) sum += ProcessorTime(pid);
    return sum;
  };
  const absl::Duration before = used();
  const absl::Time begin = absl::Now();
  absl::SleepFor(absl::Seconds(4));
  const double share = absl::FDivDuration(used() - before, absl::Now() - begin);
  printf("%d idle workers use %.3f%% of a processor\n", kWorkers, 100 * share);
  RecordProperty("percent", std::to_string(100 * share));
  // Several times what it is on a quiet machine, and a hundredth of what one
  // that spins would use.
  EXPECT_LT(share, mp::testing::kSanitized ? 0.1 : 0.02);
  EXPECT_THAT(pool.Map(Square, Numbers(1000), 1), IsOkAndHolds(Squares(1000)));
}

}  // namespace
}  // namespace mp
