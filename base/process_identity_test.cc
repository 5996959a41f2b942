#include "mp/base/process_identity.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;

constexpr int64_t kNanosPerSecond = 1'000'000'000;

int64_t BoottimeNanos() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return now.tv_sec * kNanosPerSecond + now.tv_nsec;
}

class ProcessIdentityTest : public mp::testing::ProcessTest {
 protected:
  // Starts `child_`, which tells its identity and sleeps.
  void StartSleeper() {
    child_ = ChildProcess::Start([this] {
      *identity_ = SelfIdentity();
      while (true) pause();
    });
    ASSERT_TRUE(child_.WaitUntilAsleep());
  }

  const SharedPage<ProcessIdentity> identity_;
  ChildProcess child_ = ChildProcess::Start([] {});
};

TEST_F(ProcessIdentityTest, SelfIsThisProcessNow) {
  const int64_t before = BoottimeNanos();
  const ProcessIdentity self = SelfIdentity();
  EXPECT_EQ(self.pid, getpid());
  EXPECT_GE(self.alive_at_nanos, before);
  EXPECT_LE(self.alive_at_nanos, BoottimeNanos());
  EXPECT_FALSE(IsProvablyDead(self));
}

TEST_F(ProcessIdentityTest, LivingChildIsNotDead) {
  StartSleeper();
  EXPECT_EQ(identity_->pid, child_.pid());
  EXPECT_FALSE(IsProvablyDead(*identity_));
}

TEST_F(ProcessIdentityTest, ParentSeenFromTheChildIsNotDead) {
  const ProcessIdentity parent = SelfIdentity();
  auto child =
      ChildProcess::Start([&] { return IsProvablyDead(parent) ? 1 : 0; });
  child.ExpectExit(0);
}

TEST_F(ProcessIdentityTest, StoppedChildIsNotDead) {
  StartSleeper();
  ASSERT_TRUE(child_.Stop());
  EXPECT_FALSE(IsProvablyDead(*identity_));
  child_.Continue();
  EXPECT_FALSE(IsProvablyDead(*identity_));
}

TEST_F(ProcessIdentityTest, ZombieIsDead) {
  StartSleeper();
  child_.Kill();
  siginfo_t info;
  ASSERT_EQ(
      waitid(P_PID, static_cast<id_t>(child_.pid()), &info, WEXITED | WNOWAIT),
      0);
  EXPECT_TRUE(IsProvablyDead(*identity_));
}

TEST_F(ProcessIdentityTest, ReapedChildIsDead) {
  StartSleeper();
  child_.Kill();
  child_.ExpectSignal(SIGKILL);
  EXPECT_TRUE(IsProvablyDead(*identity_));
}

TEST_F(ProcessIdentityTest, YoungerProcessWithThePidIsAnother) {
  StartSleeper();
  // As if the pid had belonged to a process of an hour ago, then to the child.
  ProcessIdentity older = *identity_;
  older.alive_at_nanos -= 3600 * kNanosPerSecond;
  EXPECT_TRUE(IsProvablyDead(older));
  // The moment of the child's start itself is not before it.
  EXPECT_FALSE(IsProvablyDead(*identity_));
}

TEST_F(ProcessIdentityTest, OlderProcessIsTheSameHoweverLongItLives) {
  StartSleeper();
  ProcessIdentity later = *identity_;
  later.alive_at_nanos += 3600 * kNanosPerSecond;
  EXPECT_FALSE(IsProvablyDead(later));
}

TEST_F(ProcessIdentityTest, WorksWithoutFreeDescriptors) {
  StartSleeper();
  const ProcessIdentity sleeper = *identity_;
  ProcessIdentity reaped;
  {
    auto child = ChildProcess::Start([this] { *identity_ = SelfIdentity(); });
    child.ExpectExit(0);
    reaped = *identity_;
  }
  auto child = ChildProcess::Start([&] {
    const rlimit none = {0, 0};
    if (setrlimit(RLIMIT_NOFILE, &none) != 0) return 2;
    // No evidence, no death; but a pid that nobody has needs no descriptor.
    return !IsProvablyDead(sleeper) && IsProvablyDead(reaped) ? 0 : 1;
  });
  child.ExpectExit(0);
}

}  // namespace
}  // namespace mp
