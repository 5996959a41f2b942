#include "mp/testing/watchdog.h"

#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/run_self.h"
#include "mp/testing/supervisor.h"

namespace mp::testing {
namespace {

using ::mp::testing_internal::Alarm;
using ::mp::testing_internal::RunSelf;
using ::mp::testing_internal::SelfRun;
using ::mp::testing_internal::SetAlarm;
using ::mp::testing_internal::SupervisorPid;
using ::testing::AllOf;
using ::testing::HasSubstr;

[[noreturn]] void SleepForEver() {
  while (true) pause();
}

// What SetAlarm was given last.
Alarm CurrentAlarm() {
  const Alarm current = SetAlarm({});
  SetAlarm(current);
  return current;
}

// The worst kind of hang: every signal is blocked, and there are a child and a
// grandchild, one of them stopped.
void Hang() {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, nullptr);
  auto child = ChildProcess::Start([] {
    auto below = ChildProcess::Start(SleepForEver);
    below.Stop();
    SleepForEver();
  });
  SleepForEver();
}

class HangTest : public ProcessTest {};

TEST_F(HangTest, DISABLED_WithWatchdog) {
  Watchdog watchdog("the hanging thing", absl::Milliseconds(300));
  Hang();
}

TEST_F(HangTest, DISABLED_WithTestTimeout) { Hang(); }

TEST(HangWithoutFixtureTest, DISABLED_WithTestTimeout) { Hang(); }

TEST_F(HangTest, DISABLED_ChildrenDoNotInheritIt) {
  auto child = ChildProcess::Start([] {
    {
      // Neither arming it nor letting it go does anything here.
      Watchdog watchdog("in a child", absl::ZeroDuration());
      absl::SleepFor(absl::Milliseconds(500));
    }
    EXPECT_EQ(SupervisorPid(), 0);
  });
  child.ExpectExit();
}

class WatchdogTest : public ProcessTest {};

TEST_F(WatchdogTest, IsArmedByTheFixtureAndNests) {
  ASSERT_NE(SupervisorPid(), 0);
  EXPECT_EQ(SupervisorPid(), getppid());
  const Alarm outer = CurrentAlarm();
  EXPECT_EQ(outer.what, "test WatchdogTest.IsArmedByTheFixtureAndNests");
  EXPECT_LT(outer.at_nanos, INT64_MAX);
  {
    const Watchdog shorter("shorter", absl::Seconds(30));
    EXPECT_EQ(CurrentAlarm().what, "shorter");
    EXPECT_LE(CurrentAlarm().at_nanos, outer.at_nanos);
    const int64_t inner = CurrentAlarm().at_nanos;
    {
      const Watchdog longer("longer", absl::Hours(1));
      EXPECT_EQ(CurrentAlarm().what, "longer");
      EXPECT_EQ(CurrentAlarm().at_nanos, inner) << "an inner one only shortens";
    }
    const Watchdog endless("endless", absl::InfiniteDuration());
    EXPECT_EQ(CurrentAlarm().at_nanos, inner);
  }
  EXPECT_EQ(CurrentAlarm().what, outer.what);
  EXPECT_EQ(CurrentAlarm().at_nanos, outer.at_nanos);
}

TEST_F(WatchdogTest, ExpiryPrintsAndKills) {
  const SelfRun run = RunSelf("HangTest.DISABLED_WithWatchdog");
  EXPECT_EQ(run.status, ExitStatus::Signal(SIGABRT));
  EXPECT_THAT(
      run.output,
      AllOf(HasSubstr("the hanging thing did not end in time"),
            HasSubstr("state S"), HasSubstr("state T"), HasSubstr("waits in")));
}

TEST_F(WatchdogTest, TestTimeoutBoundsTheFixture) {
  const SelfRun run = RunSelf("HangTest.DISABLED_WithTestTimeout", "2");
  EXPECT_EQ(run.status, ExitStatus::Signal(SIGABRT));
  EXPECT_THAT(run.output,
              HasSubstr("test HangTest.DISABLED_WithTestTimeout did not end"));
}

TEST_F(WatchdogTest, TestTimeoutBoundsTheBinary) {
  const SelfRun run =
      RunSelf("HangWithoutFixtureTest.DISABLED_WithTestTimeout", "2");
  EXPECT_EQ(run.status, ExitStatus::Signal(SIGABRT));
  EXPECT_THAT(run.output, HasSubstr("the test program did not end in time"));
}

TEST_F(WatchdogTest, ChildrenDoNotInheritIt) {
  const SelfRun run = RunSelf("HangTest.DISABLED_ChildrenDoNotInheritIt");
  EXPECT_EQ(run.status, ExitStatus::Code(0)) << run.output;
}

}  // namespace
}  // namespace mp::testing
