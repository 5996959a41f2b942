#include "mp/testing/supervisor.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/run_self.h"

namespace mp::testing {
namespace {

using ::mp::testing_internal::RunSelf;
using ::mp::testing_internal::SelfRun;
using ::mp::testing_internal::SupervisorPid;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

[[noreturn]] void SleepForEver() {
  while (true) pause();
}

class OrphanTest : public ::testing::Test {};

TEST_F(OrphanTest, DISABLED_LeavesAnOrphan) {
  if (fork() == 0) {
    if (fork() == 0) SleepForEver();
    _exit(0);
  }
}

TEST_F(OrphanTest, DISABLED_DiesBySignal) {
  printf("tests run in %d\n", getpid());
  fflush(stdout);
  raise(SIGKILL);
}

TEST_F(OrphanTest, DISABLED_Fails) { FAIL(); }

TEST_F(OrphanTest, DISABLED_WaitsForASignal) {
  auto child = ChildProcess::Start([] {
    signal(SIGTERM, SIG_IGN);
    printf("ready\n");
    fflush(stdout);
    SleepForEver();
  });
  SleepForEver();
}

class SupervisorTest : public ProcessTest {};

TEST_F(SupervisorTest, IsTheParentOfTheTestsOnly) {
  EXPECT_EQ(SupervisorPid(), getppid());
  auto child = ChildProcess::Start([] { EXPECT_EQ(SupervisorPid(), 0); });
  child.ExpectExit();
}

TEST_F(SupervisorTest, EndsAsTheTestsDid) {
  EXPECT_EQ(RunSelf("OrphanTest.DISABLED_Fails").status, ExitStatus::Code(1));
  const SelfRun run = RunSelf("OrphanTest.DISABLED_DiesBySignal");
  EXPECT_EQ(run.status, ExitStatus::Signal(SIGKILL));
  EXPECT_THAT(run.output, HasSubstr("tests run in"));
}

TEST_F(SupervisorTest, FindsWhatTheLastTestLeft) {
  const SelfRun run = RunSelf("OrphanTest.DISABLED_LeavesAnOrphan");
  EXPECT_EQ(run.status, ExitStatus::Code(1));
  EXPECT_THAT(run.output, AllOf(HasSubstr("PASSED"), Not(HasSubstr("FAILED")),
                                HasSubstr("left behind by the tests")));
}

TEST_F(SupervisorTest, TakesEverythingAlongWhenToldToEnd) {
  for (const int signal : {SIGTERM, SIGKILL}) {
    const SelfRun run = RunSelf("OrphanTest.DISABLED_WaitsForASignal", "",
                                [signal](pid_t pid, const std::string& output) {
                                  if (output.find("ready") != std::string::npos)
                                    kill(pid, signal);
                                });
    EXPECT_EQ(run.status, ExitStatus::Signal(signal));
  }
}

}  // namespace
}  // namespace mp::testing
