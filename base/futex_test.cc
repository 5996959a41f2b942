#include "mp/base/futex.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::SharedPage;

class FutexTest : public mp::testing::ProcessTest {};

TEST_F(FutexTest, OtherValueDoesNotSleep) {
  const FutexWord word(1);
  EXPECT_TRUE(FutexWait(word, 0, Deadline::Infinite()));
}

TEST_F(FutexTest, TimesOutNotBeforeTheDeadline) {
  const FutexWord word(1);
  EXPECT_FALSE(FutexWait(word, 1, Deadline::Now()));
  const Deadline deadline = Deadline::After(absl::Milliseconds(10));
  // A signal may end a sleep early, but then the answer is not "timed out".
  while (FutexWait(word, 1, deadline)) {
  }
  EXPECT_TRUE(deadline.Expired());
}

TEST_F(FutexTest, WakeOfNobodyIsZero) {
  const FutexWord word(0);
  EXPECT_EQ(FutexWake(word, 1), 0);
  EXPECT_EQ(FutexWake(word, kWakeAll), 0);
}

TEST_F(FutexTest, WakesAnotherProcess) {
  const SharedPage<FutexWord> word(0u);
  auto child = ChildProcess::Start(
      [&] { return FutexWait(*word, 0, Deadline::Infinite()) ? 0 : 1; });
  ASSERT_TRUE(child.WaitUntilAsleep());
  EXPECT_EQ(FutexWake(*word, 1), 1);
  child.ExpectExit(0);
}

TEST_F(FutexTest, WorksAtDifferentAddresses) {
  // The kernel finds sleepers by page, not by address.
  const int fd = memfd_create("mp:futex_test", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(ftruncate(fd, 4096), 0);
  const auto map = [fd] {
    return static_cast<FutexWord*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  };
  FutexWord* const first = map();
  FutexWord* const second = map();
  ASSERT_NE(first, second);
  auto child =
      ChildProcess::Start([&] { FutexWait(*second, 0, Deadline::Infinite()); });
  ASSERT_TRUE(child.WaitUntilAsleep());
  EXPECT_EQ(FutexWake(*first, 1), 1);
  child.ExpectExit(0);
  munmap(first, 4096);
  munmap(second, 4096);
  close(fd);
}

TEST_F(FutexTest, WakesAsManyAsAsked) {
  const SharedPage<FutexWord> word(0u);
  std::vector<ChildProcess> children;
  for (int i = 0; i < 5; ++i) {
    children.push_back(ChildProcess::Start(
        [&] { FutexWait(*word, 0, Deadline::Infinite()); }));
    ASSERT_TRUE(children.back().WaitUntilAsleep());
  }
  EXPECT_EQ(FutexWake(*word, 2), 2);
  EXPECT_EQ(FutexWake(*word, kWakeAll), 3);
  for (ChildProcess& child : children) child.ExpectExit(0);
}

TEST_F(FutexTest, NoWakeIsLostBetweenLookAndSleep) {
  // Two processes hand a number to and fro; a lost wake-up would hang them.
  const SharedPage<FutexWord> word(0u);
  constexpr uint32_t kRounds = 5000;
  const auto play = [&](uint32_t parity) {
    while (true) {
      const uint32_t now = word->load();
      if (now >= kRounds) return;
      if (now % 2 == parity) {
        word->store(now + 1);
        FutexWake(*word, 1);
      } else {
        FutexWait(*word, now, Deadline::Infinite());
      }
    }
  };
  auto child = ChildProcess::Start([&] { play(1); });
  play(0);
  child.ExpectExit(0);
  EXPECT_EQ(word->load(), kRounds);
}

// With futex_waitv, and with the fallback of kernels that lack it.
class FutexWaitAnyTest : public FutexTest,
                         public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    SetFutexWaitvForTest(GetParam());
    if (GetParam() && !HaveFutexWaitv()) {
      GTEST_SKIP() << "this kernel has no futex_waitv";
    }
    EXPECT_EQ(HaveFutexWaitv(), GetParam());
  }
  void TearDown() override { SetFutexWaitvForTest(true); }

  bool WaitAny(Deadline deadline) const {
    const FutexExpectation zeros[] = {
        {&(*words_)[0], 0}, {&(*words_)[1], 0}, {&(*words_)[2], 0}};
    return FutexWaitAny(zeros, deadline);
  }

  using Words = std::array<FutexWord, 3>;
  const SharedPage<Words> words_;
};

TEST_P(FutexWaitAnyTest, OtherValueOfTheFirstDoesNotSleep) {
  (*words_)[0] = 5;
  EXPECT_TRUE(WaitAny(Deadline::Infinite()));
}

TEST_P(FutexWaitAnyTest, TimesOutNotBeforeTheDeadline) {
  EXPECT_FALSE(WaitAny(Deadline::Now()));
  const Deadline deadline = Deadline::After(absl::Milliseconds(10));
  while (WaitAny(deadline)) {
  }
  EXPECT_TRUE(deadline.Expired());
}

TEST_P(FutexWaitAnyTest, WakeOfTheFirst) {
  auto child = ChildProcess::Start(
      [&] { return WaitAny(Deadline::Infinite()) ? 0 : 1; });
  ASSERT_TRUE(child.WaitUntilAsleep());
  EXPECT_EQ(FutexWake((*words_)[0], 1), 1);
  child.ExpectExit(0);
}

TEST_P(FutexWaitAnyTest, OtherWordsCountOnlyWithWaitv) {
  for (size_t other = 1; other < words_->size(); ++other) {
    FutexWord& word = (*words_)[other];
    // Its value.
    word = 1;
    EXPECT_EQ(WaitAny(Deadline::After(absl::Milliseconds(1))), GetParam());
    word = 0;
    // Its wake-up.
    auto child = ChildProcess::Start([&] { WaitAny(Deadline::Infinite()); });
    ASSERT_TRUE(child.WaitUntilAsleep());
    EXPECT_EQ(FutexWake(word, 1), GetParam() ? 1 : 0);
    if (!GetParam()) FutexWake((*words_)[0], 1);
    child.ExpectExit(0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, FutexWaitAnyTest, ::testing::Bool(),
                         [](const auto& which) {
                           return which.param ? "Waitv" : "Fallback";
                         });

TEST_F(FutexTest, DeathOfASleeperWakesNobodyAndDoesNotCount) {
  const SharedPage<FutexWord> word(0u);
  auto dies =
      ChildProcess::Start([&] { FutexWait(*word, 0, Deadline::Infinite()); });
  auto stays =
      ChildProcess::Start([&] { FutexWait(*word, 0, Deadline::Infinite()); });
  ASSERT_TRUE(dies.WaitUntilAsleep());
  ASSERT_TRUE(stays.WaitUntilAsleep());
  dies.Kill();
  dies.ExpectSignal(SIGKILL);
  EXPECT_TRUE(stays.IsAlive());
  EXPECT_EQ(FutexWake(*word, kWakeAll), 1);
  stays.ExpectExit(0);
}

class FutexDeathTest : public FutexTest {};

TEST_F(FutexDeathTest, BadAddressIsMisuse) {
  const auto* const nowhere = reinterpret_cast<const FutexWord*>(4096);
  EXPECT_DEATH(FutexWait(*nowhere, 0, Deadline::Now()), "EFAULT");
  EXPECT_DEATH(FutexWake(*nowhere, 1), "EFAULT");
}

}  // namespace
}  // namespace mp
