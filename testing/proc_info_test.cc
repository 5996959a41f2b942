#include "mp/testing/proc_info.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"

namespace mp::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

[[noreturn]] void SleepForEver() {
  while (true) pause();
}

class ProcInfoTest : public ProcessTest {};

TEST_F(ProcInfoTest, KnowsThisProcess) {
  const std::optional<ProcessInfo> info = ReadProcessInfo(getpid());
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->pid, getpid());
  EXPECT_EQ(info->parent, getppid());
  EXPECT_EQ(info->state, 'R');
  EXPECT_GT(info->start_ticks, 0u);
}

TEST_F(ProcInfoTest, NamesMayContainAnything) {
  auto child = ChildProcess::Start([] {
    prctl(PR_SET_NAME, "a) R 1 (b");
    SleepForEver();
  });
  ASSERT_TRUE(child.WaitUntilAsleep());
  const std::optional<ProcessInfo> info = ReadProcessInfo(child.pid());
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->name, "a) R 1 (b");
  EXPECT_EQ(info->state, 'S');
  EXPECT_EQ(info->parent, getpid());
}

TEST_F(ProcInfoTest, NothingAboutProcessesThatAreNot) {
  auto child = ChildProcess::Start([] {});
  child.ExpectExit();
  EXPECT_EQ(ReadProcessInfo(child.pid()), std::nullopt);
  EXPECT_EQ(SleepingIn(child.pid()), "");
  EXPECT_THAT(Descendants(child.pid()), IsEmpty());
}

TEST_F(ProcInfoTest, FindsGrandchildrenAndZombies) {
  const SharedPage<std::atomic<pid_t>> grandchild;
  auto child = ChildProcess::Start([&] {
    auto below = ChildProcess::Start([] { return 0; });
    siginfo_t info;
    waitid(P_PID, static_cast<id_t>(below.pid()), &info, WEXITED | WNOWAIT);
    *grandchild = below.pid();
    SleepForEver();
  });
  while (*grandchild == 0) {
  }
  ASSERT_TRUE(child.WaitUntilAsleep());
  EXPECT_THAT(Descendants(getpid()),
              ElementsAre(AllOf(Field(&ProcessInfo::pid, child.pid()),
                                Field(&ProcessInfo::state, 'S')),
                          AllOf(Field(&ProcessInfo::pid, grandchild->load()),
                                Field(&ProcessInfo::parent, child.pid()),
                                Field(&ProcessInfo::state, 'Z'))));
  const std::string text = DescribeDescendants(getpid());
  EXPECT_THAT(text, HasSubstr(Describe(*ReadProcessInfo(child.pid()))));
  EXPECT_THAT(text, HasSubstr(Describe(*ReadProcessInfo(*grandchild))));
  EXPECT_THAT(text, HasSubstr("waits in"));
}

TEST_F(ProcInfoTest, SleepingInTellsSleepFromWork) {
  auto works = ChildProcess::Start([] {
    while (true) {
      asm volatile("");
    }
  });
  EXPECT_EQ(SleepingIn(works.pid()), "");
  auto sleeps = ChildProcess::Start([] { poll(nullptr, 0, -1); });
  ASSERT_TRUE(sleeps.WaitUntilAsleep());
  EXPECT_NE(SleepingIn(sleeps.pid()), "");
  ASSERT_TRUE(sleeps.Stop());
  EXPECT_EQ(SleepingIn(sleeps.pid()), "") << "stopped is not asleep";
}

TEST_F(ProcInfoTest, KillDescendantsLeavesNothing) {
  // In a child, because it kills every process below.
  auto child = ChildProcess::Start([] {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (int i = 0; i < 3; ++i) {
      if (fork() == 0) {
        // An orphan, and one that has a child of its own.
        if (fork() == 0) SleepForEver();
        if (i == 0) _exit(0);
        SleepForEver();
      }
    }
    KillDescendants();
    EXPECT_THAT(Descendants(getpid()), IsEmpty());
  });
  child.ExpectExit();
}

}  // namespace
}  // namespace mp::testing
