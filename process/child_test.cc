#include "mp/process/child.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/unique_fd.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::process_internal {
namespace {

using ::mp::testing::StatusIs;
using ::testing::Eq;
using ::testing::Optional;

class ChildTest : public mp::testing::ProcessTest {
 protected:
  template <typename Body>
  static pid_t Fork(Body body) {
    const pid_t pid = fork();
    if (pid == 0) {
      body();
      _exit(0);
    }
    return pid;
  }
};

TEST_F(ChildTest, ReportsTheExitCode) {
  const pid_t pid = Fork([] { _exit(7); });
  Child child(pid, OpenPidfd(pid));
  ASSERT_OK(WaitForEnd(child.pidfd(), Deadline::Infinite()));
  EXPECT_TRUE(child.HasEnded());
  EXPECT_THAT(child.Reap(), Optional(7));
  EXPECT_THAT(child.Reap(), Optional(7)) << "remembered";
  EXPECT_EQ(waitpid(pid, nullptr, 0), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(ChildTest, SignalsAndReportsThem) {
  const pid_t pid = Fork([] { pause(); });
  Child child(pid, OpenPidfd(pid));
  EXPECT_EQ(child.Reap(), std::nullopt);
  EXPECT_FALSE(child.HasEnded());
  EXPECT_THAT(WaitForEnd(child.pidfd(), Deadline::After(absl::Milliseconds(5))),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_OK(child.Signal(SIGUSR1));
  ASSERT_OK(WaitForEnd(child.pidfd(), Deadline::Infinite()));
  EXPECT_OK(child.Signal(SIGUSR1)) << "a zombie";
  EXPECT_THAT(child.Reap(), Optional(-SIGUSR1));
  EXPECT_OK(child.Signal(SIGUSR1)) << "gone";
}

TEST_F(ChildTest, SaysSoIfSomebodyElseReaped) {
  const pid_t pid = Fork([] { _exit(7); });
  Child child(pid, OpenPidfd(pid));
  ASSERT_EQ(waitpid(pid, nullptr, 0), pid);
  ASSERT_OK(WaitForEnd(child.pidfd(), Deadline::Infinite()));
  EXPECT_OK(child.Signal(SIGTERM));
  EXPECT_THAT(child.Reap(), Optional(kUnknownExitCode));
}

TEST_F(ChildTest, HasASentinelEvenIfReapedBeforeItsPidfd) {
  Child child(1234, UniqueFd());
  EXPECT_TRUE(child.HasEnded());
  ASSERT_OK(WaitForEnd(child.pidfd(), Deadline::Infinite()));
  EXPECT_THAT(child.Reap(), Optional(kUnknownExitCode));
}

TEST_F(ChildTest, ReapsNobodyElse) {
  const pid_t other = Fork([] { _exit(3); });
  const pid_t pid = Fork([] { _exit(7); });
  Child child(pid, OpenPidfd(pid));
  ASSERT_OK(WaitForEnd(child.pidfd(), Deadline::Infinite()));
  EXPECT_THAT(child.Reap(), Optional(7));
  int status = -1;
  ASSERT_EQ(waitpid(other, &status, 0), other);
  EXPECT_EQ(WEXITSTATUS(status), 3);
}

TEST_F(ChildTest, PidfdsStayClearOfClosedStandardStreams) {
  const pid_t pid = Fork([] {
    close(0);
    close(1);
    close(2);
    const UniqueFd pidfd = OpenPidfd(getpid());
    _exit(pidfd.get());
  });
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_GT(WEXITSTATUS(status), 2);
}

TEST_F(ChildTest, NoPidfdForNobody) {
  const pid_t pid = Fork([] {});
  ASSERT_EQ(waitpid(pid, nullptr, 0), pid);
  EXPECT_FALSE(OpenPidfd(pid));
  EXPECT_THAT(errno, Eq(ESRCH));
}

}  // namespace
}  // namespace mp::process_internal
