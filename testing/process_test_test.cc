#include "mp/testing/process_test.h"

#include <fcntl.h>
#include <unistd.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/unique_fd.h"
#include "mp/testing/child.h"
#include "mp/testing/run_self.h"

namespace mp::testing {
namespace {

using ::mp::testing_internal::RunSelf;
using ::mp::testing_internal::SelfRun;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class LeakyTest : public ProcessTest {};

TEST_F(LeakyTest, DISABLED_LeavesADescriptorAndAnOrphan) {
  EXPECT_GE(open("/dev/null", O_RDONLY | O_CLOEXEC), 0);
  if (fork() == 0) {
    if (fork() == 0) pause();
    _exit(0);
  }
}

class ProcessTestTest : public ProcessTest {
 protected:
  void SetUp() override { fd_.reset(open("/dev/null", O_RDONLY | O_CLOEXEC)); }

  // Lives until after TearDown, as members of fixtures do.
  UniqueFd fd_;
  ChildProcess child_ = ChildProcess::Start([] { pause(); });
};

TEST_F(ProcessTestTest, MembersOfTheFixtureAreNotLeaks) {
  EXPECT_TRUE(fd_.valid());
  EXPECT_TRUE(child_.IsAlive());
}

TEST_F(ProcessTestTest, WhatIsLeftBehindFailsTheTest) {
  const SelfRun run =
      RunSelf("LeakyTest.DISABLED_LeavesADescriptorAndAnOrphan");
  EXPECT_EQ(run.status, ExitStatus::Code(1));
  EXPECT_THAT(
      run.output,
      AllOf(ContainsRegex("left behind by the test: new: descriptor .*null"),
            ContainsRegex("left behind by the test: new: process "),
            ContainsRegex("left behind by the test: new: zombie "),
            HasSubstr("[  FAILED  ] LeakyTest")));
}

TEST_F(ProcessTestTest, DeathTestsWork) {
  EXPECT_DEATH(_exit(1), "");
  EXPECT_EXIT(_exit(3), ::testing::ExitedWithCode(3), "");
}

TEST_F(ProcessTestTest, ThreadsafeDeathTestsWork) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(_exit(3), ::testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace mp::testing
