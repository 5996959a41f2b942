#include "mp/testing/storm.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest-spi.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/futex.h"
#include "mp/testing/child.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/process_test.h"
#include "mp/testing/run_self.h"
#include "mp/testing/shared_page.h"

namespace mp::testing {
namespace {

using ::mp::testing_internal::RunSelf;
using ::mp::testing_internal::SelfRun;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

void Work() {
  for (int i = 0; i < 1000; ++i) asm volatile("");
}

StormOptions Short(int kills) {
  return {.kills = kills,
          .max_interval = absl::Microseconds(500),
          .stall_limit = absl::Milliseconds(200)};
}

// The fixture's leak check also shows that a storm leaves no process.
class StormTest : public ProcessTest {};

TEST_F(StormTest, KillsAndReplacesInEachRole) {
  const SharedPage<std::atomic<int>> generations;
  std::map<std::string, int> deaths;
  std::set<pid_t> dead;
  Storm storm(Short(200));
  storm.AddRole("hammer", 2, [&](StormWorker& self) {
    int seen = *generations;
    while (self.generation() > seen &&
           !generations->compare_exchange_weak(seen, self.generation())) {
    }
    EXPECT_LT(self.number(), 2);
    Work();
  });
  storm.AddRole("anvil", 1, [](StormWorker& self) {
    EXPECT_EQ(self.number(), 2);
    Work();
  });
  storm.OnKill([&](const StormKill& kill) {
    ++deaths[kill.role];
    dead.insert(kill.pid);
    EXPECT_EQ(kill.role, kill.number == 2 ? "anvil" : "hammer");
    EXPECT_FALSE(ReadProcessInfo(kill.pid).has_value()) << "was reaped";
  });
  const StormReport report = storm.Run();
  EXPECT_EQ(report.kills, 200);
  EXPECT_GT(report.progress, 0u);
  EXPECT_NE(report.seed, 0u);
  EXPECT_THAT(deaths, SizeIs(2));
  EXPECT_EQ(deaths["hammer"] + deaths["anvil"], 200);
  EXPECT_THAT(dead, SizeIs(::testing::Gt(100u)));
  EXPECT_GT(*generations, 10);
}

TEST_F(StormTest, SeedDecides) {
  const auto victims = [](uint64_t seed) {
    StormOptions options = Short(30);
    options.seed = seed;
    // Nobody may be spared for being slow.
    options.max_interval = absl::ZeroDuration();
    std::string numbers;
    Storm storm(options);
    storm.AddRole("worker", 5, [](StormWorker&) { Work(); });
    storm.OnKill([&](const StormKill& kill) {
      numbers += static_cast<char>('0' + kill.number);
    });
    EXPECT_EQ(storm.Run().seed, seed);
    return numbers;
  };
  EXPECT_NE(victims(1), victims(2));
}

TEST_F(StormTest, SeedFromTheEnvironment) {
  auto child = ChildProcess::Start([] {
    setenv("MP_STORM_SEED", "12345", 1);
    Storm storm(Short(1));
    storm.AddRole("worker", 1, [](StormWorker&) { Work(); });
    EXPECT_EQ(storm.Run().seed, 12345u);
  });
  child.ExpectExit();
}

TEST_F(StormTest, StopsWorkersThatSleep) {
  const SharedPage<FutexWord> closed;
  const SharedPage<std::atomic<int>> finished;
  Storm storm(Short(5));
  storm.AddRole("sleeper", 2, [&](StormWorker& self) {
    while (*closed == 0) {
      self.Progress();
      FutexWait(*closed, 0, Deadline::After(absl::Milliseconds(20)));
    }
    EXPECT_TRUE(self.stopping());
    ++*finished;
  });
  storm.OnStop([&] {
    *closed = 1;
    FutexWake(*closed, kWakeAll);
  });
  storm.Run();
  EXPECT_EQ(*finished, 2);
}

TEST_F(StormTest, DISABLED_FindsAStrandedSleeper) {
  // A lock whose holder's death nobody notices.
  const SharedPage<FutexWord> lock;
  Storm storm(Short(100'000));
  storm.AddRole("locker", 3, [&](StormWorker&) {
    uint32_t free = 0;
    while (!lock->compare_exchange_weak(free, 1)) {
      FutexWait(*lock, 1, Deadline::Infinite());
      free = 0;
    }
    for (int i = 0; i < 100; ++i) Work();
    *lock = 0;
    FutexWake(*lock, 1);
  });
  storm.Run();
}

TEST_F(StormTest, FindsAStrandedSleeper) {
  const SelfRun run = RunSelf("StormTest.DISABLED_FindsAStrandedSleeper");
  EXPECT_EQ(run.status, ExitStatus::Code(1));
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("storm with seed "), HasSubstr("locker (worker "),
                    HasSubstr("is stranded: no progress for 200ms"),
                    HasSubstr("waits in")));
}

TEST_F(StormTest, FindsWorkersThatEnd) {
  EXPECT_NONFATAL_FAILURE(
      {
        Storm storm(Short(100'000));
        storm.AddRole("quitter", 1, [](StormWorker&) { _exit(3); });
        storm.Run();
      },
      "ended by itself: exit code 3");
  EXPECT_NONFATAL_FAILURE(
      {
        Storm storm(Short(100'000));
        storm.AddRole("crasher", 1, [](StormWorker&) { raise(SIGSEGV); });
        storm.Run();
      },
      "crasher (worker 0, pid ");
}

TEST_F(StormTest, DISABLED_FindsWorkersThatFail) {
  Storm storm(Short(100'000));
  storm.AddRole("loser", 1, [](StormWorker&) { ADD_FAILURE() << "lost"; });
  storm.Run();
}

TEST_F(StormTest, FindsWorkersThatFail) {
  const SelfRun run = RunSelf("StormTest.DISABLED_FindsWorkersThatFail");
  EXPECT_EQ(run.status, ExitStatus::Code(1));
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("lost"), HasSubstr("loser (worker 0, pid "),
                    HasSubstr("ended by itself: exit code 99")));
}

TEST_F(StormTest, FindsWorkersThatDoNotStop) {
  EXPECT_NONFATAL_FAILURE(
      {
        Storm storm(Short(2));
        storm.AddRole("deaf", 1, [](StormWorker& self) {
          self.Progress();
          while (self.stopping()) pause();
        });
        storm.AddRole("deafer", 1, [](StormWorker& self) {
          while (!self.stopping()) self.Progress();
          while (true) pause();
        });
        storm.OnStop([] {});
        storm.Run();
      },
      "does not stop");
}

TEST_F(StormTest, DISABLED_FailedCheckEndsIt) {
  Storm storm(Short(100'000));
  storm.AddRole("worker", 1, [](StormWorker&) { Work(); });
  storm.OnKill([](const StormKill&) { EXPECT_TRUE(false) << "on purpose"; });
  EXPECT_EQ(storm.Run().kills, 1);
}

TEST_F(StormTest, FailedCheckEndsIt) {
  const SelfRun run = RunSelf("StormTest.DISABLED_FailedCheckEndsIt");
  EXPECT_EQ(run.status, ExitStatus::Code(1));
  EXPECT_THAT(run.output, HasSubstr("check failed after the death of worker"));
  EXPECT_THAT(run.output, HasSubstr("after 1 kills"));
}

}  // namespace
}  // namespace mp::testing
