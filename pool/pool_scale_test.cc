// Many workers on few processors, and what they cost while they have nothing to
// do.

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
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

// How often a process's main thread has given up its processor to sleep. Not
// the time that it has had: a sanitizer's own threads take more than an idle
// worker.
int64_t Sleeps(pid_t pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/task/", pid, "/status"));
  for (std::string word; status >> word;) {
    int64_t count;
    if (word == "voluntary_ctxt_switches:" && status >> count) return count;
  }
  ADD_FAILURE() << "process " << pid << " has no count";
  return 0;
}

// What the threads of a process have had of the processors.
absl::Duration ProcessorTime(pid_t pid) {
  int64_t nanos = 0;
  for (const auto& thread : std::filesystem::directory_iterator(
           absl::StrCat("/proc/", pid, "/task"))) {
    int64_t each = 0;
    std::ifstream(thread.path() / "schedstat") >> each;
    nanos += each;
  }
  return absl::Nanoseconds(nanos);
}

TEST_F(PoolScaleTest, IdleWorkersCostNextToNothing) {
  constexpr int kWorkers = 64;
  Pool pool({.processes = kWorkers});
  EXPECT_THAT(pool.Map(Square, Numbers(1000), 1), IsOkAndHolds(Squares(1000)));
  // They sleep ever longer, up to a second.
  absl::SleepFor(absl::Seconds(2));
  std::vector<pid_t> pids = pool.pids();
  pids.push_back(getpid());
  std::map<pid_t, int64_t> sleeps_before;
  absl::Duration used;
  for (const pid_t pid : pids) {
    sleeps_before[pid] = Sleeps(pid);
    used -= ProcessorTime(pid);
  }
  const absl::Time begin = absl::Now();
  absl::SleepFor(absl::Seconds(4));
  int64_t most = 0;
  for (const pid_t pid : pids) {
    most = std::max(most, Sleeps(pid) - sleeps_before[pid]);
    used += ProcessorTime(pid);
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  const double share = absl::ToDoubleSeconds(used) / seconds;
  printf("%d idle workers use %.3f%% of a processor; each wakes %.1f times/s\n",
         kWorkers, 100 * share, static_cast<double>(most) / seconds);
  RecordProperty("percent", std::to_string(100 * share));
  // Once a second; a sleep whose slice ends is two sleeps if somebody has to be
  // waited for on the way.
  EXPECT_LE(static_cast<double>(most), 3 * seconds);
  // One that spins would use a whole one, or what 64 leave it.
  EXPECT_LT(share, mp::testing::kSanitized ? 0.5 : 0.1);
  EXPECT_THAT(pool.Map(Square, Numbers(1000), 1), IsOkAndHolds(Squares(1000)));
}

}  // namespace
}  // namespace mp
