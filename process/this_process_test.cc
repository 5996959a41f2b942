#include "mp/process/this_process.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp::process_internal {
namespace {

using ::mp::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::SizeIs;

class ThisProcessTest : public mp::testing::ProcessTest {
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

  // A child in the list, as Process::Start leaves it.
  template <typename Body>
  static std::shared_ptr<Record> AddChild(Body body, bool daemon = false) {
    auto record = std::make_shared<Record>();
    record->creator = &ThisProcess::Get();
    record->identity.daemon = daemon;
    const pid_t pid = Fork(body);
    record->child.emplace(pid, OpenPidfd(pid));
    ThisProcess::Get().Add(record);
    return record;
  }
};

TEST_F(ThisProcessTest, IsTheSameObjectEachTime) {
  ThisProcess& self = ThisProcess::Get();
  EXPECT_EQ(&self, &ThisProcess::Get());
  EXPECT_EQ(self.identity().name, "MainProcess");
  EXPECT_FALSE(self.identity().daemon);
  EXPECT_FALSE(self.IsChild());
}

TEST_F(ThisProcessTest, CountsWhatItCreates) {
  ThisProcess& self = ThisProcess::Get();
  const int first = std::stoi(self.NextPath());
  EXPECT_EQ(self.NextPath(), std::to_string(first + 1));

  auto record = std::make_shared<Record>();
  record->creator = &self;
  record->identity.path = "4:2";
  ThisProcess child(record);
  EXPECT_EQ(child.NextPath(), "4:2:1");
  EXPECT_EQ(child.NextPath(), "4:2:2");
}

TEST_F(ThisProcessTest, ForgetsAChildWhenItIsReaped) {
  auto running = AddChild([] { pause(); });
  auto ended = AddChild([] { _exit(5); });
  ASSERT_OK(ThisProcess::Get().Join(*ended, Deadline::Infinite()));
  EXPECT_THAT(ThisProcess::Get().Look(*ended), Optional(5));
  EXPECT_THAT(ThisProcess::Get().LiveChildren(), ElementsAre(running));
  EXPECT_EQ(ThisProcess::Get().Look(*running), std::nullopt);
  EXPECT_THAT(ThisProcess::Get().Join(*running, Deadline::Now()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_OK(running->child->Signal(SIGKILL));
  ASSERT_OK(ThisProcess::Get().Join(*running, Deadline::Infinite()));
  EXPECT_THAT(ThisProcess::Get().LiveChildren(), IsEmpty());
}

TEST_F(ThisProcessTest, AdditionsReapWhatNobodyJoins) {
  constexpr int kChildren = 100;
  for (int i = 0; i < kChildren; ++i) {
    auto record = AddChild([] {});
    // Ended, so that what is left over is not a matter of timing.
    ASSERT_OK(WaitForEnd(record->child->pidfd(), Deadline::Infinite()));
  }
  int zombies = 0;
  siginfo_t info;
  while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0) ++zombies;
  EXPECT_LE(zombies, 16);
  EXPECT_THAT(ThisProcess::Get().LiveChildren(), IsEmpty());
}

TEST_F(ThisProcessTest, EndsItsChildren) {
  auto daemonic = AddChild([] { pause(); }, /*daemon=*/true);
  auto other = AddChild([] { absl::SleepFor(absl::Milliseconds(20)); });
  ThisProcess::Get().EndChildren();
  EXPECT_THAT(ThisProcess::Get().LiveChildren(), IsEmpty());
  EXPECT_THAT(daemonic->child->Reap(), Optional(-SIGTERM));
  EXPECT_THAT(other->child->Reap(), Optional(0));
}

TEST_F(ThisProcessTest, AForkByOtherMeansStartsWithoutChildren) {
  auto sibling = AddChild([] { pause(); });
  const ThisProcess* before = &ThisProcess::Get();
  const pid_t pid = Fork([before] {
    ThisProcess& self = ThisProcess::Get();
    const bool fresh = &self != before &&
                       self.identity().name == "MainProcess" &&
                       self.LiveChildren().empty();
    self.EndChildren();  // must not end the sibling
    _exit(fresh ? 0 : 1);
  });
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  EXPECT_THAT(ThisProcess::Get().LiveChildren(), SizeIs(1));
  EXPECT_OK(sibling->child->Signal(SIGKILL));
  EXPECT_OK(ThisProcess::Get().Join(*sibling, Deadline::Infinite()));
}

}  // namespace
}  // namespace mp::process_internal
