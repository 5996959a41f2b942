#include "mp/testing/child.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest-spi.h"
#include "gtest/gtest.h"
#include "mp/testing/proc_info.h"
#include "mp/testing/process_test.h"
#include "mp/testing/run_self.h"
#include "mp/testing/shared_page.h"

namespace mp::testing {
namespace {

using ::mp::testing_internal::RunSelf;
using ::mp::testing_internal::SelfRun;
using ::testing::HasSubstr;

[[noreturn]] void SleepForEver() {
  while (true) pause();
}

class ChildTest : public ProcessTest {};

TEST_F(ChildTest, RunsInAnotherProcess) {
  const SharedPage<pid_t> pid;
  auto child = ChildProcess::Start([&] { *pid = getpid(); });
  child.ExpectExit(0);
  EXPECT_EQ(*pid, child.pid());
  EXPECT_NE(*pid, getpid());
}

TEST_F(ChildTest, ReturnsTheExitCode) {
  auto child = ChildProcess::Start([] { return 7; });
  EXPECT_EQ(child.Wait(), ExitStatus::Code(7));
  EXPECT_EQ(child.Wait(), ExitStatus::Code(7)) << "the second time too";
  EXPECT_FALSE(child.IsAlive());
  child.Kill();  // of somebody who has gone
}

TEST_F(ChildTest, ReturnsTheSignal) {
  auto child = ChildProcess::Start(SleepForEver);
  EXPECT_TRUE(child.IsAlive());
  child.Kill();
  child.ExpectSignal(SIGKILL);
}

TEST_F(ChildTest, WaitTimesOut) {
  auto child = ChildProcess::Start(SleepForEver);
  EXPECT_EQ(child.Wait(absl::ZeroDuration()), std::nullopt);
  EXPECT_EQ(child.Wait(absl::Milliseconds(5)), std::nullopt);
  child.Kill(SIGTERM);
  EXPECT_EQ(child.Wait(), ExitStatus::Signal(SIGTERM));
}

TEST_F(ChildTest, StopsAndContinues) {
  const SharedPage<std::atomic<int>> count;
  auto child = ChildProcess::Start([&] {
    while (true) ++*count;
  });
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(child.Stop());
    EXPECT_TRUE(child.IsAlive());
    const int standing = *count;
    EXPECT_EQ(ReadProcessInfo(child.pid())->state, 'T');
    absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(*count, standing);
    child.Continue();
    while (*count == standing) {
    }
  }
}

TEST_F(ChildTest, StopSeesThatTheChildHasEnded) {
  auto child = ChildProcess::Start([] { return 3; });
  while (child.IsAlive()) {
  }
  EXPECT_FALSE(child.Stop());
  child.ExpectExit(3);
}

TEST_F(ChildTest, WaitUntilAsleep) {
  const SharedPage<std::atomic<bool>> may_sleep;
  auto child = ChildProcess::Start([&] {
    while (!*may_sleep) {
    }
    SleepForEver();
  });
  *may_sleep = true;
  EXPECT_TRUE(child.WaitUntilAsleep());
  auto ended = ChildProcess::Start([] {});
  EXPECT_FALSE(ended.WaitUntilAsleep());
}

TEST_F(ChildTest, DestructorKillsAndReaps) {
  pid_t pid = 0;
  {
    auto child = ChildProcess::Start(SleepForEver);
    pid = child.pid();
    ASSERT_TRUE(child.Stop());
  }
  EXPECT_FALSE(ReadProcessInfo(pid).has_value());
}

TEST_F(ChildTest, Moves) {
  std::vector<ChildProcess> children;
  for (int i = 0; i < 5; ++i) {
    children.push_back(ChildProcess::Start([i] { return i; }));
  }
  for (int i = 0; i < 5; ++i) children[i].ExpectExit(i);
  children[0] = ChildProcess::Start(SleepForEver);
  children[1] = std::move(children[0]);
  EXPECT_TRUE(children[1].IsAlive());
}

TEST_F(ChildTest, InheritedObjectsDoNothingInTheChild) {
  auto child = ChildProcess::Start(SleepForEver);
  auto other =
      ChildProcess::Start([&] { ChildProcess mine(std::move(child)); });
  other.ExpectExit(0);
  EXPECT_TRUE(child.IsAlive());
}

TEST_F(ChildTest, FailedAssertionMakesTheExitCode) {
  auto child = ChildProcess::Start([] { EXPECT_EQ(1, 2) << "on purpose"; });
  child.ExpectExit(kChildFailedCode);
  auto fatal = ChildProcess::Start([]() -> void { ASSERT_TRUE(false); });
  fatal.ExpectExit(kChildFailedCode);
  // The code of the function itself does not hide it.
  auto both = ChildProcess::Start([] {
    ADD_FAILURE() << "on purpose";
    return 0;
  });
  both.ExpectExit(kChildFailedCode);
}

TEST_F(ChildTest, EscapedExceptionMakesTheExitCode) {
  auto child =
      ChildProcess::Start([] { throw std::runtime_error("on purpose"); });
  child.ExpectExit(kChildFailedCode);
  auto other = ChildProcess::Start([] { throw 5; });
  other.ExpectExit(kChildFailedCode);
}

TEST_F(ChildTest, ExpectationsFail) {
  static ChildProcess* child;  // the macro allows no local variables
  auto seven = ChildProcess::Start([] { return 7; });
  child = &seven;
  EXPECT_NONFATAL_FAILURE(child->ExpectExit(6), "exit code 7");
  EXPECT_NONFATAL_FAILURE(child->ExpectSignal(SIGKILL), "exit code 7");
}

TEST_F(ChildTest, ExitStatusPrints) {
  std::ostringstream text;
  text << ExitStatus::Code(4) << ", " << ExitStatus::Signal(SIGKILL);
  EXPECT_EQ(text.str(), "exit code 4, signal 9 (Killed)");
}

// Not a test of its own: what FailuresArePrinted runs.
TEST(ChildFailures, DISABLED_Print) {
  printf("before the fork ");
  ChildProcess::Start([] { EXPECT_EQ(1, 2) << "the first"; }).Wait();
  ChildProcess::Start([] { throw std::runtime_error("the second"); }).Wait();
  ChildProcess::Start([] { printf("the third"); }).Wait();
}

TEST_F(ChildTest, FailuresArePrinted) {
  const SelfRun run = RunSelf("ChildFailures.DISABLED_Print");
  EXPECT_EQ(run.status, ExitStatus::Code(0)) << run.output;
  EXPECT_THAT(run.output, HasSubstr("the first"));
  EXPECT_THAT(run.output, HasSubstr("child_test.cc"));
  EXPECT_THAT(run.output, HasSubstr("runtime_error"));
  EXPECT_THAT(run.output, HasSubstr(": the second"));
  EXPECT_THAT(run.output, HasSubstr("the third"));
  const size_t first = run.output.find("before the fork");
  EXPECT_NE(first, std::string::npos);
  EXPECT_EQ(run.output.find("before the fork", first + 1), std::string::npos)
      << "buffered output of the parent was printed by a child";
}

// Dies with a child that would never end.
TEST(ChildFailures, DISABLED_ParentDies) {
  auto child = ChildProcess::Start([] {
    printf("child is ready\n");
    fflush(stdout);
    SleepForEver();
  });
  SleepForEver();
}

TEST_F(ChildTest, DiesWithItsParent) {
  const SelfRun run =
      RunSelf("ChildFailures.DISABLED_ParentDies", "",
              [](pid_t pid, const std::string& output) {
                // The whole chain below must end, or the output would stay
                // open.
                if (output.find("child is ready") != std::string::npos) {
                  kill(pid, SIGKILL);
                }
              });
  EXPECT_EQ(run.status, ExitStatus::Signal(SIGKILL));
}

}  // namespace
}  // namespace mp::testing
