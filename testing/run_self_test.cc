#include "mp/testing/run_self.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"

namespace mp::testing_internal {
namespace {

using ::mp::testing::ExitStatus;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(RunSelfTestee, DISABLED_Prints) {
  printf("to standard output\n");
  fprintf(stderr, "to standard error\n");
  const char* const timeout = getenv("TEST_TIMEOUT");
  printf("timeout %s\n", timeout == nullptr ? "none" : timeout);
}

TEST(RunSelfTestee, DISABLED_Fails) { FAIL(); }

TEST(RunSelfTestee, DISABLED_WaitsToBeKilled) {
  printf("waiting\n");
  fflush(stdout);
  while (true) pause();
}

class RunSelfTest : public mp::testing::ProcessTest {};

TEST_F(RunSelfTest, ReturnsTheOutput) {
  const SelfRun run = RunSelf("RunSelfTestee.DISABLED_Prints");
  EXPECT_EQ(run.status, ExitStatus::Code(0));
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("to standard output"),
                    HasSubstr("to standard error"), HasSubstr("timeout none"),
                    HasSubstr("1 test from 1 test suite ran")));
  EXPECT_THAT(RunSelf("RunSelfTestee.DISABLED_Prints", "77").output,
              HasSubstr("timeout 77"));
}

TEST_F(RunSelfTest, ReturnsTheStatus) {
  EXPECT_EQ(RunSelf("RunSelfTestee.DISABLED_Fails").status,
            ExitStatus::Code(1));
}

TEST_F(RunSelfTest, TellsTheOutputSoFar) {
  const SelfRun run = RunSelf("RunSelfTestee.DISABLED_WaitsToBeKilled", "",
                              [](pid_t pid, const std::string& output) {
                                if (output.find("waiting") != std::string::npos)
                                  kill(pid, SIGTERM);
                              });
  EXPECT_EQ(run.status, ExitStatus::Signal(SIGTERM));
}

}  // namespace
}  // namespace mp::testing_internal
